"""How much memory is free, and whether what a command is about to hold fits into it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from seekjax.errors import SeekjaxError
from sharding.show import human

CGROUP = Path("/sys/fs/cgroup")
MENTIONED = 2**30  # bytes from which on a need is printed before it arises


def held_bytes(tree: Any) -> dict[Any, int]:
    """Return the bytes of each of this process's devices that arrays of these shapes will take.

    `tree` holds ShapeDtypeStructs with shardings.
    """
    held: dict[Any, int] = {}
    for x in jax.tree.leaves(tree):
        part = x.sharding.shard_shape(x.shape)
        size = x.dtype.itemsize
        for length in part:
            size *= length
        for device in x.sharding.addressable_devices:
            held[device] = held.get(device, 0) + size
    return held


def shortage(tree: Any, working: int = 0) -> str:
    """Return "" if arrays of these shapes fit into what is free, else what is missing.

    `working` are bytes of this machine's memory that are needed besides. Where the free memory is
    not known, everything fits.
    """
    return shortage_of(held_bytes(tree), working)


def shortage_of(held: dict[Any, int], working: int = 0) -> str:
    """Return `shortage` of these bytes on each device."""
    for need, free, where in _needs(held, working):
        if free is not None and need > free:
            return f"{human(need)} of memory {where}, of which {human(free)} are free"
    return ""


def check_room(tree: Any, working: int, what: str, advice: str, error: type[SeekjaxError]) -> None:
    """Say on stderr how much memory is about to be taken; raise `error` if there is less.

    Args:
        tree: ShapeDtypeStructs with shardings.
        working: Bytes of this machine's memory that are needed besides.
        what: What takes the memory, to begin the sentence with.
        advice: What to do if it does not fit, to end it with.
        error: The class of what is raised.
    """
    missing = shortage(tree, working)
    if missing:
        raise error(f"{what} needs {missing}: {advice}.")

    need = sum(held_bytes(tree).values()) + working
    if need >= MENTIONED:
        print(f"note: {what} takes up to {human(need)} of memory", file=sys.stderr, flush=True)


def free_bytes() -> int | None:
    """Return the bytes of this machine's memory that are free, None if they are not known.

    They are what the system could give without swapping, and at most what the control group of a
    container leaves.
    """
    free = _meminfo("MemAvailable")
    group = _left_by_group()
    known = [bytes_ for bytes_ in (free, group) if bytes_ is not None]
    return min(known, default=None)


def _needs(held: dict[Any, int], working: int) -> Iterator[tuple[int, int | None, str]]:
    """Yield (bytes needed, bytes free, where) for this machine and for each accelerator."""
    on_host = working
    for device, need in held.items():
        if device.platform == "cpu":
            on_host += need
            continue
        figures = device.memory_stats() or {}
        if "bytes_limit" in figures:
            yield need, figures["bytes_limit"] - figures.get("bytes_in_use", 0), f"on {device}"
    yield on_host, free_bytes(), "on this machine"


def _meminfo(name: str) -> int | None:
    """Return a figure of Linux's own; on other systems all memory there is, where it is known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _left_by_group() -> int | None:
    """Return what the control group of this process may still take, None without a limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        figures = (CGROUP / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None

    # Pages of files that nothing has read lately are given up when memory is asked for.
    cached = 0
    if "inactive_file" in figures:
        cached = int(figures[figures.index("inactive_file") + 1])
    return max(int(limit) - used + cached, 0)
