"""Valid things with parts replaced, under valid checksums, into every decoder: a named error or an answer.

Never another exception, and never more memory than the bytes can be worth: a decoder that believes a count
before it has seen the bytes would allocate what somebody made up. `test_damage.py` has damaged bytes
themselves. VSTORE_FUZZ=20 tries twenty times as many.
"""

from __future__ import annotations

import copy
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vstore
from vstore.catalog import Catalog, layout
from vstore.catalog.fences import fences_of
from vstore.catalog.pins import MAGIC as LEASE_MAGIC
from vstore.catalog.pins import read_pins
from vstore.errors import VstoreError
from vstore.format import frame
from vstore.format.dead_rows import decode_dead
from vstore.format.log_record import decode_log_record
from vstore.format.manifest_codec import decode_manifest
from vstore.shard.head import decode_head
from vstore.storage.memory import MemoryStore
from vstore.upkeep.folder import decode_row, read_export
from vstore_server import auth, codec
from vstore_server.methods import METHODS, Call
from vstore_server.service import Service

GOLDEN = Path(__file__).parent.parent / "golden" / "v1"
MANIFEST = decode_manifest((GOLDEN / "manifest").read_bytes(), "golden")
TRIES = int(os.environ.get("VSTORE_FUZZ", "1"))
MANY = dict(
    max_examples=150 * TRIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BASE_BYTES = 8 << 20
"""What a decoder may take whatever the input is; and this many times the input's size beside it."""
TIMES = 200

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 7, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64 - 1]),
    st.sampled_from([0.0, -1.5, 1e308, float("inf"), float("nan")]),
    st.sampled_from(["", "l2", "x" * 300, "\ud7ff", "9" * 30, "a/b", "$and"]),
    st.binary(max_size=40),
    st.sampled_from([b"", b"\xff" * 64, b"\0" * 64]),
    st.lists(st.integers(-2, 2**40), max_size=4),
    st.builds(dict),
    st.just([[[[]]]]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a tree of dicts and lists, of long lists only the first few."""
    found = [path]
    if isinstance(value, dict):
        for key, part in value.items():
            found += places(part, (*path, key))
    elif isinstance(value, list):
        for at, part in enumerate(value[:4]):
            found += places(part, (*path, at))
    return found


def replaced(data: st.DataObject, whole: Any) -> Any:
    """The tree with one to three parts replaced, removed or moved elsewhere."""
    tree = copy.deepcopy(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(tree)[1:] or [("x",)]))
        parent = tree
        for step in way:
            parent = parent[step]
        act = data.draw(st.sampled_from(["odd", "odd", "odd", "gone", "copy"]))
        if act == "gone" and isinstance(parent, dict):
            parent.pop(last, None)
        elif act == "copy":
            parent[last] = copy.deepcopy(tree)
        else:
            parent[last] = copy.deepcopy(data.draw(ODD))
        if not isinstance(tree, (dict, list)) or not tree:
            break
    return tree


def bounded(act: Callable[[], Any], n_bytes: int) -> None:
    """Run an act that may raise an error of vstore's, and nothing else, within its memory."""
    tracemalloc.start()
    try:
        act()
    except VstoreError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= BASE_BYTES + TIMES * n_bytes, f"{n_bytes} bytes made it take {peak}"


def head_bytes() -> bytes:
    part = MANIFEST.shards[0].head
    return (GOLDEN / "shard").read_bytes()[part.start : part.start + part.length]


FRAMED: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "manifest": (
        (GOLDEN / "manifest").read_bytes(),
        lambda data: fences_of(decode_manifest(data, "thing")),
    ),
    "log": ((GOLDEN / "log").read_bytes(), lambda data: decode_log_record(data, "thing")),
    "deletes": ((GOLDEN / "deletes-int").read_bytes(), lambda data: decode_log_record(data, "thing")),
    "fence": ((GOLDEN / "fence").read_bytes(), lambda data: decode_log_record(data, "thing")),
    "dead": ((GOLDEN / "dead").read_bytes(), lambda data: decode_dead(data, "thing", 70)),
    "head": (head_bytes(), lambda data: decode_head(data, "thing", MANIFEST.shards[0].head.start)),
}


@pytest.mark.parametrize("name", FRAMED)
@settings(**MANY)
@given(data=st.data())
def test_replaced_parts_of_framed_objects(name, data):
    golden, decode = FRAMED[name]
    tree = frame.unpack(golden[frame.HEADER_BYTES :], "golden")
    spoiled = frame.encode_frame(golden[:8], frame.pack(replaced(data, tree)))
    bounded(lambda: decode(spoiled), len(spoiled))


@pytest.mark.parametrize("name", FRAMED)
@settings(max_examples=60 * TRIES, deadline=None)
@given(noise=st.binary(max_size=400))
def test_any_payload_under_a_valid_checksum(name, noise):
    golden, decode = FRAMED[name]
    spoiled = frame.encode_frame(golden[:8], noise)
    bounded(lambda: decode(spoiled), len(spoiled))


@settings(**MANY)
@given(data=st.data())
def test_tags_and_leases(data):
    store = MemoryStore()
    whole = {"expires_at": 5.0, "manifest": (GOLDEN / "manifest").read_bytes()}
    lease = frame.encode_frame(LEASE_MAGIC, frame.pack(replaced(data, whole)))
    store.put(layout.lease_key("c", "id", "one"), lease)
    tree = frame.unpack((GOLDEN / "manifest").read_bytes()[frame.HEADER_BYTES :], "golden")
    tag = frame.encode_frame((GOLDEN / "manifest").read_bytes()[:8], frame.pack(replaced(data, tree)))
    store.put(layout.tag_key("c", "id", "t"), tag)
    bounded(lambda: read_pins(Catalog(store), "c", "id").ended(10.0), len(lease) + len(tag))


