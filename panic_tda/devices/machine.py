"""The machine itself: its cores and its memory."""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores() -> float:
    """Cores that were at work or wanted in the last minute, all processes counted; 0 where nobody says."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def host_memory() -> tuple[int | None, int | None]:
    """Bytes of host memory, and those that can be had; None where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such call, or no such number, on this system
        return None, None
    return total, _available() or free


def _available() -> int | None:
    """Free bytes, and those that the system gives back when asked: after a large file was read, most."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:  # Linux alone has it
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return 1024 * int(next(found, 0)) or None
