"""Start a sandbox, hand it a program and inputs, and take nothing from it but a signed list of
plain values.
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

ENVIRONMENT = {
    "PYTHONHASHSEED": "0"
    # all of it: nothing of the host's, and the same order of sets in every run, so that rewards
    # repeat
}
REASON = re.compile(
    r"time limit|memory|output too large|no function \w+|exception \w+|crashed with "
    r"signal \d+|ended without a result|its value is not plain data"
)
# seconds a busy machine may take to start the sandbox, which the program under test cannot prolong
START = 20.0


@dataclass(frozen=True)
class Limits:
    """What one program may use, all its inputs together for `seconds` and each for the rest."""

    seconds: float = 2.0  # of wall clock, and rounded up of CPU
    memory: int = 256 << 20  # bytes of address space, the interpreter's 30 MB included
    output: int = 64 << 10  # bytes of JSON
    scratch: int = 1 << 20  # bytes in the working folder, in one file, and printed
    files: int = 32  # open at once

    def __post_init__(self):
        if (
            not 0 < self.seconds <= 3600
            or min(self.memory, self.output, self.scratch, self.files) <= 0
        ):
            raise ValueError(f"limits must be positive and seconds at most 3600, not {self}")


class Outcome(NamedTuple):
    value: Any  # None, bool, int, float, str, list or dict with string keys: what JSON has
    reason: str  # empty where there is a value


def execute(
    command: Callable[[int], list[str]],
    program: str,
    function: str,
    inputs: Sequence[list],
    limits: Limits,
    filtered: bool = True,
) -> list[Outcome]:
    """What `function` returns for each list of arguments; without the system call filter only to
    show that namespaces hold by themselves.
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
    secret = secrets.token_bytes(32)
    with subprocess.Popen(
        command(limits.scratch),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            answer, complaint = process.communicate(
                b"%08d" % len(job) + job + secret, timeout=START + limits.seconds
            )
        except subprocess.TimeoutExpired:
            raise SandboxError(
                f"the sandbox did not end within {START + limits.seconds:g} seconds and was killed"
            ) from None
        finally:
            process.kill()
    if not hmac.compare_digest(answer[:32], secret):
        said = complaint.decode(errors="replace").strip().splitlines() or [
            f"exit status {process.returncode}"
        ]
        raise SandboxError(f"the sandbox gave no signed answer ({said[-1][:200]})")
    return [outcome(text) for text in frames(answer[32:], len(inputs))]


def frames(answer: bytes, count: int) -> list[bytes]:
    """The answer for each input: 8 digits, then that many bytes."""
    found = []
    while answer:
        size = 8 + int(answer[:8])
        found.append(answer[8:size])
        answer = answer[size:]
    if len(found) != count:
        raise SandboxError(f"the sandbox answered {len(found)} of {count} inputs")
    return found


def outcome(text: bytes) -> Outcome:
    """Read what the program under test wrote, or had written for it: nothing in it is trusted."""
    if text[:1] == b"v":
        try:
            value = json.loads(text[1:])
        except (ValueError, RecursionError):
            value = ...
        return (
            Outcome(value, "")
            if value is not ... and shallow(value)
            else Outcome(None, "its value is not plain data")
        )
    reason = text[1:101].decode(errors="replace")
    return Outcome(None, reason if REASON.fullmatch(reason) else "ended without a result")


def shallow(value: Any, deepest: int = 64) -> bool:
    """Whether lists lie in lists no deeper than whoever prints or compares them can follow."""
    layer = [value]
    for _ in range(deepest):
        layer = [
            item
            for box in layer
            if isinstance(box, list | dict)
            for item in (box.values() if isinstance(box, dict) else box)
        ]
    return not layer
