"""The compiler options of every kernel, in one place, and the cache that they share.

Floats are worked out as written, on every machine: no sum is reassociated, no product and addition are
joined. Long sums, which must become SIMD all the same, are in `sums`.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numba import config, njit
from numba.core import event

from vstore_kernels.isa import VARIABLE
from vstore_kernels.parts import make_part

Int: TypeAlias = "int | np.integer[Any]"
"""An integer inside a kernel; compiled, it is int64."""

DISABLE_JIT: Final = bool(getattr(config, "DISABLE_JIT", False))

# An instruction set that the environment names is for a test: its kernels must not enter the common cache.
CACHED: Final = not os.environ.get(VARIABLE)
"""Whether kernels are kept on disk."""

# No reference counts: kernels neither make nor keep arrays, and numba would otherwise count, atomically,
# every array that a kernel hands to another: threefold time in a search, and threads in each other's way.
_COMMON: Final[dict[str, Any]] = {
    "nogil": True,
    "cache": CACHED,
    "error_model": "numpy",
    "boundscheck": False,
    "_nrt": False,
}

kernel: Any = partial(njit, **_COMMON, fastmath=False)
"""Decorator of kernels. A kernel must not allocate: its caller passes buffers."""


def _part(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    return partial(make_part, options=_COMMON | options)


part: Any = partial(_part, fastmath=False)
"""Decorator of a `kernel` that other kernels call: it is optimised in each of them, not for itself."""
finite_part: Any = partial(_part, fastmath=True)
"""As `part`, for maxima, which are alike in any order: NaN and infinity give nonsense (never a crash)."""
inner: Any = partial(part, forceinline=True)
"""Decorator of a `part` that is called from one place or in a hot loop, and is always inlined."""


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


def import_without_blas() -> bool:
    """Import numba's array functions, which every kernel needs, without scipy.linalg; say whether so.

    To learn whether there is a BLAS for products, numba imports scipy.linalg with them: 0.3 seconds for what
    no kernel here uses. Code that does use it asks again when it is compiled, and is not affected.
    """
    if "numba.np.arraymath" in sys.modules or importlib.util.find_spec("scipy") is None:
        return False
    from numba.np import linalg

    asks = getattr(linalg, "ensure_blas", None)
    if asks is None:
        return False
    vars(linalg)["ensure_blas"] = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        vars(linalg)["ensure_blas"] = asks
    return True


class _NoCollections(event.Listener):
    """Keeps the garbage collector away while numba compiles: it finds little then, and takes long."""

    depth = 0
    found_enabled = False

    def on_start(self, event: Any) -> None:
        """Stop collections, if a compilation begins that is no part of another."""
        if self.depth == 0:
            self.found_enabled = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event: Any) -> None:
        """Allow them again."""
        self.depth -= 1
        if self.depth == 0 and self.found_enabled:
            gc.enable()


# Compilations hold a lock of numba's, so no two threads are in the listener.
event.register("numba:compile", _NoCollections())  # type: ignore[no-untyped-call]
import_without_blas()
drop_stale_cache(Path(__file__).parent)
