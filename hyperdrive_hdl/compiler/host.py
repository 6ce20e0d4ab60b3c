"""What runs on the host: float32 operators, by onnx's reference evaluator, one image at a time."""

import numpy as np
import onnx

from ..errors import ModelError
from .ir import HostStage, Network
from .operators import evaluator, quiet


class HostRunner:
    """An ONNX model made ready once and run for any number of images.

    Parameters
    ----------
    model : a model for one image (batch axis 1), as the passes make them

    Raises
    ------
    ModelError : an operator of the model is not known to the evaluator
    """

    def __init__(self, model: onnx.ModelProto):
        self._name = model.graph.name
        self._outputs = [value.name for value in model.graph.output]
        try:
            self._evaluator = evaluator(model)
        except Exception as error:  # onnx raises many kinds
            raise ModelError(f"{self._name}: cannot run on the host: {_one_line(error)}") from None

    def run(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name from inputs by name, float32 arrays with a batch axis of 1. Never warns.

        Raises
        ------
        ModelError : an operator fails on these values
        """
        try:
            with quiet():
                results = self._evaluator.run(None, values)
        except Exception as error:  # whatever numpy or onnx make of the operator
            raise ModelError(f"{self._name}: failed on the host: {_one_line(error)}") from None
        return dict(zip(self._outputs, map(np.asarray, results), strict=True))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def run_host_stage(stage: HostStage, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One image through one stage; ``values`` may hold more than the stage's inputs."""
    return HostRunner(stage.model).run({name: values[name] for name in stage.inputs})


def run_float(network: Network, images: np.ndarray) -> np.ndarray:
    """The whole network in float32, as trained, image by image: (N, C, H, W) to (N, ...)."""
    if network.float_model is None:
        raise ValueError(f"network {network.name!r} was made without its float model")
    check_images(network, images)
    runner = HostRunner(network.float_model)
    return stack([runner.run({network.input: image[None]})[network.output] for image in images])


def check_images(network: Network, images: np.ndarray) -> None:
    """Raises ``ModelError`` unless ``images`` are float32 (N, C, H, W) as the network takes them."""
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != network.input_shape:
        wanted = ", ".join(map(str, network.input_shape))
        raise ModelError(
            f"input {network.input!r} of network {network.name!r} must be float32 of shape (N, {wanted}), "
            f"not {images.dtype} of shape {images.shape}"
        )
    if not len(images):
        raise ModelError(f"input {network.input!r} of network {network.name!r} holds no image")


def stack(results: list[np.ndarray]) -> np.ndarray:
    """Results of single images as one float32 batch."""
    batched = all(result.ndim and result.shape[0] == 1 for result in results)
    return (np.concatenate if batched else np.stack)(results).astype(np.float32)
