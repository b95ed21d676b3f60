"""One process at a time writes into a folder.

The owner holds a lock (flock) on `.owner` in the folder, which ends with the process however it
ends, also by kill -9. The file holds the process, its machine and the time, for the sentence that
another process gets. On a file system without locks the owner touches the file while it lives, and
the file counts as abandoned when that has stopped.
"""

import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from seekjax.errors import RunError

NAME = ".owner"
HEARTBEAT = 10.0  # seconds between two touches
ABANDONED = 6 * HEARTBEAT  # seconds without a touch after which a file counts as abandoned

# Errors of flock on a file system that has no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def only_owner(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process while the block runs.

    Raises RunError with the holder if another process has it, or if the folder cannot be written.
    """
    path = folder / NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(
            f"the folder {folder} cannot be written ({error.strerror}): name another with --out, "
            "or make it writable."
        ) from error

    try:
        beat = _take(file, path)
        try:
            _describe_owner(file)
            yield
        finally:
            beat.set()
            with suppress(OSError):  # a full disk, or a folder that has vanished
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def is_held(folder: Path) -> bool:
    """Return whether a living process holds `folder`.

    The lock is tried, for an instant and shared, only if the file names a process that may live: a
    process that begins at this moment does not meet it.
    """
    path = folder / NAME
    owner = _owner(path)
    if not owner:
        return False
    process = owner["process"]
    is_here = owner["machine"] == platform.node()
    if is_here and process != os.getpid() and not _runs(process):
        return False

    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return _is_alive(path)
    finally:
        os.close(file)
    return False


def _take(file: int, path: Path) -> threading.Event:
    """Lock the open file; return the event that ends its heartbeat. Raises RunError."""
    ended = threading.Event()
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(path) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise RunError(f"{path} cannot be locked: {error.strerror}.") from error
        if _is_alive(path):
            raise _held(path) from error
        threading.Thread(target=_touch, args=(path, ended), daemon=True).start()
    return ended


def _describe_owner(file: int) -> None:
    """Write who holds the lock; a full disk does not matter, because the lock counts."""
    started = datetime.now().isoformat(sep=" ", timespec="seconds")
    owner = {"process": os.getpid(), "machine": platform.node(), "started": started}
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(owner).encode(), 0)


def _held(path: Path) -> RunError:
    """Return the sentence about the process that holds a folder."""
    owner = _owner(path)
    who = "another process"
    if owner:
        who = "process {process} on {machine}, started {started},".format(**owner)
    return RunError(
        f"{who} writes into {path.parent} now: wait until it has ended, or name another --out."
    )


def _owner(path: Path) -> dict[str, object]:
    """Return what `_describe_owner` wrote; {} if the file cannot be read."""
    try:
        owner = json.loads(path.read_text())
        return {name: owner[name] for name in ("process", "machine", "started")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _is_alive(path: Path) -> bool:
    """Return whether the owner that the file names, without a lock, is still there."""
    owner = _owner(path)
    if not owner:
        return False
    if owner["machine"] == platform.node():
        return _runs(owner["process"])
    return time.time() - path.stat().st_mtime < ABANDONED


def _runs(process: object) -> bool:
    """Return whether this machine has a process of this number, other than this one."""
    if not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    return True


def _touch(path: Path, ended: threading.Event) -> None:
    """Touch the file at intervals until `ended` is set."""
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(path)
