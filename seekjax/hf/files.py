"""The safetensors files of a folder from a stranger, and the index that says which holds what."""

from pathlib import Path
from typing import TypeGuard

import numpy as np

from seekjax.errors import WeightsError, need
from seekjax.hf.quote import listed, quoted
from seekjax.hf.tensor_file import HEADER_BYTES, Entry, read_header
from seekjax.hf.untrusted import read_json

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")


class TensorFiles:
    """The tensors of a folder or of one file: `entries` by name, `read` for the values of one."""

    def __init__(self, path: Path):
        """Read every header and no tensor. Raises WeightsError."""
        self.entries: dict[str, Entry] = {}
        if path.is_file():
            self.entries = read_header(path)
            return

        weights = sorted(file.name for file in path.glob("*.safetensors"))
        index = path / INDEX
        _check_not_pickled(path, bool(weights) or index.exists())
        need(bool(weights), f"{path} holds no .safetensors file.", WeightsError)

        if index.exists():
            file_of = read_index(index)
            self._read_headers(path, sorted(set(file_of.values())))
            self._check_index(index, file_of)
        else:
            self._read_headers(path, weights)

    def read(self, name: str) -> np.ndarray:
        """Return the values of one tensor, in the dtype of the file."""
        return self.entries[name].read()

    def equal(self, name: str, other: str) -> bool:
        """Return whether two tensors have the same values, as the narrower dtype holds them."""
        return self.entries[name].equals(self.entries[other])

    def _read_headers(self, folder: Path, files: list[str]) -> None:
        """Add the tensors of these files. Raises WeightsError if two have the same name."""
        for file in files:
            for tensor, entry in read_header(folder / file).items():
                need(
                    tensor not in self.entries,
                    f"{quoted(tensor)} is in {file} and in another file.",
                    WeightsError,
                )
                self.entries[tensor] = entry

    def _check_index(self, index: Path, file_of: dict[str, str]) -> None:
        """Raise WeightsError unless index and headers name the same tensors."""
        misplaced = []
        for tensor, file in file_of.items():
            if tensor not in self.entries or self.entries[tensor].file.name != file:
                misplaced.append(tensor)

        unlisted = [tensor for tensor in self.entries if tensor not in file_of]
        wrong = {
            "tensors are not in the file that the index names": misplaced,
            "tensors of the files are not in the index": unlisted,
        }
        need(
            not any(wrong.values()),
            f"{index} does not fit its files: {listed(wrong)}.",
            WeightsError,
        )


def read_index(path: Path) -> dict[str, str]:
    """Return the file name of each tensor. Raises WeightsError for names outside the folder."""
    file_of = read_json(path, HEADER_BYTES).get("weight_map")
    if not _is_weight_map(file_of):
        raise WeightsError(f"{path} has no weight_map.")

    for file in set(file_of.values()):
        inside = not set(file) & set("/\\:\0") and not file.startswith(".")
        need(
            inside and file.endswith(".safetensors"),
            f"{path} names {quoted(file)}: only .safetensors files of its own folder are opened.",
            WeightsError,
        )
        need(
            (path.parent / file).exists(),
            f"{path} names {quoted(file)}, which is not there.",
            WeightsError,
        )
    return file_of


def _is_weight_map(value: object) -> TypeGuard[dict[str, str]]:
    """Return whether a value is a table of tensor names and file names, with at least one row."""
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(file, str) for file in value.values())


def _check_not_pickled(folder: Path, has_safetensors: bool) -> None:
    """Raise WeightsError for a folder whose weights are pickles, which can run any program."""
    pickled = any(file.suffix in PICKLES for file in folder.iterdir())
    need(
        has_safetensors or not pickled,
        f"{folder} holds only pickled weights, which can run any program: convert them to "
        "safetensors where they come from.",
        WeightsError,
    )
