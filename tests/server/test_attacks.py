"""Each thing that a caller must not be able to do, tried."""

from __future__ import annotations

import os
import pickle
import re
import socket
import stat

import msgpack
import numpy as np
import pytest
from raw_call import raw

import vstore
import vstore_server
from vstore import errors
from vstore_server import codec
from vstore_server.auth import ANYBODY, TokensFile, hash_token, new_token, token_entry
from vstore_server.codec import Limits, encode
from vstore_server.errors import (
    CLASSES,
    LimitExceeded,
    Unauthenticated,
    public_message,
)
from vstore_server.methods import METHODS, Call
from vstore_server.service import Service

X = np.random.default_rng(5).standard_normal((20, 4)).astype(np.float32)
SECRET = "s3://secret-bucket/secret-prefix"
KEY = "collections/c/shards/0000-secret"


def nested(depth):
    """A filter of so many levels."""
    filter = {"a": {"$eq": 1}}
    for level in range(depth):
        filter = {"$not": filter} if level % 2 else {"$and": [filter, {"a": 1}]}
    return filter


@pytest.fixture(scope="module")
def small_limits():
    sizes = {"k": 10, "ef": 50, "filter_depth": 4, "filter_values": 20, "list_items": 3, "text_bytes": 100}
    sizes |= {"items": 5000, "rerank_stages": 2, "rerank_depth": 5, "batch_queries": 5, "batch_answers": 20}
    limits = Limits(**sizes, upsert_rows=10, ids=10, message_bytes=8192)
    with vstore.connect("memory://") as database:
        made = database.create_collection("c", dim=4, metric="l2", fields={"a": "int", "l": "list[int]"})
        made.upsert(range(10), X[:10], {"a": range(10)})
        yield Service(database, limits, {"r": lambda query, documents: [0.0] * len(documents)})
        assert made.count() == 10


OVER = {
    "k": ("Search", {"query": X[0], "k": 11}),
    "k of a plan": ("Explain", {"query": X[0], "k": 11}),
    "ef": ("Search", {"query": X[0], "ef": 51}),
    "filter depth": ("Count", {"filter": nested(8)}),
    "filter values": ("Count", {"filter": {"a": {"$in": list(range(30))}}}),
    "filter of a deletion": ("Delete", {"filter": {"a": {"$in": list(range(30))}}}),
    "filter of a scan": ("Scan", {"filter": nested(8)}),
    "filter of a warm-up": ("Warm", {"filter": nested(8)}),
    "text": ("Upsert", {"ids": [1], "vectors": X[:1], "documents": ["x" * 101]}),
    "id": ("Get", {"ids": ["x" * 101]}),
    "list attribute": ("Upsert", {"ids": [1], "vectors": X[:1], "attributes": [{"l": [1, 2, 3, 4]}]}),
    "list column": ("Upsert", {"ids": [1], "vectors": X[:1], "attributes": {"l": [[1, 2, 3, 4]]}}),
    "list update": ("Update", {"ids": [1], "attributes": [{"l": [1, 2, 3, 4]}]}),
    "rows": ("Upsert", {"ids": list(range(11)), "vectors": X[:11]}),
    "streamed rows": ("UpsertStream", {"batch": 0, "ids": list(range(11)), "vectors": X[:11]}),
    "ids": ("Get", {"ids": list(range(11))}),
    "ids of a deletion": ("Delete", {"ids": list(range(11))}),
    "ids of an update": ("Update", {"ids": list(range(11)), "attributes": [{}] * 11}),
    "queries": ("SearchBatch", {"queries": X[:6], "k": 1}),
    "answers": ("SearchBatch", {"queries": X[:5], "k": 5}),
    "rerank depth": ("Search", {"query": X[0], "rerank": ["r"], "rerank_depth": 6}),
    "rerank depth of a stage": ("Search", {"query": X[0], "rerank": [{"model": "r", "depth": 6}]}),
    "rerank stages": ("Search", {"query": X[0], "rerank": ["r"] * 3, "query_document": "q"}),
    "items": ("Get", {"ids": [1] * 6000}),
    "bytes": ("Upsert", {"ids": [1], "vectors": X[:1], "documents": [{"image": b"x" * 9000}]}),
    "idempotency key": ("Delete", {"ids": [1], "idempotency_key": "x" * 129}),
}


