"""The kernels as plain Python: a subset of these tests, with NUMBA_DISABLE_JIT=1, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vstore_kernels import jit

HERE = Path(__file__).resolve().parent
MODULES = [
    "test_sums.py",
    "test_bitmap.py",
    "test_lists.py",
    "test_distance.py",
    "test_codes.py",
    "test_search.py",
]
SLOW = "not error_model and not topk and not one_round"


@pytest.mark.skipif(jit.DISABLE_JIT, reason="the kernels are plain Python already")
def test_kernels_run_without_the_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SLOW]
        + [str(HERE / name) for name in MODULES],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def test_changed_sources_drop_the_compiled_kernels(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("a = 1\n")
    assert jit.drop_stale_cache(tmp_path)
    compiled = tmp_path / "__pycache__" / "one.kernel.nbi"
    compiled.write_bytes(b"")
    assert not jit.drop_stale_cache(tmp_path)
    assert compiled.exists()
    (tmp_path / "one.py").write_text("a = 2\n")
    assert jit.drop_stale_cache(tmp_path)
    assert not compiled.exists()
