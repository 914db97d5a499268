"""Which instruction set the integer kernels are written for: what the CPU has, or what the environment says.

`VSTORE_KERNELS_ISA` set to `portable`, `avx2` or `avx512` before the first import overrides the choice, so
that the other paths can be tested; integer sums are exact, so every path gives the same estimates.
"""

from __future__ import annotations

import os
from typing import Final

import llvmlite.binding as llvm
from numba import config

ISAS: Final = ("portable", "avx2", "avx512")
VARIABLE: Final = "VSTORE_KERNELS_ISA"

_FEATURES: Final = {
    "avx2": frozenset({"avx2"}),
    "avx512": frozenset({"avx2", "avx512vl", "avx512bw", "avx512vnni"}),
}


def features() -> frozenset[str]:
    """Return the CPU features that numba compiles for: the host's, unless its settings name another CPU."""
    if getattr(config, "CPU_NAME", None):
        named = getattr(config, "CPU_FEATURES", None) or ""
        return frozenset(part[1:] for part in named.split(",") if part.startswith("+"))
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def choose(wanted: str | None, present: frozenset[str]) -> str:
    """Return the instruction set to compile for.

    Args:
        wanted: one of ISAS, or None (or "auto") for the best that `present` allows.
        present: CPU features by LLVM's names.

    Raises:
        ValueError: an unknown name, or one that needs features that the CPU lacks.
    """
    if wanted in (None, "", "auto"):
        return next(name for name in reversed(ISAS) if _FEATURES.get(name, frozenset()) <= present)
    if wanted not in ISAS:
        raise ValueError(f"{VARIABLE} is {wanted!r}; it must be auto or one of {', '.join(ISAS)}")
    lacking = _FEATURES.get(wanted, frozenset()) - present
    if lacking:
        raise ValueError(
            f"{VARIABLE} is {wanted!r}, but this CPU lacks {', '.join(sorted(lacking))}; "
            "unset it, or set it to auto"
        )
    return wanted


ISA: Final = choose(os.environ.get(VARIABLE), features())
"""The instruction set of this process's kernels."""
