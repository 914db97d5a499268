"""Compiled kernels from numba's cache, without what only a compilation needs.

To load a function that it compiled before, numba makes ready all that it knows of types and functions, and
parses the function's code once more, lest it be linked into another: four tenths of a second of a first
answer in which nothing is compiled. Here a kernel is loaded for being called; its code is parsed when a
kernel that calls it is compiled, and numba makes itself ready when it compiles anything.

Where a version of numba lacks a name that is used, or its cache holds another form, numba loads as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, Final

from vstore_kernels.jit import CACHED, DISABLE_JIT

_KERNELS: Final = "vstore_kernels."
_FIELDS: Final = 9
"""What numba keeps of a compiled function, in numbers."""


class NotAsKnown(Exception):
    """numba's cache, or numba, is of another form than the one known here."""


def load_quickly() -> int:
    """Have the kernels of all modules imported so far loaded quickly; return how many these are."""
    if DISABLE_JIT or not CACHED:
        return 0
    kernels = {id(kernel): kernel for kernel in _kernels()}
    for kernel in kernels.values():
        kept = kernel._cache
        kept.load_overload = partial(_load_overload, kept, kept.load_overload)
    return len(kernels)


def _kernels() -> Iterator[Any]:
    """Yield numba's dispatchers of kernels that are kept on disk, and not loaded quickly yet."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_KERNELS):
            for value in list(vars(module).values()):
                kernel = getattr(value, "whole", value)
                kept = getattr(kernel, "_cache", None)
                if hasattr(kept, "load_overload") and "load_overload" not in vars(kept):
                    yield kernel


def _load_overload(kept: Any, as_numba: Any, signature: Any, context: Any) -> Any:
    """Return the compiled function of one signature, or None: `load_overload` of numba's `Cache`.

    Args:
        kept: a kernel's cache.
        as_numba: numba's method.
        signature: types of the arguments.
        context: numba's target.
    """
    try:
        found = _found(kept, signature, context)
        if found is not None:
            return _loaded(context, *found)
    except (AttributeError, ImportError, TypeError, ValueError, OSError, NotAsKnown):
        pass
    return as_numba(signature, context)


def _found(kept: Any, signature: Any, context: Any) -> tuple[Any, ...] | None:
    """Return what is on disk for a signature."""
    if not kept._enabled:
        return None
    found: tuple[Any, ...] | None = kept._cache_file.load(kept._index_key(signature, context.codegen()))
    if found is not None and len(found) != _FIELDS:
        raise NotAsKnown
    return found


def _loaded(
    context: Any,
    library: tuple[str, str, Any],
    description: Any,
    environment: Any,
    signature: Any,
    objectmode: bool,
    lifted: Any,
    annotation: str,
    reload_init: Any,
    environments: tuple[Any, ...],
) -> Any:
    """Return numba's `CompileResult` of what is on disk: as its `_rebuild`, with a library parsed late."""
    from numba.core import compiler

    result: Any = compiler.CompileResult
    name, kind, code = library
    if kind != "object" or reload_init or objectmode:
        raise NotAsKnown
    codegen = context.codegen()
    loaded = _library_class()(codegen, name, *code)
    names = {description.llvm_func_name, description.llvm_cpython_wrapper_name}
    codegen._engine._defined_symbols |= names
    if not all(loaded.get_pointer_to_function(each) for each in names):
        raise NotAsKnown
    function = context.get_executable(loaded, description, environment)
    for each in environments:
        codegen.set_env(each.env_name, each)
    return result(
        target_context=context,
        typing_context=context.typing_context,
        library=loaded,
        environment=environment,
        entry_point=function,
        fndesc=description,
        type_annotation=annotation,
        signature=signature,
        objectmode=objectmode,
        lifted=lifted,
        typing_error=None,
        call_helper=None,
        metadata=None,
        reload_init=reload_init,
        referenced_envs=environments,
    )


@cache
def _library_class() -> Any:
    from llvmlite import binding
    from numba.core.codegen import JITCodeLibrary

    class Loaded(JITCodeLibrary):
        """Machine code that was made before, and beside it the code that others are linked with."""

        def __init__(self, codegen: Any, name: str, machine_code: bytes, code: bytes) -> None:
            super().__init__(codegen, name)
            self._code = code
            self.enable_object_caching()
            self._set_compiled_object(machine_code)
            self._finalize_final_module()

        def _get_module_for_linking(self) -> Any:
            if self._shared_module is None:
                self._shared_module = binding.parse_bitcode(self._code)
                self._codegen._engine._load_defined_symbols(self._shared_module)
            return self._shared_module

    return Loaded
