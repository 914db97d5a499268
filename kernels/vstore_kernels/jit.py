"""The compiler options of every kernel, in one place, and the cache that they share.

`FASTMATH` lets sums be reassociated, so that loops vectorise, and leaves out `nnan` and `ninf`: NaN and
infinity can arrive as data, and a comparison with them must mean what it says.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numba import config, njit

from vstore_kernels.isa import VARIABLE

Int: TypeAlias = "int | np.integer[Any]"
"""An integer inside a kernel; compiled, it is int64."""

DISABLE_JIT: Final = bool(getattr(config, "DISABLE_JIT", False))
FASTMATH: Final = frozenset({"reassoc", "contract", "nsz", "arcp", "afn"})

# An instruction set that the environment names is for a test: its kernels must not enter the common cache.
_CACHED: Final = not os.environ.get(VARIABLE)

# No reference counts: kernels neither make nor keep arrays, and numba would otherwise count, atomically,
# every array that a kernel hands to another: threefold time in a search, and threads in each other's way.
_COMMON: Final = {
    "nogil": True,
    "cache": _CACHED,
    "error_model": "numpy",
    "boundscheck": False,
    "_nrt": False,
}

kernel: Any = partial(njit, **_COMMON, fastmath=False)
"""Decorator of kernels without floating-point sums. A kernel must not allocate: its caller passes buffers."""
sum_kernel: Any = partial(njit, **_COMMON, fastmath=set(FASTMATH))
"""Decorator of kernels whose floating-point sums may be reordered. A kernel must not allocate."""
finite_kernel: Any = partial(njit, **_COMMON, fastmath=True)
"""As `sum_kernel`, and NaN and infinity give nonsense (never a crash): for loops that only so become SIMD."""
inner: Any = partial(kernel, forceinline=True)
"""Decorator of kernels that only other kernels call, each from one place or in a hot loop."""


def drop_stale_cache(folder: Path) -> bool:
    """Delete the compiled kernels under `folder` that other sources made; return whether any source changed.

    numba compares a cached kernel with its own file only (modification time and size), so a kernel that calls
    another module's kernel would keep the old code of it; and wheels carry one fixed modification time.
    """
    digest = hashlib.blake2b(digest_size=16)
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    cache = folder / "__pycache__"
    stamp = cache / "kernels.digest"
    current = digest.hexdigest()
    try:
        if stamp.exists() and stamp.read_text() == current:
            return False
        cache.mkdir(exist_ok=True)
        for pattern in ("*.nbi", "*.nbc"):
            for compiled in cache.glob(pattern):
                compiled.unlink(missing_ok=True)
        stamp.write_text(current)
    except OSError:
        # A read-only installation: numba then keeps its cache in the user's own folder.
        return False
    return True


drop_stale_cache(Path(__file__).parent)
