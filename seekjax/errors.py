"""Every error that a user can cause: one sentence that says what is, what is expected, what to do.

The commands print the sentence of a SeekjaxError and exit with its status, most often 2; anything
else is a defect (seekjax/commands/status.py).
"""

from enum import IntEnum
from typing import ClassVar


class Status(IntEnum):
    """The exit statuses of every command; `seekjax --help` prints them."""

    FINISHED = 0
    # a defect, or the machine (memory, disk); the sentence names the file with the traceback
    FAILED = 1
    # the sentence says what to change
    BAD_INPUT = 2
    # a signal ended a run or a workflow that is saved: the same command continues
    STOPPED = 75
    # Ctrl-C where there is nothing to save
    INTERRUPTED = 130
    # the reader of the output has gone, as in `seekjax ... | head`
    UNREAD = 141


class SeekjaxError(ValueError):
    """Bad input, in one sentence."""

    status: ClassVar[Status] = Status.BAD_INPUT  # with which a command ends


class UsageError(SeekjaxError):
    """The command line names something that does not exist."""


class ConfigError(SeekjaxError):
    """The settings do not fit each other, or do not fit the devices."""


class DataError(SeekjaxError):
    """The data or its settings are wrong."""


class RunError(SeekjaxError):
    """A run cannot start or go on as requested."""


class CheckpointError(SeekjaxError):
    """A checkpoint cannot be saved or restored."""


class WeightsError(SeekjaxError):
    """A published checkpoint cannot be read or written."""


class GenerateError(SeekjaxError):
    """Generation was asked for something that it cannot do."""


class SandboxError(SeekjaxError):
    """No sandbox works on this machine, or it broke: the program was not graded."""


def need(
    condition: object,
    sentence: str,
    error: type[SeekjaxError] = ConfigError,
) -> None:
    """Raise `error` with this sentence unless the condition holds."""
    if not condition:
        raise error(sentence)
