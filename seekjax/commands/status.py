"""How a command ends: its exit status, and one sentence for whatever went wrong.

`exit_status` is the only place that turns an exception into words. What a user can change is a
SeekjaxError, which is its own sentence; for anything else the traceback goes to a file.
"""

import os
import platform
import select
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seekjax.errors import SeekjaxError, Status
from seekjax.storage import cache_folder
from seekjax.terminal import TEXT_MARKS, accept_any_text, discard_output, visible

MOST_CHARACTERS = 300  # of another program's message within a sentence
PACKAGES = ("seekjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tyro")


def exit_status(work: Callable[[], int | None]) -> int:
    """Run `work` and return the exit status, after printing a sentence for what it raised.

    SystemExit, by which --help and a wrong option end, goes through.
    """
    accept_any_text()
    try:
        status = work() or Status.FINISHED
        sys.stdout.flush()
        return int(status)
    except SystemExit:
        raise
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and is_unread():
            discard_output()
            return int(Status.UNREAD)
        return int(_status_of(error))


def _status_of(error: BaseException) -> Status:
    """Print the sentence of an exception, and return the status that it stands for."""
    if isinstance(error, SeekjaxError):
        _complain(str(error))
        return error.status
    if isinstance(error, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
        return Status.INTERRUPTED

    file = save_traceback(error)
    if file is None:
        traceback.print_exception(error)
        _complain(reason(error))
    else:
        _complain(f"{reason(error)} The traceback is in {file}.")
    return Status.FAILED


def _complain(sentence: str) -> None:
    """Print a sentence, in which other texts may stand, on stderr."""
    print(f"error: {visible(sentence, keep=TEXT_MARKS)}", file=sys.stderr)


def reason(error: BaseException) -> str:
    """Return a sentence for an exception that is not a SeekjaxError."""
    message = str(error).strip().partition("\n")[0]
    if len(message) > MOST_CHARACTERS:
        message = message[:MOST_CHARACTERS] + "..."

    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in message:
        return (
            f"there is not enough memory ({message or 'out of memory'}): make train.micro_batch or "
            "data.sequence smaller, use kernel.remat full, or more devices."
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"the machine refused: {where}{error.strerror}."
    name = type(error).__name__
    shown = f"{name} ({message})" if message else name
    return f"this failed with {shown}: a defect of seekjax, or of code that the config names."


def is_unread() -> bool:
    """Return whether the reader of stdout or stderr has gone, as in `seekjax ... | head`."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLOUT)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                return True
    return False


@contextmanager
def failing_in(folder: Path | None) -> Iterator[None]:
    """Keep the traceback of what this block raises in a run's folder."""
    try:
        yield
    except BaseException as error:
        if getattr(error, "seekjax_folder", None) is None:
            with suppress(AttributeError):
                error.seekjax_folder = folder  # pyright: ignore
        raise


def save_traceback(error: BaseException) -> Path | None:
    """Write the traceback into the run's folder, else the cache folder, else the temporary one.

    Returns the file, or None if none of them can be written.
    """
    text = f"{_circumstances()}\n{''.join(traceback.format_exception(error))}"
    name = f"failure-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    run: Any = getattr(error, "seekjax_folder", None)

    folders = [cache_folder() / "failures", Path(tempfile.gettempdir())]
    if run is not None and run.is_dir():
        folders.insert(0, run)
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
    return None


def _circumstances() -> str:
    """Return the command line, and the versions of what ran."""
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return f"{shlex.join(sys.argv)}\n{', '.join(versions)}\n"
