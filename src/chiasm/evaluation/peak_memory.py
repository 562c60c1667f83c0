"""Peak resident memory of a piece of work, in a forked process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chiasm.core.errors import InputError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt` in the C library."""


def peak_memory(way: Callable[[], Any]) -> float:
    """Return by how many MiB a second run of `way` raises the resident memory. Linux only.

    The process must have one thread, or the fork may inherit a lock that nobody opens.

    Raises:
        InputError: The run did not finish, or this system tells no peaks.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # What is freed goes back to the system, or the heap would hide a later peak.
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, 262144)
            library.mallopt(_TRIM_THRESHOLD, 0)
            library.malloc_trim(0)
            # On first use a process maps code and gets the workspaces of matrix products, to keep.
            way()
            gc.collect()
            library.malloc_trim(0)
            before = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            way()
            os.write(sending, json.dumps(_status("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise InputError(
            "the work whose memory is measured did not finish; run it by itself to see why, and "
            "whether there is enough memory (peaks are told by Linux only)"
        )
    return float(json.loads(told))


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise InputError(f"/proc/self/status has no {key}; memory is measured on Linux only")
