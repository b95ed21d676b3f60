"""Files of a teacher's log-probabilities, so that it runs once and need not be in memory again.

    about.json    what the folder was made for: teacher, tokenizer, template, data, top_k,
                  temperature; that of another run is refused
    NAME.npz      one batch: "index" [N, K] int32 and "log_prob" [N, K + 1] float32 of its N trained
                  tokens, "rows" the SHA-256 of the batch

K = 64 takes 516 bytes a token. Files appear complete or not at all. They hold arrays only, and
every number in them is checked before use.
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
from seekjax.errors import need
from seekjax.storage import write_atomically
from seekjax.train.loss import target_mask
from seekjax.train.step import BATCH
from sharding.place import put_batch

Batch = dict[str, jax.Array]
MAX_LOG_PROB = 1e-3  # rounding may lift a log-probability a little above 0


class LogitStore:
    """A folder of saved log-probabilities. Raises DataError if it belongs to another run."""

    def __init__(self, folder: Path, made_for: dict[str, Any]):
        """made_for: what the log-probabilities depend on, with "vocab" and "top_k"."""
        self.folder = folder
        self.made_for = made_for
        self.vocab = made_for["vocab"]
        self.top_k = made_for["top_k"]

        saved = self._open()
        if saved != made_for:
            differences = []
            for name, value in made_for.items():
                if not isinstance(saved, dict) or saved.get(name) != value:
                    differences.append(name)
            raise DataError(
                f"{folder} holds logits of another {', '.join(differences) or 'run'} than this "
                "run's: name another folder with --distill.save-logits."
            )

    def _open(self) -> Any:
        """Return what an existing folder was made for; describe an empty one."""
        path = self.folder / "about.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() and not any(self.folder.glob("*.npz")):
                write_atomically(path, json.dumps(self.made_for, indent=1))
            return json.loads(path.read_bytes())

        except OSError as error:
            raise DataError(
                f"{self.folder} cannot hold logits: {error.strerror}. Name another folder with "
                "--distill.save-logits."
            ) from error
        except ValueError as error:
            raise DataError(
                f"{path} does not describe saved logits: name another folder with "
                "--distill.save-logits."
            ) from error

    def __call__(self, batch: Batch, name: str, compute: Callable[[Batch], Batch]) -> Batch:
        """Return the saved targets of a batch [A, B, T + 1], or compute and save them.

        Raises DataError if the file is damaged or belongs to another batch.
        """
        read = {part: batch[part] for part in ("tokens", "segments", "trained")}
        host = jax.device_get(read)
        mask_ABT = trained_mask(host)
        digest = hash_rows(host)
        path = self.folder / f"{name}.npz"
        if path.exists():
            return put_batch(self.read(path, digest, mask_ABT), BATCH)

        targets = compute(batch)
        arrays = {}
        for part, x in jax.device_get(targets).items():
            arrays[part] = x[mask_ABT]
        arrays["rows"] = np.frombuffer(digest, np.uint8)
        write_atomically(path, lambda file: np.savez(file, **arrays))
        return targets

    def read(self, path: Path, digest: bytes, mask_ABT: np.ndarray) -> dict[str, np.ndarray]:
        """Return the targets of one file, with zeros at untrained tokens. Raises DataError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {part: file[part] for part in ("index", "log_prob")}
                saved_digest = file["rows"].tobytes()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} cannot be read as saved logits: delete it, and the teacher runs again."
            ) from error
        need(
            saved_digest == digest,
            f"{path} is of other rows than this run reads there: restore the data, train.seed and "
            "batch sizes that it was saved with, or name another folder with "
            "--distill.save-logits.",
            DataError,
        )
        tokens = int(mask_ABT.sum())
        need(
            self.is_plausible(arrays["index"], arrays["log_prob"], tokens),
            f"{path} does not hold log-probabilities of {self.top_k} tokens at {tokens} positions: "
            "delete it, and the teacher runs again.",
            DataError,
        )

        targets = {}
        for part, x in arrays.items():
            targets[part] = np.zeros((*mask_ABT.shape, x.shape[1]), x.dtype)
            targets[part][mask_ABT] = x
        return targets

    def is_plausible(self, index: np.ndarray, log_prob: np.ndarray, tokens: int) -> bool:
        """Return whether arrays have the expected shapes and types, and possible values."""
        if index.shape != (tokens, self.top_k) or index.dtype != np.int32:
            return False
        if log_prob.shape != (tokens, self.top_k + 1) or log_prob.dtype != np.float32:
            return False
        in_vocabulary = (index >= 0) & (index < self.vocab)
        possible = np.isfinite(log_prob) & (log_prob <= MAX_LOG_PROB)
        return bool(in_vocabulary.all() and possible.all())


def trained_mask(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Return which positions of a batch [A, B, T + 1] have a trained target, [A, B, T]."""
    masks = []
    for number in range(len(batch["tokens"])):
        piece = {part: x[number] for part, x in batch.items()}
        masks.append(np.asarray(target_mask(piece, 1, mask_documents=True), bool))
    return np.stack(masks)


def hash_rows(batch: dict[str, np.ndarray]) -> bytes:
    """Return the SHA-256 of rows, however they are cut into micro-batches."""
    digest = hashlib.sha256()
    for part in sorted(batch):
        x = batch[part].astype(np.int32)
        digest.update(f"{part} {x.shape[-1]} ".encode() + x.tobytes())
    return digest.digest()
