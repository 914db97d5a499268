"""Many arrays as one: their addresses and shapes in an int64 array, and arrays made of them inside a kernel.

Every array that Python hands to a kernel costs its call about half a microsecond, and is a type of its own
where it is read-only; an address is neither. Who packs arrays keeps them alive, as they are.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from vstore_kernels.jit import DISABLE_JIT

WORDS: Final = 3
"""Of each array: address, length, and length of a row (1 of flat arrays)."""


def pack(arrays: Sequence[NDArray[Any]], numbers: Sequence[int] = ()) -> NDArray[np.int64]:
    """Return arrays of one or two dimensions, and numbers behind them, as int64.

    Raises:
        ValueError: an array that is not C-contiguous, or has other dimensions.
    """
    words: list[int] = []
    for array in arrays:
        if not array.flags.c_contiguous or array.ndim not in (1, 2):
            raise ValueError(
                f"an array of shape {array.shape} must be C-contiguous, of one or two dimensions"
            )
        words += (array.ctypes.data, array.shape[0], array.shape[1] if array.ndim == 2 else 1)
    return np.array([*words, *numbers], np.int64)


def same(arrays: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> bool:
    """Return whether these are the very same arrays, so that one pack serves for both."""
    return len(arrays) == len(others) and all(map(operator.is_, arrays, others))


def python_array(words: NDArray[np.int64], place: int, dtype: Any, n_dimensions: int) -> NDArray[Any]:
    """Return the array at a place of a pack, in plain Python."""
    address, *shape = (int(word) for word in words[WORDS * place : WORDS * (place + 1)])
    n_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    memory = (ctypes.c_char * n_bytes).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape[:n_dimensions])


def _python_flat(words: NDArray[np.int64], place: int, dtype: Any) -> NDArray[Any]:
    return python_array(words, place, dtype, 1)


def _python_grid(words: NDArray[np.int64], place: int, dtype: Any) -> NDArray[Any]:
    return python_array(words, place, dtype, 2)


def array_of_words(context: Any, builder: Any, made: Any, words: list[Any]) -> Any:
    """Emit the array of numba's type `made` from its address and shape, each an i64."""
    from numba.np import arrayobj

    address, *shape = words
    array = context.make_array(made)(context, builder)
    item_bytes = address.type(context.get_abi_sizeof(context.get_data_type(made.dtype)))
    strides = [item_bytes] if len(shape) == 1 else [builder.mul(shape[1], item_bytes), item_bytes]
    arrayobj.populate_array(
        array,
        data=builder.inttoptr(address, array.data.type),
        shape=shape,
        strides=strides,
        itemsize=item_bytes,
        meminfo=None,
    )
    return array._getvalue()


def _made(n_dimensions: int, name: str) -> Any:
    def typed(typing: Any, words: Any, place: Any, dtype: Any) -> Any:
        made = types.Array(dtype.dtype, n_dimensions, "C")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source = context.make_array(signature.args[0])(context, builder, args[0])
            first = builder.mul(builder.sext(args[1], source.nitems.type), source.nitems.type(WORDS))
            # A word at a time: gep counts in items of int64.
            found = [
                builder.load(builder.gep(source.data, [builder.add(first, first.type(i))]))
                for i in range(n_dimensions + 1)
            ]
            return array_of_words(context, builder, made, found)

        return made(words, types.int64, dtype), codegen

    typed.__name__ = typed.__qualname__ = name
    return intrinsic(typed)


flat: Any = _python_flat if DISABLE_JIT else _made(1, "flat")
"""`flat(words, place, dtype)`: the array at a place of a pack, of one dimension; for use inside kernels."""
grid: Any = _python_grid if DISABLE_JIT else _made(2, "grid")
"""As `flat`, of two dimensions."""
