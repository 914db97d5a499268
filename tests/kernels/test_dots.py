from __future__ import annotations

import os
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples
from llvmlite import ir

from tests import naive
from vstore_kernels import codes, dots, isa, scoring
from vstore_kernels.jit import DISABLE_JIT


def planes_of(query: np.ndarray) -> np.ndarray:
    words = np.zeros((len(query) // 64, dots.N_PLANES), np.uint64)
    for j, level in enumerate(query.tolist()):
        for plane in range(dots.N_PLANES):
            words[j // 64, plane] |= np.uint64((level >> plane & 1) << (j % 64))
    return words


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from([4, 2, 1]), st.integers(1, 9), st.integers(0, 999))
def test_narrow_products_agree_with_unpacked_codes(bits: int, n_chunks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width = 64 * n_chunks
    row = rng.integers(0, 256, width * bits // 8).astype(np.uint8)
    limit = 32 if bits == 1 else 128
    query = rng.integers(-limit + 1, limit, width)
    expected = int(np.dot(naive.unpack_codes(row, bits, width), query))
    stored = planes_of(query) if bits == 1 else query.astype(np.int8)
    dot = {4: scoring._nibbles, 2: scoring._pairs, 1: dots.dot_bits}[bits]
    assert dot(row.ctypes.data, stored.ctypes.data, n_chunks) == expected


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 300), st.integers(0, 999))
def test_byte_products_are_exact_at_every_length(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = rng.integers(-127, 128, d).astype(np.int8)
    query = rng.integers(-32_767, 32_768, d).astype(np.int16)
    assert scoring._bytes(row.ctypes.data, query.ctypes.data, d) == int(row.astype(np.int64) @ query)


def test_extremes_do_not_overflow() -> None:
    for bits, dot in ((4, scoring._nibbles), (2, scoring._pairs)):
        row = np.full(4096 * bits // 8, 255, np.uint8)
        for level in (-127, 127):
            query = np.full(4096, level, np.int8)
            for n_chunks in (1, 2, 63, 64):
                expected = 64 * n_chunks * ((1 << bits) - 1) * level
                assert dot(row.ctypes.data, query.ctypes.data, n_chunks) == expected


def assembly(bits: int, name: str, cpu: str, features: str) -> str:
    """What the product compiles to on another CPU; nothing of it runs."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    word = ir.IntType(64)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [word] * 3), "dot")
    builder = ir.IRBuilder(function.append_basic_block())
    row, query, count = function.args
    if bits == 8:
        builder.ret(dots.emit_bytes(builder, row, query, count, name))
    else:
        builder.ret(dots.emit_chunks(builder, row, query, count, bits, name))
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu=cpu, features=features, opt=2
    )
    compiled = llvm.parse_assembly(str(module))
    compiled.verify()
    return machine.emit_assembly(compiled)


@pytest.mark.parametrize(("bits", "expected"), [(8, "vpdpwssd"), (4, "vpdpbusd"), (2, "vpdpbusd")])
def test_avx512_code_compiles_and_uses_vnni(bits: int, expected: str) -> None:
    text = assembly(bits, "avx512", "icelake-server", "")
    assert expected in text
    assert "zmm" not in text or "ymm" in text


@pytest.mark.parametrize(("bits", "expected"), [(8, "vpmaddwd"), (4, "vpmaddubsw"), (2, "vpmaddubsw")])
def test_avx2_code_uses_multiply_add(bits: int, expected: str) -> None:
    assert expected in assembly(bits, "avx2", "haswell", "")


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_portable_code_compiles_for_the_oldest_cpu(bits: int) -> None:
    assert "ymm" not in assembly(bits, "portable", "x86-64", "")


def test_the_choice_follows_the_cpu_and_the_environment() -> None:
    everything = frozenset({"avx2", "avx512vl", "avx512bw", "avx512vnni"})
    assert isa.choose(None, everything) == "avx512"
    assert isa.choose("auto", frozenset({"avx2", "avx512vl"})) == "avx2"
    assert isa.choose("", frozenset()) == "portable"
    assert isa.choose("portable", everything) == "portable"
    with pytest.raises(ValueError, match="must be auto or one of portable, avx2, avx512"):
        isa.choose("sse9", everything)
    with pytest.raises(ValueError, match="lacks avx2"):
        isa.choose("avx2", frozenset())


def estimates() -> bytes:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((40, 100)).astype(np.float32)
    out = b""
    for bits in codes.BITS:
        params = codes.CodeParams(
            bits, "l2", np.zeros(100, np.float32), np.full(100 if bits == 8 else 1, 0.01, np.float32)
        )
        encoded = rng.integers(0, 128, (40, params.row_bytes)).astype(np.uint8)
        # Factors that are numbers, whatever the codes.
        n_factors = (params.row_bytes - params.bias_at) // 4
        encoded[:, params.bias_at :] = np.ones(n_factors, "<f4").view(np.uint8)
        code = codes.prepare_query(vectors[0], params)
        code.factors[:] = 1
        out += codes.estimate(code, encoded).tobytes()
    return out


@pytest.mark.skipif(DISABLE_JIT, reason="plain Python has no instruction sets")
@pytest.mark.parametrize("name", [name for name in isa.ISAS if name != isa.ISA][:1])
def test_another_instruction_set_gives_the_same_estimates(name: str) -> None:
    try:
        isa.choose(name, isa.features())
    except ValueError as lacking:
        pytest.skip(str(lacking))
    program = (
        "import sys; sys.path[:0] = ['tests/kernels', '.']; "
        "import test_dots; print(test_dots.estimates().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, isa.VARIABLE: name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == estimates().hex()