@pytest.mark.parametrize("what", OVER)
def test_limits_hold(small_limits, what):
    method, fields = OVER[what]
    answer = small_limits.scan if METHODS[method].kind == "scan" else None
    data, call = encode({"collection": "c", **fields}), Call(ANYBODY)
    with pytest.raises(errors.InvalidInput) as caught:
        answer(data, call) if answer is not None else small_limits.answer(method, data, call)
    assert type(caught.value) is LimitExceeded


def test_what_is_within_the_limits_passes(small_limits):
    within = [
        ("Search", {"query": X[0], "k": 10, "ef": 50, "filter": nested(3)}),
        ("Count", {"filter": {"a": {"$in": list(range(15))}}}),
        ("SearchBatch", {"queries": X[:5], "k": 4}),
        ("Search", {"query": X[0], "rerank": [{"model": "r", "depth": 5}] * 2, "query_document": "q"}),
    ]
    for method, fields in within:
        assert small_limits.answer(method, encode({"collection": "c", **fields}), Call(ANYBODY))


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_is_unpickled(served, tmp_path):
    bomb = pickle.dumps({"collection": Bomb(tmp_path / "exploded")})
    extension = msgpack.packb({"collection": msgpack.ExtType(42, bomb)})
    for method in METHODS:
        if METHODS[method].kind == "unary":
            for data in (bomb, extension, encode({"collection": bomb, "name": bomb})):
                assert raw(served, method, data)[0] == "INVALID_ARGUMENT", method
    assert not (tmp_path / "exploded").exists()
    sources = (vars(codec).values(), vars(vstore_server.service).values())
    assert not any(value is pickle for values in sources for value in values)


@pytest.mark.parametrize(
    "model", ["os:system", "pickle.loads", "vstore.rerank.lexical:Lexical", "/etc/passwd", "../x", "letters "]
)
def test_rerankers_are_named_by_the_operator_alone(served, faces, new_name, model):
    faces["sync"].create_collection(new_name, dim=4, metric="l2").upsert([1], X[:1], documents=["x"])
    message = {"collection": new_name, "query": X[0], "rerank": [{"model": model}], "query_document": "q"}
    assert raw(served, "Search", encode(message))[:2] == ("INVALID_ARGUMENT", "InvalidSetting")


def test_stores_are_named_by_the_operator_alone(served, tmp_path):
    """A collection's name is no place: no path, no url, nothing outside the store."""
    for name in (str(tmp_path), "../x", "s3://bucket/x", "memory://", "a/b", "..", "", "x" * 200, "a\x00b"):
        status, kind, _ = raw(served, "CreateCollection", encode({"name": name, "dim": 2}))
        assert (status, kind) == ("INVALID_ARGUMENT", "InvalidSetting"), name
        status, _, details = raw(served, "Count", encode({"collection": name}))
        assert status in ("NOT_FOUND", "INVALID_ARGUMENT"), (name, details)
    for tag in ("../x", "a/b", "", "x\x00"):
        assert raw(served, "Untag", encode({"collection": "c0", "tag": tag}))[0] in (
            "NOT_FOUND",
            "INVALID_ARGUMENT",
        )
    for field in ("uri", "url", "store", "cache_dir", "path", "endpoint_url"):
        assert raw(served, "Connect", encode({field: str(tmp_path)}))[:2] == (
            "INVALID_ARGUMENT",
            "MalformedMessage",
        )
    assert list(tmp_path.iterdir()) == []


IMAGES = [
    "/etc/passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "s3://other/x.png",
    "../../x.png",
]


