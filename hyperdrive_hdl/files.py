"""What a user gives and gets as files: images in, results out, never half written."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .config import ChipConfig, MeshConfig
from .errors import UserError

NPY_MAGIC = b"\x93NUMPY"


def read_images(path: str | Path, shape: tuple[int, ...]) -> np.ndarray:
    """Images of a .npy file, float32 (N, *shape), all finite.

    Parameters
    ----------
    shape : (channels, height, width) that the network takes

    Raises
    ------
    UserError : the file is missing, no .npy file or holds something else; the message says what to change
    """
    path = Path(path)
    images = _load(path)
    wanted = f"(N, {', '.join(map(str, shape))})"
    if images.dtype != np.float32:
        remedy = "convert it with numpy: images.astype(numpy.float32)"
        raise UserError(f"{path}: the array is {images.dtype}, it must be float32; {remedy}")
    if images.shape[1:] != shape:
        remedy = "; add the batch axis: images[None]" if images.shape == shape else ""
        raise UserError(f"{path}: the array has shape {images.shape}, the network takes {wanted}{remedy}")
    if not len(images):
        raise UserError(f"{path}: the array has shape {images.shape}, no image at all; give at least one")
    bad = np.argwhere(~np.isfinite(images))
    if len(bad):
        at = tuple(map(int, bad[0]))
        raise UserError(
            f"{path}: {len(bad)} of {images.size} values are not finite, the first is {images[at]} at index "
            f"{at}; replace NaN and Inf before running"
        )
    return np.ascontiguousarray(images)


def _load(path: Path) -> np.ndarray:
    """The array in a .npy file. Pickled objects are refused: loading them runs code from the file."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(NPY_MAGIC))
            if magic != NPY_MAGIC:
                what = "an .npz archive" if magic[:2] == b"PK" else "something else"
                raise UserError(f"{path}: not a .npy file but {what}; write one array with numpy.save")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        if "bject array" in str(error):
            raise UserError(
                f"{path}: holds pickled Python objects, refused because loading them runs code from "
                f"the file; save a plain float32 array"
            ) from None
        raise UserError(f"{path}: a damaged .npy file: {error}") from None


class OutputFolder:
    """A folder of results that appear together at the end, or not at all.

    A context manager: files are written into a hidden folder inside and moved into place when the block ends
    well. An error or Ctrl-C leaves what was there before. The chip description goes in as ``chip.toml``.

    Parameters
    ----------
    path : the folder, made if it does not exist
    chip, mesh : what the results were made with

    Raises
    ------
    UserError : the folder cannot be made or written
    """

    def __init__(self, path: str | Path, chip: ChipConfig, mesh: MeshConfig | None = None):
        self.path = Path(path)
        self._chip = chip
        self._mesh = mesh or MeshConfig()

    def __enter__(self) -> "OutputFolder":
        self._made = not self.path.exists()
        with self._explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.path))
        self.write("chip.toml", f"# mesh {self._mesh}\n{self._chip.to_toml()}")
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)
            if kind is not None and self._made and not any(self.path.iterdir()):
                self.path.rmdir()

    def file(self, name: str) -> Path:
        """Where to write a file; ``name`` may have folders."""
        path = self.staging / name
        with self._explained(self.path / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, content: str | bytes | np.ndarray | dict) -> None:
        """Write text, bytes, an array (.npy) or plain values (JSON)."""
        path = self.file(name)
        with self._explained(self.path / name):
            if isinstance(content, np.ndarray):
                np.save(path, content, allow_pickle=False)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json_text(content), encoding="utf-8")

    def _publish(self) -> None:
        for path in sorted(self.staging.rglob("*")):
            place = self.path / path.relative_to(self.staging)
            with self._explained(place):
                if path.is_dir():
                    place.mkdir(exist_ok=True)
                else:
                    os.replace(path, place)

    @staticmethod
    @contextmanager
    def _explained(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror or error}; choose another -o"
            ) from None


def json_text(values: dict) -> str:
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


@contextmanager
def replaced(path: str | Path, *, keep: type[Exception] | tuple[()] = ()) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` when the block ends well; devices as they are.

    Parameters
    ----------
    keep : an error after which the file is wanted too

    Raises
    ------
    UserError : the place cannot be written
    """
    path = Path(path)
    temporary = _temporary(path)
    if temporary is None:
        yield path
        return
    try:
        try:
            yield temporary
        except keep:
            _publish_file(temporary, path)
            raise
        _publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path | None:
    """An empty file beside ``path``; None where ``path`` is a device, which cannot be replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            return None
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    os.close(handle)
    return Path(name)


def _publish_file(temporary: Path, path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
    os.replace(temporary, path)
