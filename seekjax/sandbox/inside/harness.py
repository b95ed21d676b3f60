"""Process 1 of the sandbox: runs each call of the program under test in a child of its own, and
signs what the children said.

The child is the enemy. All it shares with this process is the writing end of a pipe; a filter
refuses it every system call that reaches another process; there is no /proc to look through. What
it writes is only ever an *output*: the expected values are outside. The signature is a secret that
still lies unread in the pipe of standard input when the last child is dead, so no child's memory
ever held it.

Standard input: 8 digits, that many bytes of job (marshal, written by the parent of all this:
nothing a program made is ever unmarshalled), 32 bytes of secret. Standard output: the secret, then
for each input 8 digits and that many bytes: "v" and JSON, or "e" and why not.
"""

import contextlib
import marshal
import os
import resource
import select
import sys
import time

from root import build
from syscalls import LIBC, drop_privileges, restrict

ESCAPES = {34: '\\"', 92: "\\\\", **{code: f"\\u{code:04x}" for code in range(32)}}


def serve() -> None:
    if os.getpid() != 1:  # `call` kills every process it can see
        raise SystemExit("the sandbox runs as process 1 of its own process namespace only")
    if len(sys.argv) > 1:
        build(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["program"]
    LIBC.signal(
        2, 0
    )  # SIG_DFL, as which process 1 gets no signal from its own namespace; Python had set a handler
    drop_privileges()
    job = marshal.loads(take(int(take(8))))
    deadline = time.monotonic() + job["seconds"]
    answers = [call(job, values, deadline) for values in job["inputs"]]
    answer = take(32) + b"".join(b"%08d" % len(text) + text for text in answers)
    while answer:
        answer = answer[os.write(1, answer) :]


def take(count: int) -> bytes:
    """Exactly so many bytes of standard input: not one more, so that what follows stays in the
    pipe."""
    text = b""
    while len(text) < count:
        part = os.read(0, count - len(text))
        if not part:
            raise SystemExit("the job ended early")
        text += part
    return text


def call(job: dict, values: list, deadline: float) -> bytes:
    """What the program says of one input; after it no process is left but this one."""
    if time.monotonic() >= deadline:
        return b"etime limit"
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(job, values, deadline, sink)
        finally:
            os._exit(1)
    os.close(sink)
    text = listen(source, job["output"] + 1, deadline)
    os.close(source)
    status = 0
    while True:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, 9)
        try:
            ended, how = os.wait()
        except ChildProcessError:
            break
        status = how if ended == child else status
    if text:
        return text
    number = os.waitstatus_to_exitcode(status)
    return (
        b"ecrashed with signal %d" % -number
        if number < 0 and number != -9
        else b"eended without a result"
    )


def listen(source: int, most: int, deadline: float) -> bytes:
    """All that comes until the other end closes, or why that was cut short."""
    text = b""
    while select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(source, 65536)
        if not part:
            return text
        text += part
        if len(text) > most:
            return b"eoutput too large"
    return b"etime limit"


def work(job: dict, values: list, deadline: float, sink: int) -> None:
    """The child: shut every door, then run the program and write its value to the pipe."""
    printed = os.memfd_create(
        "printed"
    )  # where print() goes: a file of memory of its own, and there is nothing to read
    for number in (0, 1, 2):
        os.dup2(printed, number)
    os.dup2(sink, 3)
    os.closerange(4, 1024)
    seconds = max(1, int(deadline - time.monotonic() + 1))
    for what, most in (
        (resource.RLIMIT_AS, job["memory"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, job["scratch"]),
        (resource.RLIMIT_NOFILE, job["files"]),
        (resource.RLIMIT_NPROC, 8),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_STACK, 8 << 20),
    ):
        ceiling = resource.getrlimit(what)[1]
        most = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
        resource.setrlimit(what, (most, most))
    if job["filter"]:
        restrict()
    text = judge(job, values)
    if len(text) > job["output"] + 1:
        text = b"eoutput too large"
    while text:
        text = text[os.write(3, text) :]
    os._exit(0)


def judge(job: dict, values: list) -> bytes:
    """b"v" and the value's JSON, or b"e" and the reason that there is none."""
    space = {"__name__": "program"}
    try:
        exec(compile(job["program"], "program", "exec"), space)
        function = space.get(job["function"])
        if not callable(function):
            return b"eno function " + job["function"].encode()
        value = function(*values)
    except MemoryError:
        return b"ememory"
    except BaseException as error:
        return b"eexception " + type(error).__name__[:60].encode(errors="replace")
    try:
        return b"v" + plain(value).encode()
    except MemoryError:
        return b"ememory"
    except Exception:
        return b"eits value is not plain data"


def plain(value: object) -> str:
    """JSON of exact built-in types alone. Written out because importing json takes longer than
    starting Python."""
    kind = type(value)
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is int or (kind is float and value - value == 0):
        return repr(value)
    if kind is str:
        return f'"{value.translate(ESCAPES)}"'
    if kind in (list, tuple):
        return f"[{', '.join(map(plain, value))}]"
    if kind is dict and all(type(key) is str for key in value):
        return f"{{{', '.join(f'{plain(key)}: {plain(item)}' for key, item in value.items())}}}"
    raise TypeError


if __name__ == "__main__":
    serve()
