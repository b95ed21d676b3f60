"""Which sandbox this machine has: bubblewrap, else util-linux's unshare, else none.

A backend is tested from within before it is trusted. Without one, programs are not run at all.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from functools import lru_cache
from pathlib import Path
from threading import Lock

from seekjax.errors import SandboxError
from seekjax.sandbox.execution import ENVIRONMENT, Command, Limits, execute

INSIDE = Path(__file__).with_name("inside")
FLAGS = ("-s", "-S", "-B")  # of Python: no site-packages, nothing written
_LOCK = Lock()


class BackendError(Exception):
    """Raised for a backend that is missing or has a hole. The message is the reason."""


def find_backend() -> tuple[str, Command]:
    """Return name and command of the first backend that is installed and passes `prove`.

    Raises SandboxError with the reason for each backend if there is none.
    """
    with _LOCK:  # verifiers are threads, and one trial is enough for all
        return _find_backend()


@lru_cache(maxsize=1)
def _find_backend() -> tuple[str, Command]:
    """Find the backend once in this process. A refusal is not kept."""
    reasons = []
    for name, make_command in {"bwrap": bubblewrap, "unshare": unshare}.items():
        path = shutil.which(name)
        try:
            if path is None:
                raise BackendError("not installed")
            command = make_command(path)
            prove(command)
            return name, command
        except (BackendError, OSError, subprocess.SubprocessError) as error:
            reasons.append(f"{name}: {error}")

    raise SandboxError(
        "model-written programs run in a sandbox or not at all, and none works here "
        f"({'; '.join(reasons)}): install bubblewrap (apt install bubblewrap) "
        "on Linux and allow user namespaces, which containers and some distributions turn off"
    )


def python() -> tuple[str, str]:
    """Return the paths of the interpreter and of its standard library.

    The interpreter is the real one, not a virtual environment's link to it.
    """
    interpreter = getattr(sys, "_base_executable", sys.executable)
    library = sysconfig.get_path("stdlib")
    return os.path.realpath(interpreter), os.path.realpath(library)


def unshare(path: str) -> Command:
    """Return a command that makes namespaces with unshare; inside/root.py then makes the root."""
    interpreter, library = python()
    namespaces = [
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
    ]
    harness = [interpreter, *FLAGS, str(INSIDE / "harness.py"), library]
    return lambda scratch: [path, *namespaces, "--", *harness, str(scratch)]


def bubblewrap(path: str) -> Command:
    """Return a command that makes namespaces and the root with bubblewrap.

    The root holds the interpreter, its standard library and the shared libraries that are mapped
    when it runs: nothing else of the host, and all of it read-only.
    """
    interpreter, library = python()
    libraries = shared_libraries(interpreter, library)
    loader = next((name for name in libraries if name.startswith("ld-")), None)
    if loader is None:
        raise BackendError("the interpreter's program loader was not found")

    namespaces = [
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
    ]

    # The files of the root, and an empty folder over the installed packages.
    home = f"/python/{sys.platlibdir}/{Path(library).name}"
    files = ["--ro-bind", library, home]
    files += ["--ro-bind", interpreter, "/python/bin/python3"]
    files += ["--ro-bind", str(INSIDE), "/inside"]
    for name, file in libraries.items():
        files += ["--ro-bind", file, f"/lib/{name}"]
    if os.path.isdir(f"{library}/site-packages"):
        files += ["--tmpfs", f"{home}/site-packages", "--remount-ro", f"{home}/site-packages"]

    scratch_folder = ["--tmpfs", "/scratch", "--remount-ro", "/", "--chdir", "/scratch", "--"]
    interpreter_inside = [f"/lib/{loader}", "--library-path", "/lib", "/python/bin/python3"]
    head = [path, *namespaces, *files, "--size"]
    tail = [*scratch_folder, *interpreter_inside, *FLAGS, "/inside/harness.py"]
    return lambda scratch: [*head, str(scratch), *tail]


def shared_libraries(interpreter: str, library: str) -> dict[str, str]:
    """Return the shared libraries that the harness maps, by name.

    Those of the standard library itself are left out.
    """
    imports = "import ctypes, marshal, os, resource, select; print(open('/proc/self/maps').read())"
    maps = subprocess.run(
        [interpreter, *FLAGS, "-c", imports],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    mapped = {line.split(maxsplit=5)[5] for line in maps.stdout.splitlines() if "/" in line}

    libraries = {}
    for file in sorted(mapped):
        name = Path(file).name
        if ".so" in name and not file.startswith(library):
            libraries[name] = file

    # Programs ask for libffi.so.8, which is a link to the libffi.so.8.1.2 that is mapped.
    for folder in {Path(file).parent for file in libraries.values()}:
        for entry in os.scandir(folder):
            if not entry.is_symlink():
                continue
            target = os.path.realpath(entry.path)
            if target in mapped:
                libraries[entry.name] = target
    return libraries


# Runs inside a sandbox and returns what works there although it must not.
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
        # Where the old root would be if it were still there.
        attempt("reads /.." + file, lambda: os.stat("/.." + file))
    attempt("reaches the network", lambda: _socket.socket().connect(("127.0.0.1", port)))
    library = os.path.dirname(os.__file__)
    attempt("can write to the standard library", lambda: os.access(library, os.W_OK))
    attempt("can write to /", lambda: os.access("/", os.W_OK))
    attempt("sees installed packages", lambda: bool(os.listdir(library + "/site-packages")))
    root = {"python", "scratch", "lib", "inside"}
    attempt("sees other folders", lambda: not set(os.listdir("/")) <= root)
    environment = {"PYTHONHASHSEED", "PWD", "LC_CTYPE"}
    attempt("sees the environment", lambda: not set(os.environ) <= environment)
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

# Files and folders of the host that no sandbox may show, apart from the home folder.
HOST_FILES = ("/etc/passwd", "/proc/1", "/proc/self", "/sys/kernel", "/dev", __file__)


def prove(command: Command) -> None:
    """Try from within what must not work, with the system call filter and without it.

    The namespaces have to hold without the filter, too. Raises BackendError if something works.
    """
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        files = [secret.name, *HOST_FILES, os.path.expanduser("~")]
        files = [file for file in files if os.path.exists(file) and file != "/"]
        port = server.getsockname()[1]
        for filtered in (True, False):
            arguments = [files, port, filtered]
            try:
                [outcome] = execute(
                    command, PROBE, "probe", [arguments], Limits(seconds=5), filtered
                )
            except SandboxError as error:
                raise BackendError(str(error)) from error

            if outcome.reason or outcome.value != []:
                layer = "with" if filtered else "without"
                fault = outcome.reason or ", ".join(map(str, outcome.value))
                raise BackendError(f"{layer} its system call filter the program under test {fault}")
