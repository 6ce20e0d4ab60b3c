"""The demo's trained network and its held-out images. README.md here says where they come from."""

from importlib import resources
from pathlib import Path

import numpy as np


def digits_model() -> Path:
    """Path of ``digits.onnx``: input ``image`` (N, 1, 8, 8), output ``logits`` (N, 10), both float32."""
    return Path(str(resources.files(__name__) / "digits.onnx"))


def digits_images() -> tuple[np.ndarray, np.ndarray]:
    """The images that the network was not trained on, in a random order fixed once.

    Returns
    -------
    images : float32 (n, 1, 8, 8), from 0 for paper to 1 for ink, as the network expects them
    labels : int64 (n,), the digits 0 to 9
    """
    with (resources.files(__name__) / "digits_test.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["x"], arrays["y"]
