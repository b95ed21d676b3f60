"""Tests run on eight emulated CPU devices, with deprecations as errors; set before jax starts."""

import atexit
import ctypes
import gc
import os
import resource
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tests.flags import PATIENT, QUICK

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {PATIENT} {QUICK}".strip()
# Programs without the lines of Python that each operation comes from: a twentieth less to compile.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# Tracing makes many objects that live, and the collector looks at all of them.
gc.set_threshold(50_000)

# The workers of one session share what they compile, and nothing outlives it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.programs import share  # noqa: E402

share()  # before the modules that compile steps are imported

from tests.fixtures import chats, command, tiny  # noqa: E402

__all__ = ["chats", "command", "tiny"]

# A worker of more bytes drops its compiled programs, after a file of tests or within a long file,
# if it has grown by that much since it last did: dropping takes a second, compiling again more.
AFTER_FILE = 1_500_000_000
WITHIN_FILE = 1_900_000_000
GROWN = 300_000_000

left = 0  # bytes that dropping has left
workers = []  # what each worker that has ended used: (largest bytes, CPU seconds)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Return one worker more than there are cores: often one waits for a program it started."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Begin with the files of many slow tests, so that no worker ends alone with a long one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Drop compiled programs if the worker has grown; later tests find theirs on disk."""
    global left
    same_file = nextitem is not None and nextitem.path == item.path
    most = WITHIN_FILE if same_file else AFTER_FILE
    if resident_bytes() > max(most, left + GROWN):
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        left = resident_bytes()


def pytest_sessionfinish(session):
    """Hand what this worker used to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["used"] = used()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Note what a worker used; one that crashed has left nothing."""
    output = getattr(node, "workeroutput", {})
    if "used" in output:
        workers.append(output["used"])


def pytest_terminal_summary(terminalreporter):
    """Print the memory of the largest worker and the CPU seconds of all."""
    everyone = workers or [used()]
    largest = max(peak for peak, _ in everyone)
    seconds = sum(seconds for _, seconds in everyone)
    terminalreporter.write_line(
        f"largest worker: {largest / 1e9:.1f} GB; {seconds:.0f} CPU seconds in all"
    )


def used() -> tuple[int, float]:
    """Return the peak bytes of this process, and the CPU seconds of it and its children."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(part.ru_utime + part.ru_stime for part in (own, children))
    return own.ru_maxrss * 1024, seconds


def resident_bytes() -> int:
    """Return the memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
