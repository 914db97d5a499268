"""Kernels of the first answer compiled by a second process, while this one compiles those of the first build.

numba compiles one function at a time in a process, and its cache on disk serves all processes. So where
nothing is compiled yet and there is a second core, a child compiles the largest kernels of a search, and this
process waits for a kernel of the child's list when it comes to it. Where there is no child, or it fails, this
process compiles them itself.

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
# fmt: off
KERNELS: Final[tuple[tuple[str, Any, tuple[Any, ...]], ...]] = (
    ("answer_rows", answer_rows, (
        _array(types.float32, 2), _U64S, *[_I64] * 6, _array(types.int32, 2), _array(types.float32, 2),
        _array(_I64, 2), _U8S, _I64S, types.float32, _I64S, _I64, _I64,
    )),
    ("prepare_into", prepare_into, (
        _F32S, _F32S, _F32S, types.float32, _I64, _I64, _array(types.float32, 2, readonly=True), _F32S, _U64S,
        _F32S,
    )),
    ("scan_kernel", scan_kernel, (
        _I64S, _I64, _I64, _U64S, _F32S, _I64, _I64, _I64, _I32S, _I32S, _F32S, _I64, _I32S, _F32S,
    )),
    ("rescore_rows", rescore_rows, (_F32S, _I64S, _I64, _F32S, _F32S, _I64, _I64, _I32S, _F32S)),
    ("undecided_rows", undecided_rows, (
        _I32S, _F32S, _I64S, _I64, _I64, _U64S, _F32S, *[_I64] * 4, _F32S, _I32S, _F32S, _I64S,
    )),
)
# fmt: on
"""Names, kernels and the types of their arguments, in the order in which the child compiles them."""


def whole(kernel: Any) -> Any:
    """Return the numba dispatcher of a kernel that Python calls, or of a part as Python calls it."""
    return getattr(kernel, "whole", kernel)


class _Awaited:
    """The cache of a kernel that a child compiles: asked for it, it waits until the child is done with it."""

    def __init__(self, cache: Any, signature: tuple[Any, ...]) -> None:
        self._cache, self._signature = cache, signature
        self.done, self.waits = threading.Event(), True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return what the cache holds for a signature, or None."""
        if self.waits and tuple(signature) == self._signature:
            self.done.wait(_PATIENCE_S)
            self.waits = False
        return self._cache.load_overload(signature, context)


class _Child:
    """The process that compiles, and the thread that hears of what it has done."""

    def __init__(self) -> None:
        self._awaited: dict[str, _Awaited] = {}
        for name, kernel, signature in KERNELS:
            self._awaited[name] = whole(kernel)._cache = _Awaited(whole(kernel)._cache, signature)
        folders = os.pathsep.join(folder for folder in sys.path if folder)
        # It ends when its input does, and so with this process, however that ends.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": folders},
            text=True,
        )
        atexit.register(self.end)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._listen, daemon=True, name="vstore compiles ahead").start()

    def end(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                awaited = self._awaited.get(line.strip())
                if awaited is not None:
                    awaited.done.set()
        finally:
            for awaited in self._awaited.values():
                awaited.done.set()
        self._process.wait()

    def _forget(self) -> None:
        """In a fork there is no thread that listens."""
        for awaited in self._awaited.values():
            awaited.waits = False


_child: _Child | None = None
_lock: Final = threading.Lock()


def begin() -> bool:
    """Have the first answer's kernels compiled by another process; say whether one was started.

    A build calls it before its own kernels are compiled. Nothing happens where the kernels are in numba's
    cache, where they would not come into it, on one core, or where Python is not a program of its own.
    """
    global _child
    with _lock:
        if _child is not None or not _of_use():
            return False
        try:
            _child = _Child()
        except OSError:
            return False
        return True


def _of_use() -> bool:
    if DISABLE_JIT or not CACHED or os.environ.get(VARIABLE, "1") == "0" or os.name != "posix":
        return False
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name:
        return False
    if len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) < 2:
        return False
    first = whole(KERNELS[0][1])
    try:
        held = first.overloads or first._cache._cache_file._load_index()
    except (AttributeError, OSError):
        # Another numba, or a folder that cannot be read.
        return False
    return not held


def main() -> None:
    """Compile the kernels of the list into numba's cache, and say each name; the child's program."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name, kernel, signature in KERNELS:
        whole(kernel).compile(signature)
        print(name, flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)
