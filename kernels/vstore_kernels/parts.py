"""Kernels that only other kernels call: kept as LLVM's unoptimised code, and optimised once, in their caller.

numba optimises a function when it is compiled, and again, whole, in each function that it is linked into; it
also emits machine code and two wrappers for it, which nobody calls. Five levels deep that is most of the
time. What is used of numba is its documented `pipeline_class` and, below it, the library class of its JIT;
where a version of numba lacks a name that is used, `make_part` compiles as numba itself would, and the
results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, njit

try:
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
    from numba.core.compiler_machinery import register_pass
    from numba.core.typed_passes import NativeLowering
except ImportError:  # pragma: no cover - another numba
    LIGHT = False
else:
    LIGHT = True

    class _PartLibrary(JITCodeLibrary):
        """Code that is only ever linked into other code."""

        def _optimize_functions(self, ll_module: Any) -> None:
            ll_module.data_layout = self._codegen._data_layout

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

        def get_pointer_to_function(self, name: str) -> int:
            return 0

    @register_pass(mutates_CFG=True, analysis_only=False)
    class _PartLowering(NativeLowering):
        """Numba's lowering into a `_PartLibrary`, without machine code."""

        _name = "part_lowering"

        def run_pass(self, state: Any) -> bool:
            library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
            state.library = library
            state.flags = state.flags.copy()
            state.flags.no_compile = True
            super().run_pass(state)
            lowered = state["cr"]
            library.finalize()
            name = object()
            state.targetctx.insert_user_function(name, lowered.fndesc, [library])
            state.reload_init.extend(library._reload_init)
            state["cr"] = _LowerResult(lowered.fndesc, lowered.call_helper, cfunc=name, env=lowered.env)
            return True

    class _PartCompiler(CompilerBase):
        """The common pipeline with `_PartLowering` at its end."""

        def define_pipelines(self) -> list[Any]:
            manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
            manager.passes = [
                (_PartLowering if each is NativeLowering else each, why) for each, why in manager.passes
            ]
            manager.finalize()
            return [manager]


def make_part(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Return `function` compiled with njit's `options` as a part of the kernels that call it.

    Python may call it too: it is then compiled once more, for itself.
    """
    whole = njit(**options)(function)
    if not LIGHT or getattr(config, "DISABLE_JIT", False):
        return whole
    options = options | {"cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    part = njit(**options, pipeline_class=_PartCompiler)(function)

    def add_overload(compiled: Any) -> None:
        # Known to kernels that call it, not to the entry from Python, which has no machine code to go to.
        part.overloads[tuple(compiled.signature.args)] = compiled

    part.add_overload = add_overload
    part._compile_for_args = lambda *given, **named: whole
    part.whole = whole
    return part