@settings(**MANY)
@given(data=st.data())
def test_the_marker_of_a_store(data):
    store = MemoryStore()
    tree = {"format": "vstore", "version": 1, "made_by": "x"}
    spoiled = json.dumps(replaced(data, tree), default=repr).encode()
    store.put(
        layout.MARKER, data.draw(st.sampled_from([spoiled, spoiled[:-1], b"\xff" + spoiled, b"9" * 5_000]))
    )
    bounded(lambda: Catalog(store).check_marker(), len(spoiled))


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "c"
    with vstore.connect("memory://") as db:
        fields = {"n": "int", "x": "float", "s": "str", "when": "datetime", "tags": "list[str]"}
        made = db.create_collection("c", dim=3, metric="l2", fields=fields)
        rows = [
            {"n": i, "x": i / 2, "s": "a", "when": "2020-01-01T00:00:00Z", "tags": ["b"]} for i in range(9)
        ]
        documents = [{"text": "t", "image": b"\0\1"}, "u", *[None] * 7]
        made.upsert(range(9), np.arange(27.0).reshape(9, 3), rows, documents)
        db.export("c", folder)
    return folder


@settings(**MANY)
@given(data=st.data())
def test_what_an_export_says(export, tmp_path, data):
    tree = json.loads((export / "collection.json").read_bytes())
    spoiled = json.dumps(replaced(data, tree), default=repr).encode()
    (tmp_path / "collection.json").write_bytes(spoiled)
    bounded(lambda: read_export(tmp_path), len(spoiled))
    schema = read_export(export).schema
    line = json.loads((export / "rows.jsonl").read_bytes().splitlines()[0])
    spoiled = json.dumps(replaced(data, line), default=repr).encode()
    bounded(lambda: decode_row(spoiled, schema, "thing, line 1"), len(spoiled))


@settings(max_examples=25 * TRIES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_export_with_other_rows_is_imported_whole_or_not_at_all(export, tmp_path_factory, data):
    """Sizes and checksums are made to fit, so nothing stands before the rows themselves."""
    import crc32c

    folder = tmp_path_factory.mktemp("spoiled")
    lines = (export / "rows.jsonl").read_bytes().splitlines()
    lines[2] = json.dumps(replaced(data, json.loads(lines[2])), default=repr).encode()
    files = {"rows.jsonl": b"\n".join(lines) + b"\n", "vectors.npy": (export / "vectors.npy").read_bytes()}
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, 127))
        changed = bytearray(files["vectors.npy"])
        changed[at] = data.draw(st.integers(0, 255))
        files["vectors.npy"] = bytes(changed)
    stored = json.loads((export / "collection.json").read_bytes())
    for name, body in files.items():
        (folder / name).write_bytes(body)
        stored["files"][name] = {"size_bytes": len(body), "crc32c": crc32c.crc32c(body)}
    (folder / "collection.json").write_text(json.dumps(stored))
    with vstore.connect(MemoryStore()) as db:
        try:
            imported = db.import_collection(folder, "c")
        except VstoreError:
            assert db.collections() == []
        else:
            assert len(imported) == 9
            assert db.verify("c").problems == []


REQUESTS: dict[str, dict[str, Any]] = {
    "Search": {"query": np.ones(3, np.float32), "k": 3, "filter": {"n": {"$gte": 1}}, "recall": 0.9},
    "SearchBatch": {"queries": np.ones((2, 3), np.float32), "k": 3},
    "Upsert": {
        "ids": np.arange(2),
        "vectors": np.ones((2, 3), np.float32),
        "attributes": {"n": [1, 2], "s": ["a", None]},
        "documents": ["x", {"text": "y", "image": b"z"}],
    },
    "Delete": {"ids": [1, 2]},
    "Update": {"ids": [1, 2], "attributes": [{"n": 5}, None]},
    "Get": {"ids": [1, 2]},
    "Count": {"filter": {"$and": [{"n": 1}, {"s": {"$in": ["a", "b"]}}]}},
    "CreateCollection": {"name": "d", "dim": 3, "metric": "l2", "fields": {"n": "int"}, "index": {"M": 8}},
}


@pytest.fixture(scope="module")
def service():
    codec.prepare()
    with vstore.connect("memory://") as db:
        made = db.create_collection("c", dim=3, metric="l2", fields={"n": "int", "s": "str"})
        made.upsert(range(9), np.ones((9, 3)), {"n": list(range(9))})
        yield Service(db, codec.Limits(k=100, ef=200, upsert_rows=100, ids=100))


@pytest.mark.parametrize("name", REQUESTS)
@settings(**MANY)
@given(data=st.data())
def test_requests_to_the_server(service, name, data):
    assert name in METHODS
    request = codec.decode(codec.encode({"collection": "c", **REQUESTS[name]}), service.limits)
    try:
        sent = codec.encode(replaced(data, request))
    except VstoreError:
        return  # Not even msgpack holds it.
    bounded(lambda: service.answer(name, sent, Call(auth.ANYBODY)), len(sent))
    cut = sent[: data.draw(st.integers(0, len(sent)))]
    bounded(lambda: service.answer(name, cut, Call(auth.ANYBODY)), len(cut))


def test_the_memory_limit_is_one():
    with pytest.raises(AssertionError, match="made it take"):
        bounded(lambda: bytearray(BASE_BYTES + TIMES * 10 + 1), 10)
