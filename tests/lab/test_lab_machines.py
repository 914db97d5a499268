"""One experiment file on two machines: the same indexes, the same table, byte for byte.

The other machine is this one in a process that is told to be less: numba compiles for plain x86-64, without
AVX and FMA, numpy and the C library use no such instructions either, and BLAS takes another processor's code.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vstore_kernels.jit import DISABLE_JIT

EXPERIMENT = """
name = "machines"
queries = 8
stores = ["s3_standard"]
[[data]]
kind = "clustered"
rows = 2000
dim = 52
[[data]]
kind = "file"
path = "vectors.npy"
metric = "cosine"
[index]
M = 8
ef_construction = 40
cluster_rows = 64
block_shift = 5
bits = [8, 4]
[[workload]]
selectivity = 0.1
correlation = ["none", "far"]
[[policy]]
traversal = ["result_filter", "cluster_acorn", "clusters", "exact"]
ef = 24
n_seeds = 16
[[policy]]
traversal = "acorn_gamma"
[[cache]]
name = "lru"
limit_bytes = 40_000
"""
OTHER = {
    "NUMBA_CPU_NAME": "x86-64",
    "NUMBA_CPU_FEATURES": "+sse2",
    "NUMBA_NUM_THREADS": "1",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OPENBLAS_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-FMA,-FMA4,-AVX512F,-ERMS",
}
RUN = """
import sys
from pathlib import Path
from vstore.lab.experiment import read_experiment
from vstore.lab.runner import run_experiment
from vstore_kernels.isa import ISA
run_experiment(read_experiment(Path(sys.argv[1])), Path(sys.argv[2]), n_processes=1, progress=False)
print(ISA)
"""


def run(file: Path, out: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(file), str(out)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(DISABLE_JIT, reason="plain Python has no instruction sets")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other machine is a lesser x86-64")
def test_another_instruction_set_gives_the_same_indexes_and_the_same_table(tmp_path: Path) -> None:
    vectors = np.random.default_rng(5).standard_normal((1500, 70)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors + np.float32(0.3))
    file = tmp_path / "machines.toml"
    file.write_text(EXPERIMENT)
    # numpy refuses to go without what it was built for, so only what it dispatches on is turned off.
    present = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    dispatched = np._core._multiarray_umath.__cpu_dispatch__  # type: ignore[attr-defined]
    without = " ".join(name for name in dispatched if present.get(name))
    run(file, tmp_path / "here")
    assert run(file, tmp_path / "there", **OTHER, NPY_DISABLE_CPU_FEATURES=without) == "portable"
    indexes = sorted(path.name for path in (tmp_path / "here" / "indexes").iterdir())
    assert len(indexes) == 8
    for name in indexes:
        here, there = (np.load(tmp_path / side / "indexes" / name) for side in ("here", "there"))
        for section in here.files:
            np.testing.assert_array_equal(here[section], there[section], f"{name} {section}")
    here, there = ((tmp_path / side / "table.csv").read_bytes() for side in ("here", "there"))
    assert here.count(b"\n") == 1 + 8 * 5
    assert here == there
