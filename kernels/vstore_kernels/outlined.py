"""Code that intrinsics emit as a function of its own, once a kernel, instead of wherever they are called.

What takes many instructions and is called from many places costs LLVM most of a kernel's time, and a call
costs next to nothing beside a loop over a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir


def call_outlined(
    builder: Any, name: str, result: Any, arguments: list[Any], emit: Callable[[Any, list[Any]], Any]
) -> Any:
    """Emit a call of the function `name`, and where its module lacks it, the function.

    Args:
        builder: an llvmlite IR builder.
        name: says all that `emit` depends on: one name, one function.
        result: what it returns, an LLVM type.
        arguments: LLVM values.
        emit: emits the body, by a builder, of the function's own arguments; returns its result, or None.
    """
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
        # Of the same function of two modules that are linked, one stays.
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        returned = emit(inside, list(function.args))
        if returned is None:
            inside.ret_void()
        else:
            inside.ret(returned)
    return builder.call(function, arguments)
