"""What is asked of the operating system and of the interpreter, once at the start."""

from __future__ import annotations

import ctypes
import gc
import resource
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES = 64 * 1024 * 1024
_GC_THRESHOLD = 20_000  # why: a request makes a few dozen containers, hardly ever in cycles


def raise_open_files() -> int:
    """Raises the limit of open files as far as it goes: a request takes three sockets.

    Returns:
        The limit now in force.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or hard == resource.RLIM_INFINITY:
        wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks of megabytes instead of giving them back and asking again.

    Measured on prototypes: that giving back was half of the cost of a 1 MB request body.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(_KEPT_BYTES))
        mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2 * _KEPT_BYTES))


def settle_garbage_collector() -> None:
    """Takes what has been built so far out of the collector's sight. Call when all is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 50, 50)
