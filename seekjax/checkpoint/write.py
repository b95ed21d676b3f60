"""Writing and resuming: `checkpoints/<step>/` holds one step of a run, complete or not at all.

    state/              the train state, by Orbax: readable by Orbax alone, on any mesh
    data-<process>.json where each process stood in its data
    run_files.json      size and SHA-256 of the run's tokenizer and the like, which lie above
    config.json         the run's settings
    manifest.json       size and SHA-256 of the files above, written last

A step is written as `saving-<step>` and renamed when its manifest exists; an old one is renamed
`deleted-<step>` before it is deleted. So a process killed at any moment leaves complete steps, and
leftovers under names that are never read as steps; the next start or save removes those. A step
that does not match its manifest is set aside as `bad-<step>`, and the one before it is used.
"""

import errno
import json
import logging
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from seekjax.checkpoint.arrays import saved_arrays, write_small_arrays_whole
from seekjax.checkpoint.manifest import damage, write_manifest, write_run_files
from seekjax.errors import CheckpointError, need
from seekjax.storage import read_json, rename_durably

# Values in place of a step. ALL_BAD is the lowest, so a maximum over processes ignores it.
NONE = -1
ALL_BAD = -2

TIMEOUT = 3600  # seconds for one save; Orbax's default of 10 minutes is short for a slow disk


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs a traceback for each error that it also raises; here an error is one sentence."""
    return "orbax" not in record.pathname + record.getMessage()


for logger in ("absl", "asyncio"):
    logging.getLogger(logger).addFilter(_not_from_orbax)
write_small_arrays_whole()


def _without_late_writes(show: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a hook that leaves out writes which end after another one has failed.

    Orbax has closed their event loop then, which its storage library prints once per array.
    """

    def show_others(event: Any) -> None:
        if str(event.exc_value) != "Event loop is closed":
            show(event)

    return show_others


sys.unraisablehook = _without_late_writes(sys.unraisablehook)


class MismatchError(CheckpointError):
    """A checkpoint holds other arrays than the config needs."""

    def __init__(self, sentence: str, step: int):
        super().__init__(sentence)
        self.step = step


