"""Freed memory is kept for the next step of a training.

The C library of Linux gives large blocks back to the system as soon as they are free, and takes
them again page by page in the next step, which costs a training step up to a sixth of its time. No
number depends on where memory comes from.
"""

import ctypes
import functools

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of settings in mallopt(3)
MOST = 2**31 - 1  # bytes, the largest value that it takes
OLDER = 2**25  # the largest that older versions take


@functools.cache
def keep_freed() -> bool:
    """Ask for it, once a process; whether the C library can (glibc only)."""
    try:
        ask = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    if not ask(TRIM_THRESHOLD, MOST):
        return False
    return bool(ask(MMAP_THRESHOLD, MOST) or ask(MMAP_THRESHOLD, OLDER))
