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
from tests.sandbox.attacks import ATTACKS, BARE
from tests.sandbox.available import BACKEND_NAME, needs_sandbox

SHORT = Limits(seconds=0.4, memory=96 << 20, output=4096, scratch=64 << 10)
CASES = [([[1, 2, 3]], 6), ([[]], 0), ([[1]], 1), ([[20, -4]], 16)]  # the sum
HONEST = "def f(v):\n    return sum(v)"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """What an attack could reach: a file and a variable with a secret, and an open port."""
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
    _, library = python()
    modes = [os.stat(path).st_mode for path in ("/dev/null", library)]
    return modes, os.stat(os.__file__).st_mtime_ns


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_earns_or_harms_or_lasts(name, host, monkeypatch):
    text = ATTACKS[name].replace("SECRET", repr(str(host.file))).replace("PORT", host.port)
    outcomes = []
    if BACKEND_NAME is None:
        with pytest.raises(SandboxError, match="install bubblewrap"):
            grade(text, "f", CASES, SHORT)
        return

    def recorded(*arguments):
        outcomes.extend(run(*arguments))
        return outcomes

    monkeypatch.setattr(grading, "run", recorded)
    start = time.monotonic()
    reward, reason = grade(text, "f", CASES, SHORT)
    assert time.monotonic() - start < SHORT.seconds + 8  # a busy machine may be slow to start it
    assert reward == 0
    assert reason
    assert "right" not in reason.split()

    values = [outcome.value for outcome in outcomes]
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
    inputs = [[value] for value in values]
    outcomes = run("def f(v): return v", "f", inputs, Limits(seconds=5))
    assert [outcome.value for outcome in outcomes] == values

    text = "def f(n):\n    if n == 0: return 1 // n\n    while n == 2: pass\n    return (n, n)"
    assert run(text, "f", [[1], [0], [2], [3]], Limits(seconds=0.7)) == [
        Outcome([1, 1], ""),
        Outcome(None, "exception ZeroDivisionError"),
        Outcome(None, "time limit"),
        Outcome(None, "time limit"),
    ]


@needs_sandbox
def test_the_order_of_sets_repeats_so_that_rewards_do():
    text = "def f(): return list(set('abcdefgh'))"
    orders = {json.dumps(run(text, "f", [[]])[0].value) for _ in range(3)}
    assert len(orders) == 1


@needs_sandbox
def test_expected_values_and_a_used_secret_never_enter(monkeypatch):
    sent = []
    communicate = subprocess.Popen.communicate

    def recorded(process, text, **arguments):
        sent.append(text)
        return communicate(process, text, **arguments)

    monkeypatch.setattr(subprocess.Popen, "communicate", recorded)
    for _ in range(2):
        assert grade("def f(): return 1", "f", [([], "expected-value")])[0] == 0.0
    assert b"expected-value" not in b"".join(sent)
    assert len({text[-32:] for text in sent}) == 2


@needs_sandbox
@pytest.mark.parametrize(
    "forged", ["head -c 99999 /dev/zero; cat >/dev/null", "cat", "cat >/dev/null; kill -9 $$"]
)
def test_an_unsigned_answer_is_an_error_and_not_a_grade(forged):
    with pytest.raises(SandboxError, match="no signed answer"):
        execute(lambda scratch: ["/bin/sh", "-c", forged], HONEST, "f", [[[1]]], SHORT)


@needs_sandbox
@pytest.mark.parametrize("name", BARE)
def test_namespaces_hold_without_the_filter(name):
    _, command = find_backend()
    mark = uuid.uuid4().hex[:12]
    text = BARE[name].replace("MARK", mark)
    outcomes = execute(command, text, "f", [[1], [2]], Limits(seconds=3), filtered=False)
    assert outcomes == [Outcome(True, "")] * 2
    assert mark not in {name_of(pid) for pid in os.listdir("/proc") if pid.isdigit()}


