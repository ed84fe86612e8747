"""The cores and the memory that this process may use."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path("/")
_NO_LIMIT = 1 << 60
"""Without a limit, version 1 of cgroups writes a number larger than this."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of `mallopt` in the C library of GNU."""
_KEPT_BYTES, _HUGE_PAGE_BYTES = 16 << 20, 4 << 20


def available_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, by its affinity and its control groups' quota.

    Parameters
    ----------
    root : Path
        Folder that contains `proc` and `sys`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _list_groups(root, "cpu") if (quota := _read_cpu_quota(group)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def busy_cores() -> float:
    """Return the load average of the last minute, over all processes; 0 if the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def host_memory(root: Path = _ROOT) -> tuple[int | None, int | None]:
    """Return the bytes of memory that this process may use, and those that are still available to it.

    Each is the smallest of the values of the machine, of the control groups (`memory.max`, `memory.high`) and
    of the resource limits (`ulimit -v`, `ulimit -d`). None if the system does not report any.
    """
    limits = [*_read_group_limits(root), *_read_resource_limits(root)]
    machine = _read_machine_memory(root)
    if machine is not None:
        limits.append(machine)
    if not limits:
        return None, None
    return min(total for total, _ in limits), max(0, min(available for _, available in limits))


def _read_machine_memory(root: Path) -> tuple[int, int] | None:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such call, or no such number, on this system
        return None
    # MemAvailable includes cached files, which the system drops on demand.
    return total, _read_table(root / "proc/meminfo").get("MemAvailable:", 0) << 10 or free


def _read_group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield each memory limit of the control groups in bytes, and the bytes left below it."""
    for group in _list_groups(root, "memory"):
        used = _read_number(group / "memory.current") or _read_number(group / "memory.usage_in_bytes") or 0
        cached = _read_table(group / "memory.stat")
        # The system drops unused cached pages of files first.
        used -= cached.get("total_inactive_file", cached.get("inactive_file", 0))
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limit = _read_number(group / name)
            if limit is not None and limit < _NO_LIMIT:
                yield limit, limit - max(0, used)


def _read_resource_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limits of this process's address space and data in bytes, and the bytes left below each."""
    try:
        import resource
    except ImportError:  # this system has no resource limits
        return
    used = _read_table(root / "proc/self/status")
    for kind, name in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit, limit - (used.get(name, 0) << 10)


def _list_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and its parents, for cgroups version 1 and 2."""
    for line in _read_lines(root / "proc/self/cgroup"):
        yield from _list_folders(root, controller, line)


@cache
def _list_folders(root: Path, controller: str, line: str) -> tuple[Path, ...]:
    """Return the folders that a line of `/proc/self/cgroup` stands for, the innermost first."""
    _, controllers, path = line.split(":", 2)
    if controllers and controller not in controllers.split(","):
        return ()
    mounted = root / "sys/fs/cgroup" / (controller if controllers else "")
    group = mounted / path.strip("/")
    # In a container the path may be that of the host, of which only the end is mounted.
    return tuple(folder for folder in (group, *group.parents) if folder.is_relative_to(mounted))


def _read_cpu_quota(group: Path) -> float | None:
    """Return the number of cores that a control group may use, or None if it has no limit."""
    words = " ".join(_read_lines(group / "cpu.max")).split()
    if not words:
        words = [str(_read_number(group / name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, words)
        return quota / period if quota > 0 else None
    return None


def _read_number(path: Path) -> int | None:
    """Return the number in a file, or None if there is no file or it contains the word `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _read_table(path: Path) -> dict[str, int]:
    """Return the second word of each line as a number, by the first word."""
    rows = (line.split() for line in _read_lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@cache
def keep_freed_memory() -> None:
    """Let the allocator of this process keep some freed memory; Dask lets its workers keep 64 KiB.

    Every array above 128 KiB would come from the system and go back to it, which took a seventh of the
    processor time of tasks. NumPy asks for huge pages for arrays from 4 MiB on, and those cost little.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
        set_option(_MMAP_THRESHOLD, _HUGE_PAGE_BYTES)
