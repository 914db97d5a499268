"""The largest kernel compiled by a second process, while this one compiles those of the first build.

numba compiles one function at a time in a process, and its cache on disk serves all processes. So where
nothing is compiled yet and there is a second core, a child compiles the kernel that answers whole queries,
which takes as long as all others. When this process comes to it, it compiles what else a first answer needs,
and then waits for the child. Where there is no child, or it fails, this process compiles the kernel itself.

`VSTORE_COMPILE_AHEAD=0` in the environment switches it off.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from numba import types

from vstore_kernels import bitmap, gate, insertion, lists, near, pair_lists
from vstore_kernels.answering import answer_rows
from vstore_kernels.codes import prepare_into
from vstore_kernels.jit import CACHED, DISABLE_JIT
from vstore_kernels.rescore import rescore_rows, undecided_rows
from vstore_kernels.scan import scan_kernel

VARIABLE: Final = "VSTORE_COMPILE_AHEAD"
_PATIENCE_S: Final = 120.0
_PROGRAM: Final = "from vstore_kernels.ahead import main; main()"

_types: Any = types
_I64: Any = types.int64


def _array(element: Any, n_dimensions: int, readonly: bool = False) -> Any:
    return _types.Array(element, n_dimensions, "C", readonly=readonly)


_U8S, _U64S = _array(types.uint8, 1), _array(types.uint64, 1)
_I32S, _I64S, _F32S = _array(types.int32, 1), _array(_I64, 1), _array(types.float32, 1)
_I32T, _F32T = _array(types.int32, 2), _array(types.float32, 2)
# fmt: off
AHEAD: Final[tuple[Any, tuple[Any, ...]]] = (
    answer_rows, (
        _F32T, _U64S, *[_I64] * 6, _I32T, _F32T, _array(_I64, 2), _U8S, _I64S, types.float32, _I64S, _I64,
        _I64,
    ),
)
"""The kernel that the child compiles, and the types of its arguments."""
MEANWHILE: Final[tuple[tuple[Any, tuple[Any, ...]], ...]] = (
    (prepare_into, (
        _F32S, _F32S, _F32S, types.float32, _I64, _I64, _array(types.float32, 2, readonly=True), _F32S, _U64S,
        _F32S,
    )),
    (scan_kernel, (
        _I64S, _I64, _I64, _U64S, _F32S, _I64, _I64, _I64, _I32S, _I32S, _F32S, _I64, _I32S, _F32S,
    )),
    (rescore_rows, (_F32S, _I64S, _I64, _F32S, _F32S, _I64, _I64, _I32S, _F32S)),
    (undecided_rows, (
        _I32S, _F32S, _I64S, _I64, _I64, _U64S, _F32S, *[_I64] * 4, _F32S, _I32S, _F32S, _I64S,
    )),
    (insertion.link_orphans, (_array(types.int16, 2), _I32T, _I32S)),
    (pair_lists._write, (_I64S, _U8S, _U8S, _array(types.uint16, 2), _array(types.uint8, 2), _U8S, _I64)),
    (near.cluster_distances, (_F32S, _F32T, _F32S, _I64, _F32S)),
    (lists._bad_row, (_I32T, _I64, _I32S)),
    (pair_lists._codes_of, (_U8S, _array(types.uint16, 1))),
    (bitmap._indices, (_U64S, _I32S)),
    (gate._in_range, (_I32S, _I64)),
)
# fmt: on
"""Kernels that a small shard's build and first answer need after it, and the types of their arguments."""


def whole(kernel: Any) -> Any:
    """Return the numba dispatcher of a kernel that Python calls, or of a part as Python calls it."""
    return getattr(kernel, "whole", kernel)


class _Awaited:
    """The cache of the kernel that a child compiles: asked for it, it waits until the child is done."""

    def __init__(self, cache: Any, signature: tuple[Any, ...]) -> None:
        self._cache, self._signature = cache, signature
        self.done, self.waits = threading.Event(), True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return what the cache holds for a signature, or None."""
        if self.waits and tuple(signature) == self._signature:
            self.waits = False
            for kernel, types_of_arguments in MEANWHILE:
                whole(kernel).compile(types_of_arguments)
            self.done.wait(_PATIENCE_S)
        return self._cache.load_overload(signature, context)


class _Child:
    """The process that compiles, and the thread that waits for its end."""

    def __init__(self) -> None:
        kernel, signature = AHEAD
        self._awaited = _Awaited(kernel._cache, signature)
        folders = os.pathsep.join(folder for folder in sys.path if folder)
        # It ends when its input does, and so with this process, however that ends.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": folders},
        )
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._wait, daemon=True, name="vstore compiles ahead").start()
        kernel._cache = self._awaited

    def end(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        self._process.wait()
        self._awaited.done.set()

    def _forget(self) -> None:
        """In a fork there is no thread that waits for the child."""
        self._awaited.waits = False


_child: _Child | None = None
_lock: Final = threading.Lock()


def begin() -> bool:
    """Have a kernel of the first answer compiled by another process; say whether one was started.

    A build calls it before its own kernels are compiled. Nothing happens where the kernels are in numba's
    cache, where they would not come into it, on one core, or where Python is not a program of its own.
    """
    global _child
    with _lock:
        if _child is not None or not _of_use():
            return False
        try:
            _child = _Child()
        except (OSError, RuntimeError):
            # No process, or no thread, to be had.
            return False
        return True


def _of_use() -> bool:
    if DISABLE_JIT or not CACHED or os.environ.get(VARIABLE, "1") == "0" or os.name != "posix":
        return False
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name:
        return False
    if len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) < 2:
        return False
    kernel, _ = AHEAD
    try:
        held = kernel.overloads or kernel._cache._cache_file._load_index()
    except (AttributeError, OSError):
        # Another numba, or a folder that cannot be read.
        return False
    return not held


def main() -> None:
    """Compile the kernel into numba's cache; the child's program."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    kernel, signature = AHEAD
    kernel.compile(signature)


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock an interpreter that ends would wait for.
    os.read(0, 1)
    os._exit(1)