@pytest.mark.parametrize("image", IMAGES)
def test_image_references_open_nothing(served, faces, new_name, image):
    faces["sync"].create_collection(new_name, dim=4, metric="l2")
    row = {"collection": new_name, "ids": [1], "vectors": X[:1], "documents": [{"image": image}]}
    wanted = ("INVALID_ARGUMENT", "InvalidDocument")
    assert raw(served, "Upsert", encode(row))[:2] == wanted
    query = {"collection": new_name, "query": X[0], "rerank": ["letters"], "query_document": {"image": image}}
    assert raw(served, "Search", encode(query))[:2] == wanted
    for face in ("sync", "async"):
        with pytest.raises(errors.InvalidDocument, match="encoded bytes"):
            faces[face].collection(new_name).upsert([1], X[:1], documents=[{"image": image}])


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_messages_leak_neither_places_nor_keys_nor_code(name):
    kind = CLASSES[name]
    inner = f"{SECRET}: {KEY}: cannot be read\nTraceback (most recent call last):\n  File"
    text = public_message(
        kind(inner if issubclass(kind, _INTERNAL) else f"{SECRET}: k is 0"), (SECRET,), "id-1"
    )
    assert "secret" not in text
    assert "Traceback" not in text
    assert text


_INTERNAL = (
    errors.StorageError,
    errors.FormatError,
    errors.RerankError,
    errors.MissingDependency,
    errors.WriterFenced,
    errors.ReadOnly,
)


def test_failures_that_nobody_meant_say_nothing():
    for error in (KeyError("secret"), RuntimeError("/var/secret"), MemoryError("secret"), AssertionError()):
        text = public_message(error, (), "id-1")
        assert "secret" not in text
        assert "id-1" in text


def test_garbage_on_the_port_kills_nothing(served, faces):
    host, port = served.address.split(":")
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\x00" * 500, os.urandom(5000)):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert faces["sync"].collections() is not None


# Tokens that change while the server runs.


def test_tokens_come_and_go_without_a_restart(tmp_path):
    path, first, second = tmp_path / "tokens.toml", new_token(), new_token()
    path.write_text(token_entry("first", "read", ["*"], first))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    tokens = TokensFile(path, look_every_s=0)
    with vstore.connect("memory://") as database:
        database.create_collection("c", dim=4)
        with vstore_server.BackgroundServer(database, tokens=tokens) as server:
            held = vstore.connect(server.url, token=first).collection("c")
            with pytest.raises(Unauthenticated):
                vstore.connect(server.url, token=second)
            path.write_text(token_entry("second", "write", ["*"], second))
            assert vstore.connect(server.url, token=second).collection("c").count() == 0
            with pytest.raises(Unauthenticated):
                held.count()
            for broken in ("", "not toml [", "[[tokens]]\nname = 'x'"):
                path.write_text(broken)
                assert vstore.connect(server.url, token=second).welcome.role == "write"
                with pytest.raises(Unauthenticated):
                    vstore.connect(server.url)
            path.unlink()
            assert vstore.connect(server.url, token=second).welcome.role == "write"


def test_a_tokens_file_is_looked_at_no_oftener_than_said(tmp_path):
    path, token, now = tmp_path / "tokens.toml", new_token(), [0.0]
    path.write_text(token_entry("a", "read", ["*"], token))
    tokens = TokensFile(path, look_every_s=1.0, monotonic=lambda: now[0])
    path.write_text(token_entry("longer-name", "admin", ["*"], token))
    assert tokens.identify(f"Bearer {token}").tenant == "a"
    now[0] = 1.5
    assert tokens.identify(f"Bearer {token}").tenant == "longer-name"


def test_tokens_are_hashed_and_compared_in_constant_time(tmp_path, monkeypatch):
    """Every known hash is compared, by hmac.compare_digest, whatever the first ones say."""
    path, secrets = tmp_path / "tokens.toml", [new_token() for _ in range(3)]
    path.write_text("".join(token_entry(f"t{i}", "read", ["*"], s) for i, s in enumerate(secrets)))
    assert not any(secret in path.read_text() for secret in secrets)
    compared = []
    tokens = vstore_server.load_tokens(path)
    real = vstore_server.auth.hmac.compare_digest
    monkeypatch.setattr(
        vstore_server.auth.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b)
    )
    assert tokens.identify(f"Bearer {secrets[0]}").tenant == "t0"
    assert compared == [hash_token(secret) for secret in secrets]
    assert re.fullmatch(r"vst_[\w-]{43}", secrets[0])