class Checkpoints:
    """Step folders under `folder`/checkpoints, each complete or absent.

    With several processes, all of them call each method in the same order, and `folder` is on a
    disk that they share; only process 0 renames and deletes. Use it in
    `with contextlib.closing(...)`: a program that ends during a save loses that save and may hang,
    because Python stops the threads that Orbax still needs.
    """

    def __init__(self, folder: Path, keep: int):
        need(keep >= 1, f"train.keep is {keep}: at least one checkpoint must be kept")
        self.folder = Path(folder).absolute() / "checkpoints"
        self.keep = keep
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), timeout_secs=TIMEOUT)
        self._first = jax.process_index() == 0
        self._thread: threading.Thread | None = None  # finishes the save in progress
        self._error: CheckpointError | None = None  # of that thread
        self._held: int | None = None  # the step that was last saved or restored

    @property
    def is_saving(self) -> bool:
        """Return whether a save is going on in the background of this process."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def latest(self) -> int | None:
        """The newest step on the disk, if any; a save in progress does not count yet."""
        return max(self._steps(), default=None)

    def save(
        self,
        step: int,
        state: Any,
        *,
        data: Any,
        config: dict,
        files: dict[str, str] | None = None,
    ) -> None:
        """Save in the background; return once the arrays are copied, so that they may be donated.

        Waits for the previous save first. `files` are texts by their names in the step's folder.
        Saving the step last saved or restored does nothing.
        Raises CheckpointError, also if the previous save failed in the background; steps already on
        the disk are never changed.
        """
        self.wait()
        data_text = json.dumps(data)
        config_text = json.dumps(config, indent=1)

        newest = self._agree(NONE if self.latest is None else self.latest)
        if step == newest == self._held:
            return
        need(
            step > newest,
            f"step {step} is not newer than step {newest} in {self.folder}: resume "
            "from that, or use another --out",
            CheckpointError,
        )

        saving = self.folder / f"saving-{step}"
        failure = None
        if self._first:
            try:
                self._remove_leftovers()
                saving.mkdir(parents=True)
                for name, text in {"config.json": config_text, **(files or {})}.items():
                    (saving / name).write_text(text)
                write_run_files(self.folder.parent, saving)
            except OSError as error:
                failure = error
        # Also a barrier: from here on the folder exists for every process.
        if maximum(failure is not None):
            raise self._give_up(step, saving, failure or OSError("the first process failed"))

        try:
            (saving / f"data-{jax.process_index()}.json").write_text(data_text)
            self._orbax.save(saving / "state", args=ocp.args.StandardSave(state))
        except Exception as error:
            raise self._give_up(step, saving, error) from error

        self._held = step
        self._thread = threading.Thread(
            target=self._commit, args=(step, saving), name=f"save step {step}"
        )
        self._thread.start()

    def restore(self, abstract: Any, shared_position: bool = False) -> tuple[int, Any, Any] | None:
        """Return (step, state, data) of the newest undamaged step; None if nothing was ever saved.

        `abstract` is the state as jax.ShapeDtypeStructs with shardings, of any mesh, or a function
        from the saved tree's shapes and types to that. `data` is
        {"processes": [...]}, the data of all processes, if another number of them saved the step,
        unless all have the same data position (`shared_position`). Raises CheckpointError if steps
        exist but all are damaged, or if the newest undamaged one does not match `abstract`.
        """
        self.wait()
        if self._first:
            self._remove_leftovers()
        step = self._agree(self._newest_undamaged() if self._first else NONE)
        if step == NONE:
            return None
        need(
            step != ALL_BAD,
            f"no checkpoint in {self.folder} is whole: repair or delete its bad-* "
            "folders, or use another --out",
            CheckpointError,
        )

        folder = self.folder / str(step)
        state = self._restore_state(folder, abstract)
        self._held = step
        return step, state, _data_position(folder, shared_position)

    def set_aside_newest(self, reason: str) -> None:
        """Move the newest step to bad-<step>, if there is another one to go back to."""
        self.wait()
        if self._first and len(self._steps()) > 1:
            self._set_aside(max(self._steps()), f"is not used ({reason})")
        maximum(0)  # a barrier: no process looks for the newest step before
        self._held = None

    def wait(self) -> None:
        """Return once nothing is being saved.

        Raises CheckpointError if the save in progress failed, on any process.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if maximum(error is not None):
            raise error or CheckpointError(
                "another process could not save its part of a checkpoint: see its message"
            )

    def close(self) -> None:
        """Wait, then release Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _commit(self, step: int, saving: Path) -> None:
        """Finish a save in the background, once Orbax is done on every process.

        Writes the manifest, renames the folder to its step, and deletes the oldest steps.
        """
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

    def _give_up(
        self,
        step: int,
        saving: Path,
        error: Exception,
    ) -> CheckpointError:
        """Remove what was written of `step`; return the error as a sentence."""
        if self._first:
            shutil.rmtree(saving, ignore_errors=True)

        # Orbax wraps the error of the operating system in its own
        full = getattr(error, "errno", None) == errno.ENOSPC
        if full or "No space left on device" in str(error):
            reason = "the disk is full, free some space or lower train.keep"
        else:
            reason = _line(error)

        failure = CheckpointError(
            f"step {step} could not be saved in {self.folder}: {reason}; the steps saved "
            "before are unharmed"
        )
        failure.__cause__ = error
        return failure

    def _remove_leftovers(self) -> None:
        """Remove what an interrupted save or deletion left."""
        for leftover in (*self.folder.glob("saving-*"), *self.folder.glob("deleted-*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def _restore_state(self, folder: Path, abstract: Any) -> Any:
        """Return the state of a step; raises CheckpointError if it does not match `abstract`."""
        saved = saved_arrays(self._orbax, folder)
        if callable(abstract):
            abstract = abstract(saved)
        differences = mismatches(saved, abstract)
        if differences:
            shown = "; ".join(differences[:3])
            more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise MismatchError(
                f"checkpoint {folder} {shown}{more}: "
                f"use the config saved in {folder}/config.json or another --out",
                int(folder.name),
            )

        try:
            return self._orbax.restore(folder / "state", args=ocp.args.StandardRestore(abstract))
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {folder} is whole, but Orbax {ocp.__version__} cannot read "
                f"it: {_line(error)}"
            ) from error

    def _steps(self) -> list[int]:
        """Return the steps on the disk, damaged ones included."""
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]

    def _newest_undamaged(self) -> int:
        """Return the newest step that matches its manifest, or NONE or ALL_BAD.

        Newer steps that do not match are set aside, with a message on stderr.
        """
        for step in sorted(self._steps(), reverse=True):
            folder = self.folder / str(step)
            reason = damage(folder)
            if reason is None:
                return step
            self._set_aside(step, f"is damaged ({reason})")
        return ALL_BAD if any(self.folder.glob("bad-*")) else NONE

    def _set_aside(self, step: int, reason: str) -> None:
        """Move a step to a name that is never read as one, with a message on stderr."""
        folder, aside = self.folder / str(step), self._unused_bad_name(step)
        rename_durably(folder, aside)
        warn(f"checkpoint {folder} {reason}: moved to {aside}, trying the step before")

    def _unused_bad_name(self, step: int) -> Path:
        """Return bad-<step>, or with a number if that exists."""
        path = self.folder / f"bad-{step}"
        number = 0
        while path.exists():
            number += 1
            path = self.folder / f"bad-{step}.{number}"
        return path

    def _agree(self, step: int) -> int:
        """Return process 0's `step` on every process."""
        return maximum(step if self._first else ALL_BAD)


