"""The child that compiles ahead: it compiles what a first answer needs; whatever ends it, answers come."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vstore_kernels import ahead
from vstore_kernels.jit import CACHED, DISABLE_JIT

pytestmark = pytest.mark.skipif(DISABLE_JIT or not CACHED, reason="nothing is compiled, or kept")

FIRST_ANSWER = """
import numpy as np
import vstore
from vstore import F
from vstore_kernels import ahead

rows = np.random.default_rng(0).standard_normal((5000, 32)).astype(np.float32)
photos = vstore.connect("memory://").create_collection("photos", dim=32, metric="l2", fields={"x": "int"})
photos.upsert(np.arange(5000), rows, attributes={"x": np.arange(5000)}, progress=False)
photos.flush(progress=False)
assert photos.search(rows[7], k=3, filter=F.x < 50).ids[0] == 7
for kernel, signature in (ahead.AHEAD, *ahead.MEANWHILE):
    found = ahead.whole(kernel).signatures
    assert found == [signature], (kernel, found)
"""


def test_a_first_answer_needs_what_the_child_compiles() -> None:
    environment = {**os.environ, ahead.VARIABLE: "0"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ANSWER], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ahead._PROGRAM],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    _, error = child.communicate(b"")
    assert child.returncode == 1, "it compiled all, with nobody there"
    assert error == b""


class Held:
    """A numba cache that holds one thing, and a kernel around it."""

    def __init__(self) -> None:
        self._cache = self
        self.cache_path = "here"
        self.compiled = []

    def load_overload(self, signature, context):
        return f"held for {signature}"

    def compile(self, signature):
        self.compiled.append(signature)


def child_of(monkeypatch: pytest.MonkeyPatch, program: str) -> tuple[ahead._Child, Held]:
    kernel = Held()
    monkeypatch.setattr(ahead, "AHEAD", (kernel, (1, 2)))
    monkeypatch.setattr(ahead, "MEANWHILE", ((kernel, (5,)),))
    monkeypatch.setattr(ahead, "_PROGRAM", program)
    return ahead._Child(), kernel


def test_a_kernel_waits_until_the_child_is_done_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled = tmp_path / "compiled"
    child, kernel = child_of(monkeypatch, f"open({str(compiled)!r}, 'w').close()")
    assert kernel._cache.load_overload((3,), None) == "held for (3,)"
    assert kernel.compiled == []
    assert kernel._cache.load_overload((1, 2), None) == "held for (1, 2)"
    assert compiled.exists()
    assert kernel.compiled == [(5,)]
    assert kernel._cache.load_overload((1, 2), None) == "held for (1, 2)"
    assert kernel.compiled == [(5,)]
    assert kernel._cache.cache_path == "here"
    child.end()


def test_nothing_waits_for_a_child_that_failed_or_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    _, kernel = child_of(monkeypatch, "raise SystemExit(3)")
    assert kernel._cache.load_overload((1, 2), None) == "held for (1, 2)"
    child, kernel = child_of(monkeypatch, "input()")
    child._forget()
    assert kernel._cache.load_overload((1, 2), None) == "held for (1, 2)"
    child.end()


def test_a_child_is_started_where_it_is_of_use_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    index = {}
    cache = SimpleNamespace(_cache_file=SimpleNamespace(_load_index=lambda: index))
    kernel = SimpleNamespace(overloads={}, _cache=cache)
    monkeypatch.setattr(ahead, "_Child", lambda: started.append(1) or "child")
    monkeypatch.setattr(ahead, "AHEAD", (kernel, ()))
    monkeypatch.setattr(ahead, "_child", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: {0, 1}, raising=False)
    monkeypatch.delenv(ahead.VARIABLE, raising=False)
    with monkeypatch.context() as other:
        other.setenv(ahead.VARIABLE, "0")
        assert not ahead.begin()
    with monkeypatch.context() as other:
        other.setattr(os, "sched_getaffinity", lambda who: {0}, raising=False)
        assert not ahead.begin()
    with monkeypatch.context() as other:
        other.setattr(sys, "frozen", True, raising=False)
        assert not ahead.begin()
    with monkeypatch.context() as other:
        other.setattr(sys, "executable", "/usr/sbin/uwsgi")
        assert not ahead.begin()
    index["key"] = "compiled before"
    assert not ahead.begin()
    index.clear()
    assert started == []
    assert ahead.begin()
    assert not ahead.begin()
    assert started == [1]
