"""Which sandbox this machine has: bubblewrap, else util-linux's unshare, else none, and then a
refusal. What is found is tried before it is trusted.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock

from seekjax.errors import SandboxError
from seekjax.sandbox.execution import ENVIRONMENT, Limits, execute

INSIDE = Path(__file__).with_name("inside")
FLAGS = ("-s", "-S", "-B")  # no site-packages, nothing written
TURN = Lock()


class Broken(Exception):
    """Why one backend does not hold."""


def find_backend() -> tuple[str, Callable[[int], list[str]]]:
    """(name, command line for so many bytes of scratch) of the first backend that is installed and
    proves itself; SandboxError where none does.
    """
    with TURN:  # verifiers are threads, and one trial is enough for all
        return _find_backend()


@lru_cache(maxsize=1)
def _find_backend() -> tuple[str, Callable[[int], list[str]]]:
    """`find_backend`, once: a refusal is not kept, what was found is."""
    reasons = []
    for name, command in {"bwrap": bubblewrap, "unshare": unshare}.items():
        path = shutil.which(name)
        try:
            if path is None:
                raise Broken("not installed")
            found = command(path)
            prove(found)
            return name, found
        except (Broken, OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{name}: {error}")
    raise SandboxError(
        "model-written programs run in a sandbox or not at all, and none works here "
        f"({'; '.join(reasons)}): install bubblewrap (apt install bubblewrap) "
        "on Linux and allow user namespaces, which containers and some distributions turn off"
    )


def python() -> tuple[str, str]:
    """The interpreter itself, not a virtual environment's link to it, and its standard library."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable)), os.path.realpath(
        sysconfig.get_path("stdlib")
    )


def unshare(path: str) -> Callable[[int], list[str]]:
    """Namespaces by unshare; inside/root.py then makes the root."""
    namespaces = (
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
    )
    interpreter, library = python()
    return lambda scratch: [
        path,
        *namespaces,
        "--",
        interpreter,
        *FLAGS,
        str(INSIDE / "harness.py"),
        library,
        str(scratch),
    ]


def bubblewrap(path: str) -> Callable[[int], list[str]]:
    """The interpreter, its standard library and the shared libraries that are mapped when it runs:
    nothing else of the host, all read-only.
    """
    interpreter, library = python()
    imports = "import ctypes, marshal, os, resource, select; print(open('/proc/self/maps').read())"
    maps = subprocess.run(
        [interpreter, *FLAGS, "-c", imports],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    files = {line.split(maxsplit=5)[5] for line in maps.stdout.splitlines() if "/" in line}
    shared = {
        Path(file).name: file
        for file in sorted(files)
        if ".so" in Path(file).name and not file.startswith(library)
    }
    for folder in {
        Path(file).parent for file in shared.values()
    }:  # programs ask for libffi.so.8, a link to the libffi.so.8.1.2 that is mapped
        links = {
            entry.name: os.path.realpath(entry.path)
            for entry in os.scandir(folder)
            if entry.is_symlink()
        }
        shared |= {name: file for name, file in links.items() if file in files}
    loader = next((name for name in shared if name.startswith("ld-")), None)
    if loader is None:
        raise Broken("the interpreter's program loader was not found")
    home = f"/python/{sys.platlibdir}/{Path(library).name}"
    binds = {
        home: library,
        "/python/bin/python3": interpreter,
        "/inside": str(INSIDE),
        **{f"/lib/{name}": file for name, file in shared.items()},
    }
    bound = [word for target, source in binds.items() for word in ("--ro-bind", source, target)]
    masked = (
        ["--tmpfs", f"{home}/site-packages", "--remount-ro", f"{home}/site-packages"]
        if os.path.isdir(f"{library}/site-packages")
        else []
    )
    head = [
        path,
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--as-pid-1",
        "--cap-drop",
        "ALL",
        *bound,
        *masked,
        "--size",
    ]
    tail = [
        "--tmpfs",
        "/scratch",
        "--remount-ro",
        "/",
        "--chdir",
        "/scratch",
        "--",
        f"/lib/{loader}",
        "--library-path",
        "/lib",
        "/python/bin/python3",
        *FLAGS,
        "/inside/harness.py",
    ]
    return lambda scratch: [*head, str(scratch), *tail]


PROBE = """
import os, _socket

def probe(files, port, filtered):
    holes = []

    def attempt(name, action):
        try:
            if action() is not False:
                holes.append(name)
        except OSError:
            pass

    for file in files:
        attempt("reads " + file, lambda: os.stat(file))
        attempt("reads /.." + file, lambda: os.stat("/.." + file))  # where the old root would be, were it still there
    attempt("reaches the network", lambda: _socket.socket().connect(("127.0.0.1", port)))
    library = os.path.dirname(os.__file__)
    attempt("can write to the standard library", lambda: os.access(library, os.W_OK))
    attempt("can write to /", lambda: os.access("/", os.W_OK))
    attempt("sees installed packages", lambda: bool(os.listdir(library + "/site-packages")))
    attempt("sees other folders", lambda: not set(os.listdir("/")) <= {"python", "scratch", "lib", "inside"})
    attempt("sees the environment", lambda: not set(os.environ) <= {"PYTHONHASHSEED", "PWD", "LC_CTYPE"})
    attempt("is in the host's process namespace", lambda: os.getppid() != 1)
    if filtered:
        attempt("makes sockets", _socket.socket)
        attempt("forks", lambda: os.fork() or os._exit(0))
        attempt("runs programs", lambda: os.posix_spawn("/python/bin/python3", ["python3"], {}))
    else:
        attempt("mounts", lambda: mount() == 0)
    return holes

def mount():
    import ctypes
    return ctypes.CDLL(None).mount(b"tmpfs", b"/scratch", b"tmpfs", 0, None)
"""


def prove(command: Callable[[int], list[str]]) -> None:
    """Try from within what must not work, with the system call filter and without it: the
    namespaces hold alone too. Broken where something works.
    """
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        files = [
            secret.name,
            "/etc/passwd",
            "/proc/1",
            "/proc/self",
            "/sys/kernel",
            "/dev",
            os.path.expanduser("~"),
            __file__,
        ]
        files = [file for file in files if os.path.exists(file) and file != "/"]
        for filtered in (True, False):
            try:
                found = execute(
                    command,
                    PROBE,
                    "probe",
                    [[files, server.getsockname()[1], filtered]],
                    Limits(seconds=5),
                    filtered,
                )[0]
            except SandboxError as error:
                raise Broken(str(error)) from error
            if found.reason or found.value != []:
                layer = "with" if filtered else "without"
                raise Broken(
                    f"{layer} its system call filter the program under test "
                    f"{found.reason or ', '.join(map(str, found.value))}"
                )