def name_of(pid):
    """The name of a process, or None if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


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
    deadline = time.monotonic() + 8
    children = set()
    while not children and time.monotonic() < deadline:
        time.sleep(0.02)
        children = descendants(starter.pid)
    assert children

    starter.kill()
    starter.communicate()
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)


def is_alive(pid):
    """Whether a process exists and is not a zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def descendants(pid):
    """The processes that a process has started, directly or not."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])

    family = {pid}
    while True:
        children = {child for child, parent in parents.items() if parent in family} - family
        if not children:
            return family - {pid}
        family |= children


@needs_sandbox
@pytest.mark.skipif(BACKEND_NAME != "unshare", reason="takes options of unshare away")
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
    _, command = find_backend()

    def without(scratch):
        words = command(scratch)
        return words[:-2] if missing == "root" else [word for word in words if word != missing]

    with pytest.raises(backend.BackendError, match=hole):
        prove(without)


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
@pytest.mark.skipif(BACKEND_NAME != "unshare", reason="bubblewrap does some of this itself")
@pytest.mark.parametrize(("file", "line", "hole"), HOLES, ids=[hole for *_, hole in HOLES])
def test_every_line_that_shuts_a_door_is_needed(file, line, hole, monkeypatch, tmp_path):
    inside = shutil.copytree(
        backend.INSIDE, tmp_path / "inside", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = (inside / file).read_text()
    assert text.count(line) == 1
    indent = line[: len(line) - len(line.lstrip())]
    (inside / file).write_text(text.replace(line, indent + "pass"))
    monkeypatch.setattr(backend, "INSIDE", inside)
    with pytest.raises(backend.BackendError, match=hole):
        prove(backend.unshare(shutil.which("unshare")))


def test_without_a_backend_it_refuses_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    backend._find_backend.cache_clear()
    try:
        missing = r"bwrap: not installed; unshare: not installed.*install bubblewrap"
        for start in (lambda: run(HONEST, "f", [[[1]]]), lambda: grade(HONEST, "f", CASES)):
            with pytest.raises(SandboxError, match=missing) as refusal:
                start()
            assert "\n" not in str(refusal.value)
            assert ". " not in str(refusal.value)

        # As on a machine whose user namespaces are turned off.
        for name in ("bwrap", "unshare"):
            (tmp_path / name).write_text(
                "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n"
            )
            (tmp_path / name).chmod(0o755)
        refused = "Operation not permitted"
        forbidden = rf"bwrap: .*{refused}.*unshare: .*{refused}.*install bubblewrap"
        with pytest.raises(SandboxError, match=forbidden):
            grade(HONEST, "f", CASES)
    finally:
        backend._find_backend.cache_clear()


@pytest.mark.parametrize("machine", CALLS)
def test_the_filter_allows_what_is_listed_and_nothing_else(machine):
    lines = filter_program(machine)
    allowed = set(CALLS[machine].values())
    i386 = 0x40000003  # the 32-bit calls of x86: killed
    for number in [*range(600), 1 << 30, (1 << 30) + 1, 2**32 - 1]:
        expected = 0x7FFF0000 if number in allowed else 0x50000 | 38
        assert run_filter(lines, number, ARCHITECTURES[machine]) == expected
        assert run_filter(lines, number, i386) == 0x80000000
    assert all(line == struct.unpack("HBBI", struct.pack("HBBI", *line)) for line in lines)
    with pytest.raises(SystemExit, match="riscv64"):
        filter_program("riscv64")


def run_filter(lines, number, architecture):
    """Interpret a filter as the kernel does, and return its answer."""
    position = 0
    accumulator = None
    while True:
        code, if_equal, if_not, operand = lines[position]
        position += 1
        if code == 0x06:  # return
            return operand
        if code == 0x20:  # load
            accumulator = {0: number, 4: architecture}[operand]
        else:
            position += if_equal if accumulator == operand else if_not


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
    for name, number in CALLS[machine].items():
        assert int(numbers[renamed.get(name, name)]) == number


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
