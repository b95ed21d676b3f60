"""Process 1 of the sandbox: runs each call of the program under test in a child process, and signs
the results.

The child is the adversary. All that it shares with this process is the writing end of a pipe; a
filter refuses it every system call that reaches another process; there is no /proc to look through.
What it writes is only ever an *output*: the expected values are outside. The signature is a secret
that is still unread in the pipe of standard input when the last child is dead, so no child's memory
ever held it.

Standard input: 8 digits, that many bytes of job, 32 bytes of secret. The job is marshalled by the
process outside: nothing that a program made is ever unmarshalled. Standard output: the secret, then
for each input 8 digits and that many bytes: "v" and JSON, or "e" and a reason.
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

SIGINT, SIG_DFL, SIGKILL = 2, 0, 9
PIPE = 3  # the descriptor that a child writes its result to
ESCAPES = {34: '\\"', 92: "\\\\", **{code: f"\\u{code:04x}" for code in range(32)}}


def serve() -> None:
    """Read the job, run it, and write the signed results."""
    if os.getpid() != 1:  # `run_call` kills every process that it can see
        raise SystemExit("the sandbox runs as process 1 of its own process namespace only")
    if len(sys.argv) > 1:
        build(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["program"]

    # Python has set a handler. Without one process 1 gets no signal from its own namespace.
    LIBC.signal(SIGINT, SIG_DFL)
    drop_privileges()

    job = marshal.loads(read_input(int(read_input(8))))
    deadline = time.monotonic() + job["seconds"]
    results = [run_call(job, values, deadline) for values in job["inputs"]]

    answer = read_input(32)
    for result in results:
        answer += b"%08d" % len(result) + result
    while answer:
        answer = answer[os.write(1, answer) :]


def read_input(count: int) -> bytes:
    """Read exactly this many bytes of standard input, so that what follows stays in the pipe."""
    text = b""
    while len(text) < count:
        part = os.read(0, count - len(text))
        if not part:
            raise SystemExit("the job ended early")
        text += part
    return text


def run_call(job: dict, values: list, deadline: float) -> bytes:
    """Return the result for one input. Afterwards this process is the only one left."""
    if time.monotonic() >= deadline:
        return b"etime limit"

    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run_child(job, values, deadline, sink)
        finally:
            os._exit(1)
    os.close(sink)
    text = read_result(source, job["output"] + 1, deadline)
    os.close(source)

    # Kill everything else in this namespace, and keep the child's status.
    status = 0
    while True:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, SIGKILL)
        try:
            ended, ended_status = os.wait()
        except ChildProcessError:
            break
        if ended == child:
            status = ended_status

    if text:
        return text
    exit_code = os.waitstatus_to_exitcode(status)
    if exit_code < 0 and exit_code != -SIGKILL:
        return b"ecrashed with signal %d" % -exit_code
    return b"eended without a result"


def read_result(source: int, most: int, deadline: float) -> bytes:
    """Return all that comes until the other end closes, or why reading was cut short."""
    text = b""
    while select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(source, 65536)
        if not part:
            return text
        text += part
        if len(text) > most:
            return b"eoutput too large"
    return b"etime limit"


def run_child(
    job: dict,
    values: list,
    deadline: float,
    sink: int,
) -> None:
    """Confine this process, then run the program and write its result to the pipe."""
    # print() writes to a memory file of this process alone, and there is nothing to read.
    printed = os.memfd_create("printed")
    for number in (0, 1, 2):
        os.dup2(printed, number)
    os.dup2(sink, PIPE)
    os.closerange(PIPE + 1, 1024)

    set_limits(job, max(1, int(deadline - time.monotonic() + 1)))
    if job["filter"]:
        restrict()

    text = evaluate(job, values)
    if len(text) > job["output"] + 1:
        text = b"eoutput too large"
    while text:
        text = text[os.write(PIPE, text) :]
    os._exit(0)


def set_limits(job: dict, seconds: int) -> None:
    """Limit what this process may use, for good."""
    limits = {
        resource.RLIMIT_AS: job["memory"],
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: job["scratch"],
        resource.RLIMIT_NOFILE: job["files"],
        resource.RLIMIT_NPROC: 8,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: 8 << 20,
    }
    for kind, most in limits.items():
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            most = min(most, ceiling)
        resource.setrlimit(kind, (most, most))


def evaluate(job: dict, values: list) -> bytes:
    """Return b"v" and the value's JSON, or b"e" and the reason why there is none."""
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
        return b"v" + to_json(value).encode()
    except MemoryError:
        return b"ememory"
    except Exception:
        return b"eits value is not plain data"


def to_json(value) -> str:
    """Return the JSON of exact built-in types alone. Raises TypeError for any other type.

    Written out because importing json takes longer than starting Python.
    """
    kind = type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int or (kind is float and value - value == 0):  # neither infinity nor nan
        return repr(value)
    if kind is str:
        return f'"{value.translate(ESCAPES)}"'
    if kind in (list, tuple):
        return f"[{', '.join(map(to_json, value))}]"
    if kind is dict and all(type(key) is str for key in value):
        items = [f"{to_json(key)}: {to_json(item)}" for key, item in value.items()]
        return f"{{{', '.join(items)}}}"
    raise TypeError


if __name__ == "__main__":
    serve()
