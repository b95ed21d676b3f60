"""Start a sandbox, send it a program and inputs, and read back a signed list of plain values.

Nothing else comes out of a sandbox.
"""

import hmac
import json
import marshal
import re
import secrets
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from seekjax.errors import SandboxError

# The command line that starts a sandbox whose working folder has this many bytes.
Command = Callable[[int], list[str]]

# The whole environment of a sandbox: nothing of the host's, and the same order of sets in every
# run, so that rewards repeat.
ENVIRONMENT = {"PYTHONHASHSEED": "0"}

# The reasons that a sandbox may give; anything else was written by the program under test.
REASON = re.compile(
    r"time limit|memory|output too large|no function \w+|exception \w+|crashed with "
    r"signal \d+|ended without a result|its value is not plain data"
)

# Seconds that a busy machine may take to start the sandbox. The program under test cannot prolong
# them.
START = 20.0
SECRET_BYTES = 32
MAX_NESTING = 64  # of lists and dicts in a value
NOT_PLAIN = "its value is not plain data"


@dataclass(frozen=True)
class Limits:
    """What one program may use: `seconds` for all its inputs together, the rest for each input."""

    seconds: float = 2.0  # of wall clock, and rounded up of CPU
    memory: int = 256 << 20  # bytes of address space, the interpreter's 30 MB included
    output: int = 64 << 10  # bytes of JSON
    scratch: int = 1 << 20  # bytes in the working folder, in one file, and printed
    files: int = 32  # open at once

    def __post_init__(self):
        smallest = min(self.memory, self.output, self.scratch, self.files)
        if not 0 < self.seconds <= 3600 or smallest <= 0:
            raise ValueError(f"limits must be positive and seconds at most 3600, not {self}")


class Outcome(NamedTuple):
    """What a function gave for one input.

    `value` is what JSON has: None, bool, int, float, str, list or dict with string keys. `reason`
    is empty if there is a value, and otherwise says why there is none.
    """

    value: Any
    reason: str


def execute(
    command: Command,
    program: str,
    function: str,
    inputs: Sequence[list],
    limits: Limits,
    filtered: bool = True,
) -> list[Outcome]:
    """Return what `function` gives for each list of arguments, in the sandbox of this command.

    `filtered=False` leaves the system call filter out, to test that the namespaces hold without it.
    Raises SandboxError if the sandbox does not end, or its answer is not signed or not complete.
    """
    job = marshal.dumps(
        {
            "program": program,
            "function": function,
            "inputs": [list(values) for values in inputs],
            "filter": filtered,
            "seconds": limits.seconds,
            "memory": limits.memory,
            "output": limits.output,
            "scratch": limits.scratch,
            "files": limits.files,
        }
    )
    secret = secrets.token_bytes(SECRET_BYTES)
    message = b"%08d" % len(job) + job + secret

    answer, complaint = communicate(command(limits.scratch), message, START + limits.seconds)
    if not hmac.compare_digest(answer[:SECRET_BYTES], secret):
        raise SandboxError(f"the sandbox gave no signed answer ({complaint[:200]})")
    frames = read_frames(answer[SECRET_BYTES:], len(inputs))
    return [read_outcome(frame) for frame in frames]


def communicate(
    command: list[str],
    message: bytes,
    timeout: float,
) -> tuple[bytes, str]:
    """Run a command and return its standard output and its last line of complaint.

    Without a complaint the exit status stands for it. Raises SandboxError after `timeout` seconds.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            answer, errors = process.communicate(message, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise SandboxError(
                f"the sandbox did not end within {timeout:g} seconds and was killed"
            ) from None
        finally:
            process.kill()

    lines = errors.decode(errors="replace").strip().splitlines()
    complaint = lines[-1] if lines else f"exit status {process.returncode}"
    return answer, complaint


def read_frames(answer: bytes, count: int) -> list[bytes]:
    """Split an answer into one frame for each input: 8 digits, then that many bytes."""
    frames = []
    while answer:
        end = 8 + int(answer[:8])
        frames.append(answer[8:end])
        answer = answer[end:]
    if len(frames) != count:
        raise SandboxError(f"the sandbox answered {len(frames)} of {count} inputs")
    return frames


def read_outcome(frame: bytes) -> Outcome:
    """Read a frame, which the program under test may have written: nothing in it is trusted."""
    # "v" and the value as JSON.
    if frame[:1] == b"v":
        try:
            value = json.loads(frame[1:])
        except (ValueError, RecursionError):
            return Outcome(None, NOT_PLAIN)
        return Outcome(value, "") if is_shallow(value) else Outcome(None, NOT_PLAIN)

    # "e" and the reason.
    reason = frame[1:101].decode(errors="replace")
    if REASON.fullmatch(reason):
        return Outcome(None, reason)
    return Outcome(None, "ended without a result")


def is_shallow(value: Any) -> bool:
    """Return whether lists and dicts are nested at most MAX_NESTING deep.

    Deeper ones would overflow the stack of whatever prints or compares them.
    """
    layer = [value]
    for _ in range(MAX_NESTING):
        inner = []
        for item in layer:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        layer = inner
    return not layer
