"""The machine itself: the cores and the memory that this process may use."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_NO_LIMIT = 1 << 60
"""Version 1 of cgroups writes a number beyond every machine where there is no limit."""


def available_cores(root: Path = _ROOT) -> int:
    """Return the cores that this process may use: its affinity and the quota of its control groups.

    Parameters
    ----------
    root : Path
        Folder below which `proc` and `sys` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(root, "cpu") if (quota := _cpu_quota(group)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def busy_cores() -> float:
    """Cores that were at work or wanted in the last minute, all processes counted; 0 where nobody says."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def host_memory(root: Path = _ROOT) -> tuple[int | None, int | None]:
    """Return the bytes of memory that this process may use, and those that it can still get.

    The least of what the machine has, its control groups allow (`memory.max`, `memory.high`) and its resource
    limits allow (`ulimit -v`, `ulimit -d`). None where the system does not say.
    """
    limits = [*_group_memory(root), *_resource_limits(root)]
    machine = _machine_memory(root)
    if machine is not None:
        limits.append(machine)
    if not limits:
        return None, None
    return min(total for total, _ in limits), max(0, min(available for _, available in limits))


def _machine_memory(root: Path) -> tuple[int, int] | None:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such call, or no such number, on this system
        return None
    # With what the system gives back when asked: after a large file was read, most.
    return total, _table(root / "proc/meminfo").get("MemAvailable:", 0) << 10 or free


def _group_memory(root: Path) -> Iterator[tuple[int, int]]:
    """Yield each limit of a control group, and what is left of it."""
    for group in _groups(root, "memory"):
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        cached = _table(group / "memory.stat")
        # Pages of files that are not in use are given back first.
        used -= cached.get("total_inactive_file", cached.get("inactive_file", 0))
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _number(group / name)
            if limit is not None and limit < _NO_LIMIT:
                yield limit, limit - max(0, used)


def _resource_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield each limit of this process's address space or data, and what is left of it."""
    try:
        import resource
    except ImportError:  # not on this system
        return
    used = _table(root / "proc/self/status")
    for kind, name in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit, limit - (used.get(name, 0) << 10)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it, of either version."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mounted / path.strip("/")
        # In a container the path may be the host's, and what is mounted its end.
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mounted))


def _cpu_quota(group: Path) -> float | None:
    """Return the cores that a control group may keep at work; None where it may all."""
    words = " ".join(_lines(group / "cpu.max")).split()
    if not words:
        words = [str(_number(group / name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, words)
        return quota / period if quota > 0 else None
    return None


def _number(path: Path) -> int | None:
    """Return the number in a file; None where there is none, or the word `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Return the number behind the first word of each line."""
    rows = (line.split() for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
