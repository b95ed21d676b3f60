"""What a teacher says of every trained token, kept in files, so that it is asked once and need not
be in memory again.

    # what it was kept for: teacher, tokenizer, template, data, top_k, temperature; another run's is
    # refused
    about.json
    # of one batch: "index" [N, K] int32, "log_prob" [N, K + 1] float32 of its N trained tokens,
    # "rows" the SHA-256 of what was read
    NAME.npz

K = 64 takes 516 bytes a token. Files appear whole; they hold arrays alone, and no number in them is
believed before it fits.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.data import DataError
from seekjax.storage import write_atomically
from seekjax.train.loss import target_mask
from seekjax.train.step import BATCH
from sharding.place import put_batch

Batch = dict[str, jax.Array]


class Kept:
    """A folder of such files. Raises DataError where it is not this run's."""

    def __init__(self, folder: Path, made_for: dict[str, Any]):
        self.folder, self.made_for, path = folder, made_for, folder / "about.json"
        self.vocab = made_for["vocab"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() and not any(folder.glob("*.npz")):
                write_atomically(path, json.dumps(made_for, indent=1))
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise DataError(
                f"{folder} cannot hold logits: {error.strerror}. Name another folder with "
                "--post.save-logits."
            ) from error
        except ValueError as error:
            raise DataError(
                f"{path} is no description of saved logits: name another folder with "
                "--post.save-logits."
            ) from error
        if found != made_for:
            of = [
                name
                for name, value in made_for.items()
                if not isinstance(found, dict) or found.get(name) != value
            ]
            raise DataError(
                f"{folder} holds logits of another {', '.join(of) or 'run'} than this "
                "run's: name another folder with --post.save-logits."
            )

    def __call__(self, batch: Batch, name: str, ask: Callable[[Batch], Batch]) -> Batch:
        """What is kept of a batch [A, B, T + 1], or else what `ask` says of it, which is then
        kept."""
        host = jax.device_get({part: batch[part] for part in ("tokens", "segments", "trained")})
        mask = np.stack(
            [np.asarray(target_mask(piece, 1, True), bool) for piece in unstacked(host)]
        )
        path, rows = self.folder / f"{name}.npz", hash_of(host)
        if path.exists():
            return put_batch(self.read(path, rows, mask), BATCH)
        said = ask(batch)
        held = {part: x[mask] for part, x in jax.device_get(said).items()}
        write_atomically(
            path, lambda file: np.savez(file, rows=np.frombuffer(rows, np.uint8), **held)
        )
        return said

    def read(self, path: Path, rows: bytes, mask: np.ndarray) -> dict[str, np.ndarray]:
        """One file, with zeros where nothing is trained. Raises DataError."""
        tokens, top_k = int(mask.sum()), self.made_for["top_k"]
        try:
            with np.load(path, allow_pickle=False) as file:
                found, of = (
                    {part: file[part] for part in ("index", "log_prob")},
                    file["rows"].tobytes(),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} cannot be read as saved logits: delete it, and the teacher is asked again."
            ) from error
        if of != rows:
            raise DataError(
                f"{path} is of other rows than this run reads there: restore the data, "
                "train.seed and batch sizes that it was "
                "saved with, or name another folder with --post.save-logits."
            )
        wanted = {
            "index": ((tokens, top_k), np.int32),
            "log_prob": ((tokens, top_k + 1), np.float32),
        }
        index, log_prob = found["index"], found["log_prob"]
        believed = (
            (index >= 0).all()
            and (index < self.vocab).all()
            and np.isfinite(log_prob).all()
            and (log_prob <= 1e-3).all()
        )
        if not believed or any((x.shape, x.dtype) != wanted[part] for part, x in found.items()):
            raise DataError(
                f"{path} does not hold log-probabilities of {top_k} tokens at {tokens} "
                "places: delete it, and the teacher is asked again."
            )
        whole = {part: np.zeros((*mask.shape, x.shape[1]), x.dtype) for part, x in found.items()}
        for part, x in found.items():
            whole[part][mask] = x
        return whole


def unstacked(batch: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Micro-batches one by one."""
    return [{part: x[at] for part, x in batch.items()} for at in range(len(batch["tokens"]))]


def hash_of(batch: dict[str, np.ndarray]) -> bytes:
    """Of rows, however they are cut into micro-batches."""
    found = hashlib.sha256()
    for part in sorted(batch):
        x = batch[part].astype(np.int32)
        found.update(f"{part} {x.shape[-1]} ".encode() + x.tobytes())
    return found.digest()
