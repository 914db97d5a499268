"""The bytes: golden messages, the scan against a plain decoder, and a client of another language."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import hypothesis.strategies as st
import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from make_golden_messages import PLACE, golden

import vstore
import vstore_server
from vstore.errors import InvalidInput
from vstore_server import errors, health
from vstore_server.auth import ANYBODY
from vstore_server.codec import Limits, decode, encode, pack_array, unpack_array
from vstore_server.errors import LimitExceeded, MalformedMessage, ProtocolError
from vstore_server.service import METHODS, Call, Service

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits()
GOLDEN = json.loads(PLACE.read_text())


def test_messages_are_still_written_as_they_were():
    assert golden() == GOLDEN


def test_golden_requests_get_their_golden_answers():
    """A later minor version may add fields to an answer, and changes none that it had."""
    with vstore.connect("memory://") as database:
        service = Service(database)
        for name in (key.removesuffix(" request") for key in GOLDEN if key.endswith("request")):
            request = bytes.fromhex(GOLDEN[f"{name} request"])
            if METHODS[name].kind == "scan":
                *_, answer = service.scan(request, Call(ANYBODY))
            else:
                answer = service.answer(name, request, Call(ANYBODY))
            if f"{name} answer" in GOLDEN:
                wanted, found = (
                    decode(bytes.fromhex(GOLDEN[f"{name} answer"]), LIMITS),
                    decode(answer, LIMITS),
                )
                assert encode({field: found[field] for field in wanted}) == encode(wanted), name
    assert {key.split()[0] for key in GOLDEN} == set(METHODS)


def test_the_page_names_every_method_error_and_limit():
    page = (ROOT / "docs" / "PROTOCOL.md").read_text()
    assert [name for name in METHODS if f"`{name}`" not in page] == []
    assert [name for name in Limits.__slots__ if f"`{name}`" not in page] == []
    for name in METHODS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split("|")[2].strip() == METHODS[name].role


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
    | st.datetimes(timezones=st.just(UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=40,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=300), VALUES, max_size=20))
@example(
    {"a": "x" * 70_000, "b": b"y" * 70_000, "c": list(range(70_000)), "d": datetime(1, 1, 1, tzinfo=UTC)}
)
def test_what_is_encoded_is_decoded(message):
    assert decode(encode(message), LIMITS) == message


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=9), VALUES, max_size=5), st.data())
def test_damaged_bytes_never_do_worse_than_a_named_error(message, data):
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        found = decode(damaged, LIMITS)
    except InvalidInput:
        return
    assert isinstance(found, dict)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_the_scan_agrees_with_a_plain_decoder(data):
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, ext_hook=lambda code, body: None)
    unpacker.feed(data)
    try:
        whole = isinstance(unpacker.unpack(), dict) and unpacker.tell() == len(data)
    except (ValueError, msgpack.UnpackException, TypeError, OverflowError):
        whole = False
    try:
        decode(data, LIMITS)
    except InvalidInput:
        return
    assert whole


def test_limits_of_a_message():
    nested = {"a": 1}
    for _ in range(254):
        nested = {"a": nested}
    assert decode(encode(nested), LIMITS) == nested
    with pytest.raises(LimitExceeded, match="deeper than 256"):
        decode(encode({"a": {"a": nested}}), LIMITS)
    with pytest.raises(LimitExceeded, match="more than 10 values"):
        decode(encode({"a": list(range(10))}), Limits(items=10))
    with pytest.raises(LimitExceeded, match="longer than 4 bytes"):
        decode(encode({"a": "xxxxx"}), Limits(text_bytes=4))
    with pytest.raises(LimitExceeded, match="at most 4096"):
        decode(encode({"a": b"x" * 4096}), Limits(message_bytes=4096))
    # 64 MiB of empty lists would be gigabytes of objects.
    with pytest.raises(LimitExceeded, match="values"):
        decode(b"\x81\xa1a\xdd" + struct.pack(">I", 60 << 20) + b"\x90" * (60 << 20), LIMITS)
    with pytest.raises(MalformedMessage, match="extension"):
        decode(msgpack.packb({"a": msgpack.ExtType(5, b"x")}), LIMITS)
    with pytest.raises(vstore.errors.InvalidSetting, match="limit k is 0"):
        Limits(k=0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (0, 4)])
def test_arrays(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    back = unpack_array(decode(encode({"a": array[::1]}), LIMITS)["a"], "a")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    with pytest.raises(MalformedMessage, match="needs"):
        unpack_array({**pack_array(array), "data": b"\x00"}, "a")
    with pytest.raises(InvalidInput, match="int16"):
        pack_array(array.astype(np.int16))


def test_every_error_class_crosses_and_comes_back():
    for name, kind in errors.CLASSES.items():
        status, sent = errors.status_of(kind("text")), errors.name_of(kind("text"))
        assert sent == name
        back = errors.error_from(status, "text", {errors.ERROR_KEY: sent})
        assert type(back) is kind
        assert "text" in str(back)


def test_errors_of_other_servers_and_newer_classes():
    assert type(errors.error_from("INVALID_ARGUMENT", "x", {errors.ERROR_KEY: "Newer"})) is InvalidInput
    assert type(errors.error_from("UNIMPLEMENTED", None, {})) is ProtocolError
    assert type(errors.error_from("DATA_LOSS", "x", {})) is errors.ServerFailed
    busy = errors.error_from("RESOURCE_EXHAUSTED", "x", {errors.RETRY_AFTER_KEY: "250"})
    assert (type(busy), busy.retry_after_s) == (errors.ServerBusy, 0.25)
    assert errors.retry_delay_s(busy, 0, False, 3) == 0.25
    gone = errors.error_from("UNAVAILABLE", "x", {})
    assert errors.retry_delay_s(gone, 0, False, 3) is None
    assert errors.retry_delay_s(gone, 3, True, 3) is None
    long = errors.public_message(InvalidInput("é" * 5000), (), "r")
    assert len(long.encode()) <= 2000
    assert long.endswith("(message shortened)")


def test_health_bytes():
    assert health.decode_request(health.encode_request("vstore.v1.Store")) == "vstore.v1.Store"
    assert health.encode_request("") == b""
    assert health.encode_response(health.SERVING) == b"\x08\x01"
    for bad in (
        b"\x0a",
        b"\x0a\xff\xff\xff\xff",
        b"\x0a\x05abc",
        b"\x0a\x01\xff",
        b"\x12\x00",
        b"\x0a" * 2000,
    ):
        with pytest.raises(MalformedMessage):
            health.decode_request(bad)


def test_a_node_client(tmp_path):
    node = shutil.which("node")
    modules = Path(os.environ.get("NODE_PATH", Path(__file__).parent / "node" / "node_modules"))
    if node is None or not all((modules / n).exists() for n in ("@grpc/grpc-js", "@msgpack/msgpack")):
        pytest.skip("needs node, and `npm ci` in tests/server/node")
    (script,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "SERVER.md").read_text(), re.DOTALL)
    (tmp_path / "client.js").write_text(script)
    (tmp_path / "node_modules").symlink_to(modules)
    with vstore.connect("memory://") as database, vstore_server.BackgroundServer(database) as server:
        ended = subprocess.run(
            [node, "client.js", server.address],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert database.collection("birds").count() == 2
    assert (ended.returncode, ended.stdout) == (0, "owl -1 2019\nCollectionNotFound\n"), ended.stderr


def test_the_page_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "SERVER.md").read_text(), re.DOTALL)
    with vstore.connect("memory://") as database, vstore_server.BackgroundServer(database) as server:
        names = {}
        exec(block.replace("vstore://127.0.0.1:8765", server.url), names)
        assert names["hits"].ids == [1]
        names["db"].close()
