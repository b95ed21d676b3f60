"""Checkpoints: `checkpoints/<step>/` holds one step of a run, whole or not at all.

    state/              the train state, by Orbax: readable by Orbax alone, on any mesh
    data-<process>.json where each process stood in its data
    config.json         the run's settings
    manifest.json       size and SHA-256 of the files above, written last

A step is written as `saving-<step>` and renamed once its manifest stands; an old one is renamed
`deleted-<step>` before it is deleted. So a process killed at any moment leaves whole steps, and
leftovers under names that nobody takes for a step; the next save removes those. A step that does
not match its manifest is set aside as `bad-<step>`, and the one before it is used.
"""

import errno
import json
import logging
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from seekjax.checkpoint.manifest import damage, write_manifest
from seekjax.errors import CheckpointError
from seekjax.storage import rename_durably

for name in (
    "absl",
    "asyncio",
):  # Orbax logs a traceback for each error it also raises; here every error becomes one sentence
    logging.getLogger(name).addFilter(
        lambda record: "orbax" not in record.pathname + record.getMessage()
    )

NONE, ALL_BAD = -1, -2  # in place of a step


class Checkpoints:
    """Step folders under `folder`/checkpoints, each whole or absent.

    On several processes all of them call each method, in the same order, and `folder` is on a disk
    they share; only process 0 renames and deletes. Use it in `with contextlib.closing(...)`: a
    program that ends with a save in flight loses it and may hang, because Python takes the threads
    that Orbax still needs.
    """

    def __init__(self, folder: Path, keep: int):
        if keep < 1:
            raise ValueError(f"train.keep is {keep}: at least one checkpoint must be kept")
        self.folder = Path(folder).absolute() / "checkpoints"
        self.keep = keep
        self._orbax = ocp.AsyncCheckpointer(
            ocp.StandardCheckpointHandler(), timeout_secs=3600
        )  # its 10 minutes are short for a slow disk
        self._first = jax.process_index() == 0
        self._thread: threading.Thread | None = None  # finishes the save in flight
        self._error: CheckpointError | None = None  # what that thread met
        self._held: int | None = None  # the step this object last saved or restored

    @property
    def latest(self) -> int | None:
        """The newest step on the disk, if any; a save in flight does not count yet."""
        return max(self._steps(), default=None)

    def save(self, step: int, state: Any, *, data: Any, config: dict) -> None:
        """Save in the background; returns once the arrays are copied, so that the caller may donate
        them.

        First waits for the save before. Saving the step just saved or restored does nothing. Raises
        CheckpointError, also for an error met in the background by the save before; steps already
        on the disk are never harmed.
        """
        self.wait()
        data_text, config_text = json.dumps(data), json.dumps(config, indent=1)
        newest = self._agree(NONE if self.latest is None else self.latest)
        if step == newest == self._held:
            return
        if step <= newest:
            raise CheckpointError(
                f"step {step} is not newer than step {newest} in {self.folder}: resume "
                "from that, or use another --out"
            )
        saving = self.folder / f"saving-{step}"
        try:
            if self._first:
                for leftover in (*self.folder.glob("saving-*"), *self.folder.glob("deleted-*")):
                    shutil.rmtree(leftover)
                saving.mkdir(parents=True)
                (saving / "config.json").write_text(config_text)
            _maximum(0)  # the folder is there
            (saving / f"data-{jax.process_index()}.json").write_text(data_text)
            self._orbax.save(saving / "state", args=ocp.args.StandardSave(state))
        except Exception as error:
            raise self._give_up(step, saving, error)
        self._held = step
        self._thread = threading.Thread(
            target=self._commit, args=(step, saving), name=f"save step {step}"
        )
        self._thread.start()

    def restore(self, abstract: Any, alike: bool = False) -> tuple[int, Any, Any] | None:
        """The newest step that is whole: (step, state, data), or None when nothing was ever saved.

        `abstract` is the state as jax.ShapeDtypeStructs with shardings, of any mesh. `data` is None
        when another number of processes saved it, unless all processes stand `alike` in it. Raises
        CheckpointError when steps exist but none is whole, or when the newest whole one does not
        fit `abstract`.
        """
        self.wait()
        step = self._agree(self._newest_whole() if self._first else NONE)
        if step == NONE:
            return None
        if step == ALL_BAD:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole: repair or delete its bad-* "
                "folders, or use another --out"
            )
        folder = self.folder / str(step)
        differences = mismatches(
            self._orbax.metadata(folder / "state").item_metadata.tree, abstract
        )
        if differences:
            more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise CheckpointError(
                f"checkpoint {folder} {'; '.join(differences[:3])}{more}: "
                f"use the config saved in {folder}/config.json or another --out"
            )
        try:
            state = self._orbax.restore(folder / "state", args=ocp.args.StandardRestore(abstract))
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {folder} is whole, but Orbax {ocp.__version__} cannot read "
                f"it: {_line(error)}"
            ) from error
        self._held = step
        processes = len(list(folder.glob("data-*.json")))
        if processes != jax.process_count() and not alike:
            _shout(
                f"checkpoint {folder} was saved by {processes} processes: its data "
                f"position does not fit {jax.process_count()}"
            )
            return step, state, None
        return (
            step,
            state,
            json.loads((folder / f"data-{0 if alike else jax.process_index()}.json").read_text()),
        )

    def wait(self) -> None:
        """Return once nothing is being saved; raise CheckpointError if the save in flight failed,
        on any process."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if _maximum(error is not None):
            raise error or CheckpointError(
                "another process could not save its part of a checkpoint: see its message"
            )

    def close(self) -> None:
        """Wait, then let go of Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _commit(self, step: int, saving: Path) -> None:
        """In the background: when Orbax is done on every process, vouch for the step, give it its
        name, and prune."""
        try:
            self._orbax.wait_until_finished()
            if self._first:
                write_manifest(saving)
                rename_durably(saving, self.folder / str(step))
                for old in sorted(self._steps())[: -self.keep]:
                    deleted = self.folder / f"deleted-{old}"
                    rename_durably(self.folder / str(old), deleted)
                    shutil.rmtree(deleted)
        except Exception as error:
            self._error = self._give_up(step, saving, error)

    def _give_up(self, step: int, saving: Path, error: Exception) -> CheckpointError:
        """Remove what was written of `step`; returns the error as a sentence."""
        if self._first:
            shutil.rmtree(saving, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(
            error
        )
        reason = "the disk is full, free some space or lower train.keep" if full else _line(error)
        sentence = CheckpointError(
            f"step {step} could not be saved in {self.folder}: {reason}; the steps saved "
            "before are unharmed"
        )
        sentence.__cause__ = error
        return sentence

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]

    def _newest_whole(self) -> int:
        """The newest step that is as its manifest says; sets newer ones aside, loudly. NONE and
        ALL_BAD stand for no step."""
        for step in sorted(self._steps(), reverse=True):
            folder = self.folder / str(step)
            reason = damage(folder)
            if reason is None:
                return step
            aside = next(
                path
                for n in range(10**6)
                if not (path := self.folder / (f"bad-{step}" + f".{n}" * (n > 0))).exists()
            )
            rename_durably(folder, aside)
            _shout(
                f"checkpoint {folder} is damaged ({reason}): moved to {aside}, trying the "
                "step before"
            )
        return ALL_BAD if any(self.folder.glob("bad-*")) else NONE

    def _agree(self, step: int) -> int:
        """Process 0's `step`, on every process."""
        return _maximum(step if self._first else ALL_BAD)  # which is the lowest


def _maximum(value: int) -> int:
    """The largest value of any process; also a barrier."""
    if jax.process_count() == 1:
        return int(value)
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def mismatches(saved: Any, abstract: Any) -> list[str]:
    """One clause for each array that differs in presence, shape or type between the saved tree and
    the one that is wanted."""

    def table(tree: Any) -> dict[str, str]:
        return {
            jax.tree_util.keystr(
                path, simple=True, separator="/"
            ): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    def raw(leaf: Any) -> Any:  # a key is saved as the integers it is made of
        return (
            jax.eval_shape(jax.random.key_data, leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )

    there, here = table(saved), table(jax.tree.map(raw, abstract))
    return (
        [
            f"holds {name} as {there[name]}, this config wants {here[name]}"
            for name in here
            if there.get(name, here[name]) != here[name]
        ]
        + [f"lacks {name} {here[name]}" for name in here if name not in there]
        + [
            f"holds {name} {there[name]}, which this config lacks"
            for name in there
            if name not in here
        ]
    )


def _line(error: Exception) -> str:
    """An error's type and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _shout(text: str) -> None:
    print(f"\n*** {text}\n", file=sys.stderr, flush=True)
