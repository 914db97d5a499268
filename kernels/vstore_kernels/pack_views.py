"""Names for what lies in a pack: a kernel hands on one word for all of it, and reads what it needs.

A tuple of arrays costs numba seven words an array wherever it is passed on or looked at, and LLVM the time to
take them all apart again. A view is the address of the pack; an array comes out of it where it is named.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import lower_builtin, lower_getattr_generic, models, register_model, type_callable
from numpy.typing import NDArray

from vstore_kernels.jit import DISABLE_JIT
from vstore_kernels.packs import WORDS, array_of_words, python_array

_types: Any = types
_I64: Final = ir.IntType(64)


class _Field:
    """An array of a pack, or (`dtype` is None) a number behind its arrays."""

    def __init__(self, place: int, dtype: Any, n_dimensions: int) -> None:
        self.place, self.dtype, self.n_dimensions = place, dtype, n_dimensions
        self.kind: Any = types.int64
        if dtype is not None:
            self.kind = _types.Array(from_dtype(np.dtype(dtype)), n_dimensions, "C")

    def __get__(self, view: Any, owner: type) -> Any:
        if view is None:
            return self
        if self.dtype is None:
            return int(view.words[self.place])
        return python_array(view.words, self.place, self.dtype, self.n_dimensions)


def flat_at(place: int, dtype: Any) -> Any:
    """Declare the array at `place` of a pack, of one dimension."""
    return _Field(place, dtype, 1)


def grid_at(place: int, dtype: Any) -> Any:
    """Declare the array at `place` of a pack, of two dimensions."""
    return _Field(place, dtype, 2)


def number_at(n_arrays: int, place: int) -> Any:
    """Declare number `place` behind the `n_arrays` arrays of a pack."""
    return _Field(WORDS * n_arrays + place, None, 0)


class PackView:
    """A view of a pack (int64, from `packs.pack`, kept alive and unchanged by the caller); read only.

    Subclasses declare what lies where by `flat_at`, `grid_at` and `number_at`.
    """

    __slots__ = ("words",)

    def __init__(self, words: NDArray[np.int64]) -> None:
        self.words = words

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not DISABLE_JIT:
            _make_known(cls)


class _ViewType(types.Type):
    def __init__(self, view: type[PackView]) -> None:
        self.fields = {name: field for name, field in vars(view).items() if isinstance(field, _Field)}
        super().__init__(name=view.__name__)


@register_model(_ViewType)
class _ViewModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _I64.as_pointer())  # type: ignore[no-untyped-call]


def _make_known(view: type[PackView]) -> None:
    """Let kernels make the view of a pack."""
    kind = _ViewType(view)

    @type_callable(view)
    def _(context: Any) -> Any:
        def typed(words: Any) -> Any:
            return kind if isinstance(words, types.Array) and words.dtype == types.int64 else None

        return typed

    @lower_builtin(view, types.Array)  # type: ignore[no-untyped-call]
    def _(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, args[0]).data


@infer_getattr
class _Fields(AttributeTemplate):
    key = _ViewType

    def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]
        """Return the type of a field."""
        field = kind.fields.get(name)
        return None if field is None else field.kind


@lower_getattr_generic(_ViewType)  # type: ignore[no-untyped-call]
def _read(context: Any, builder: Any, kind: Any, words: Any, name: str) -> Any:
    field = kind.fields[name]
    unchanging = builder.module.add_metadata([])

    def load(word: int) -> Any:
        loaded = builder.load(builder.gep(words, [_I64(word)]))
        # Nobody writes to a pack, so that what is read once need not be read again.
        loaded.set_metadata("invariant.load", unchanging)
        return loaded

    if field.dtype is None:
        return load(field.place)
    found = [load(WORDS * field.place + i) for i in range(field.n_dimensions + 1)]
    return array_of_words(context, builder, field.kind, found)