def maximum(value: int) -> int:
    """Return the largest value of all processes; also a barrier."""
    if jax.process_count() == 1:
        return int(value)
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def mismatches(saved: Any, abstract: Any) -> list[str]:
    """Return a clause for each array that differs between a saved tree and the one that is wanted.

    Arrays differ in presence, shape or dtype.
    """
    have = _described(saved)
    want = _described(jax.tree.map(_as_saved, abstract))

    different, lacking = [], []
    for name, description in want.items():
        if name not in have:
            lacking.append(f"lacks {name} {description}")
        elif have[name] != description:
            different.append(f"holds {name} as {have[name]}, this config needs {description}")

    unknown = []
    for name, description in have.items():
        if name not in want:
            unknown.append(f"holds {name} {description}, which this config lacks")
    return different + lacking + unknown


def _described(tree: Any) -> dict[str, str]:
    """Return path -> dtype and shape of every array, such as "float32[8, 16]"."""
    table = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        table[name] = f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
    return table


def _as_saved(leaf: Any) -> Any:
    """Return a leaf as a checkpoint holds it: a random key is saved as its integers."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf)
    return leaf


def _data_position(folder: Path, shared_position: bool) -> Any:
    """Return the data position of this process, or {"processes": [...]} with those of all.

    It returns all if another number of processes saved them.
    """
    processes = len(list(folder.glob("data-*.json")))
    if processes != jax.process_count() and not shared_position:
        files = [folder / f"data-{number}.json" for number in range(processes)]
        return {"processes": [read_json(file, CheckpointError) for file in files]}
    process = 0 if shared_position else jax.process_index()
    return read_json(folder / f"data-{process}.json", CheckpointError)


def _line(error: Exception) -> str:
    """Return an error's type and first line."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"


def warn(text: str) -> None:
    """Print a message on stderr that is not overlooked."""
    print(f"\n*** {text}\n", file=sys.stderr, flush=True)
