"""The event loop that a server runs on."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import vstore
import vstore_server
from vstore.errors import InvalidSetting
from vstore_server import loops
from vstore_server.__main__ import main

X = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)


async def module_of_loop():
    return type(asyncio.get_running_loop()).__module__


def test_uvloop_where_it_is_installed(monkeypatch):
    pytest.importorskip("uvloop")
    assert loops.run(module_of_loop) == loops.run(module_of_loop, "uvloop") == "uvloop"
    assert loops.run(module_of_loop, "asyncio").startswith("asyncio")
    monkeypatch.setattr(loops, "find_spec", lambda name: None)
    assert loops.run(module_of_loop).startswith("asyncio")
    with pytest.raises(InvalidSetting, match="not installed: pip install uvloop"):
        loops.run(module_of_loop, "uvloop")


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_both_serve(loop):
    with vstore.connect("memory://") as database:
        database.create_collection("c", dim=8, metric="l2")
        with vstore_server.BackgroundServer(database, loop=loop) as running:
            with vstore.connect(running.url) as remote:
                held = remote.collection("c")
                held.upsert(range(50), X)
                assert [held.search(q, k=1).ids for q in X] == [[i] for i in range(50)]

            async def together():
                async with await vstore.aio.connect(running.url) as shared:
                    held = await shared.collection("c")
                    return await asyncio.gather(*(held.search(q, k=1) for q in X))

            assert [hits.ids for hits in asyncio.run(together())] == [[i] for i in range(50)]


def test_another_loop_is_refused(capsys):
    with (
        vstore.connect("memory://") as database,
        pytest.raises(InvalidSetting, match="must be one of"),
    ):
        vstore_server.BackgroundServer(database, loop="trio")
    assert main(["memory://", "--loop", "trio", "--listen", "127.0.0.1:0"]) == 1
    assert "loop is 'trio'" in capsys.readouterr().err
