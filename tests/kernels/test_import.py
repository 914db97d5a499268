"""What importing the kernels brings along, and what it leaves as it was for other users of numba."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRODUCT = """
import sys
import numpy as np
import vstore_kernels.answer
assert "numba.np.arraymath" in sys.modules
assert "scipy.linalg" not in sys.modules
from numba import njit
from numba.np import linalg
assert linalg.ensure_blas.__module__ == "numba.np.linalg"
a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
assert np.array_equal(njit(lambda x, y: x @ y)(a, b), a @ b)
assert np.array_equal(njit(lambda x, y: np.convolve(x, y))(a[0], b[0]), np.convolve(a[0], b[0]))
assert "scipy.linalg" in sys.modules, "numba's own products need it"
"""


def test_no_scipy_linalg_and_other_code_still_finds_its_blas():
    pytest.importorskip("scipy.linalg")
    done = subprocess.run([sys.executable, "-c", PRODUCT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
