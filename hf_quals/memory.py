"""Memory that is used again: what the C library does with large blocks, which tensors on a CPU are."""

from __future__ import annotations

import ctypes
import sys


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def reuse_freed_memory() -> bool:
    """
    Lets this process keep freed memory for its next tensors, instead of giving it back to the system.

    glibc takes every large block from the system and gives it back when it is freed, so that each layer's output is
    cleared by the kernel, page by page, before it is written. The commands and recipes of `hf_quals` call this when
    they start; a program of yours may. The results are the same; the memory a process has had at its peak stays with
    it. For the time it saves on CPUs see `docs/speed.md`.

    Returns:
        `bool`: whether it does; there is nothing to do where another library allocates memory.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    # No block is mapped by itself, and the end of the heap is never given back.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
