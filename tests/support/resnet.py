"""Residual networks' bodies as chip stages, without ONNX: the package's builder, for the tests."""

from hyperdrive_hdl.perf.networks import BLOCKS, random_conv, residual_stage, resnet

__all__ = ["BLOCKS", "random_conv", "residual_stage", "resnet"]
