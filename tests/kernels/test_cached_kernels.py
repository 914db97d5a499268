"""Kernels loaded from numba's cache quickly: the same answers, less made ready, and numba's way besides."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vstore import cached_kernels
from vstore_kernels.jit import CACHED, DISABLE_JIT

pytestmark = pytest.mark.skipif(DISABLE_JIT or not CACHED, reason="nothing is compiled, or kept")

FIRST_ANSWER = """
import numpy as np
import vstore
from vstore import F, cached_kernels
from numba.core.base import BaseContext

refreshed = []
refresh = BaseContext.refresh
BaseContext.refresh = lambda self: refreshed.append(1) or refresh(self)
BEFORE
rows = np.random.default_rng(0).standard_normal((5000, 32)).astype(np.float32)
photos = vstore.connect("memory://").create_collection("photos", dim=32, metric="l2", fields={"x": "int"})
photos.upsert(np.arange(5000), rows, attributes={"x": np.arange(5000)}, progress=False)
photos.flush(progress=False)
found = photos.search_batch(rows[:7], k=9), photos.search(rows[7], k=3, filter=F.x < 50)
print(found[0].ids.tolist(), found[1].ids, found[1].scores)
print(bool(refreshed))
"""
LINKED = """
import numpy as np
import vstore
from numba import njit
from vstore_kernels import bitmap

packed = np.array([0b1010, 1 << 63], np.uint64)
expected = bitmap.indices(packed)
loaded = next(iter(bitmap._indices.overloads.values())).library
assert type(loaded).__name__ == "Loaded", type(loaded)
assert loaded._shared_module is None

@njit
def through(words, out):
    bitmap._indices(words, out)
    return np.sort(out)[::-1].sum()

out = np.empty(3, np.int32)
assert through(packed, out) == expected.sum()
assert np.array_equal(out, expected), out
assert loaded._shared_module is not None
"""


def ran(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def first_answer(before: str = "") -> list[str]:
    return ran(FIRST_ANSWER.replace("BEFORE", before))


def test_a_first_answer_of_loaded_kernels_is_the_same_and_makes_nothing_ready() -> None:
    first_answer()
    quick = first_answer()
    as_numba = first_answer("cached_kernels._FIELDS = 0")
    assert quick[:-1] == as_numba[:-1]
    assert (quick[-1], as_numba[-1]) == ("False", "True")


def test_a_loaded_kernel_is_linked_into_one_that_is_compiled() -> None:
    ran("import numpy as np\nfrom vstore_kernels import bitmap\nbitmap.indices(np.ones(2, np.uint64))")
    ran(LINKED)


class Kept:
    """A numba cache that holds `found`, or raises it."""

    _enabled = True

    def __init__(self, found: object) -> None:
        self.found, self.asked = found, 0
        self._cache_file = self

    def _index_key(self, signature, codegen):
        return signature

    def load(self, key):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def load_overload(self, signature, context):
        self.asked += 1
        return "as numba does"

    def codegen(self):
        return self


@pytest.mark.parametrize(
    "found",
    [
        None,
        (1, 2, 3),
        (("name", "bitcode", b""), *[None] * 8),
        (("name", "object", (b"", b"")), None, None, None, False, None, "", (print,), ()),
        (("name", "object"), *[None] * 8),
        AttributeError("another numba"),
        OSError("no such file"),
    ],
)
def test_what_is_not_as_known_is_left_to_numba(found: object) -> None:
    kept = Kept(found)
    assert cached_kernels._load_overload(kept, kept.load_overload, "signature", kept) == "as numba does"
    assert kept.asked == 1


def test_every_kept_kernel_is_loaded_quickly_and_none_twice() -> None:
    from vstore_kernels import ahead

    kernel = ahead.whole(ahead.AHEAD[0])
    assert "load_overload" in vars(kernel._cache)
    cached_kernels.load_quickly()
    assert cached_kernels.load_quickly() == 0
