"""docs/FORMAT.md is enough to read a store: the golden objects, read by that page and nothing of vstore."""

from __future__ import annotations

import hashlib
import itertools
import struct
import sys
from pathlib import Path

import crc32c
import msgpack
import numpy as np
import pytest
import zstandard

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

from make_v1 import DIM, FIELDS, N, rows  # noqa: E402 - the folder is no package

SHARD = (GOLDEN / "v1" / "shard").read_bytes()


def unframed(data: bytes, magic: bytes):
    assert data[:8] == magic
    version, reserved, flags, length, check, header_check = struct.unpack("<HHIQII", data[8:32])
    assert (version, reserved, flags) == (1, 0, 0)
    assert length == len(data) - 32
    assert crc32c.crc32c(data[32:]) == check
    assert crc32c.crc32c(data[:28]) == header_check
    return msgpack.unpackb(data[32:], strict_map_key=False)


def read_head():
    trailer = SHARD[-44:]
    assert trailer[:8] == b"VSTSEND\x01"
    assert struct.unpack("<HHI", trailer[8:16]) == (1, 0, 0)
    start, length, size = struct.unpack("<QQQ", trailer[16:40])
    assert struct.unpack("<I", trailer[40:])[0] == crc32c.crc32c(trailer[:40])
    assert size == len(SHARD)
    return unframed(SHARD[start : start + length], b"VSTHEAD\x01")


HEAD = read_head()
META = msgpack.unpackb(HEAD["inline"]["meta"])


def blocks(name: str) -> list[bytes]:
    part = HEAD["sections"][name]
    offsets = np.frombuffer(part["offsets"], "<i8").tolist()
    sizes = np.frombuffer(part["sizes"], "<i8").tolist()
    checks = np.frombuffer(part["checks"], "<u4").tolist()
    found = []
    for start, end, size, check in zip(offsets[:-1], offsets[1:], sizes, checks, strict=True):
        stored = SHARD[start:end]
        assert crc32c.crc32c(stored) == check
        plain = zstandard.ZstdDecompressor().decompress(stored) if part["compressed"] else stored
        assert len(plain) == size
        found.append(plain)
    return found


def matrix(name: str, dtype: str, width: int) -> np.ndarray:
    return np.frombuffer(b"".join(blocks(name)), dtype).reshape(-1, width)


KEYS = msgpack.unpackb(b"".join(blocks("keys")))
"""Of node id 0 to N - 1."""
ROW_OF = [int(key.removeprefix("key-")) for key in KEYS]


def neighbor_lists() -> list[list[int]]:
    found = []
    for block in blocks("lists"):
        at = 0

        def number(block=block) -> int:
            nonlocal at
            value = shift = 0
            while True:
                byte = block[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        for _ in range(min(META["block_rows"], N - len(found))):
            length, current, row = number(), len(found), []
            for i in range(length):
                step = number()
                current += (step >> 1) ^ -(step & 1) if i == 0 else step + 1
                row.append(current)
            found.append(row)
        assert at == len(block)
    return found


def test_the_file_begins_as_it_should_and_its_sections_are_those_of_the_page():
    assert SHARD[:8] == b"VSTSHRD\x01"
    assert set(HEAD["inline"]) == {"meta", "centroids", "clusters", "code_params"}
    fixed = {"upper", "lists", "codes", "vectors", "payload", "keys", "key_index"}
    assert set(HEAD["sections"]) == fixed | {f"column:{name}" for name in FIELDS}
    assert (META["n"], META["dim"], META["metric"], META["M0"], META["block_rows"]) == (
        N,
        DIM,
        "cosine",
        8,
        64,
    )
    assert [tuple(field) for field in META["fields"]] == list(FIELDS.items())


def test_keys_are_a_permutation_and_the_index_finds_them():
    assert sorted(ROW_OF) == list(range(N))
    index = blocks("key_index")[0]
    hashes, nodes = np.frombuffer(index, "<u8", count=N), np.frombuffer(index, "<i4", offset=8 * N)
    assert (np.diff(hashes.astype(object)) > 0).all()
    for value, node in zip(hashes.tolist(), nodes.tolist(), strict=True):
        assert value == int.from_bytes(hashlib.blake2b(KEYS[node].encode(), digest_size=8).digest(), "little")


def test_vectors_are_as_upserted_and_codes_are_near_them():
    wanted = rows().vectors[ROW_OF]
    assert matrix("vectors", "<f4", DIM).tobytes() == wanted.tobytes()
    params = msgpack.unpackb(HEAD["inline"]["code_params"])
    assert params["bits"] == 8
    center, scale = (np.frombuffer(params["arrays"][name], "<f4") for name in ("center", "scale"))
    near = center + scale * matrix("codes", "|i1", DIM)
    unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert (np.abs(near - unit) <= 0.5 * scale + 1e-6).all()


def test_clusters_cover_the_rows_and_centroids_are_of_the_space():
    clusters = np.frombuffer(HEAD["inline"]["clusters"], "<i8")
    centroids = np.frombuffer(HEAD["inline"]["centroids"], "<f4").reshape(len(clusters) - 1, -1)
    assert centroids.shape[1] == DIM
    assert clusters[0] == 0
    assert clusters[-1] == N
    assert (np.diff(clusters) > 0).all()


def test_neighbor_lists_are_ascending_ids_and_connect_the_shard():
    lists = neighbor_lists()
    assert len(lists) == N
    for node, row in enumerate(lists):
        assert len(row) <= META["M0"]
        assert row == sorted(set(row))
        assert node not in row
        assert all(0 <= other < N for other in row)
    reached, todo = {0}, [0]
    while todo:
        new = set(lists[todo.pop()]) - reached
        reached |= new
        todo += new
    assert len(reached) > N * 0.9


def test_upper_levels_name_nodes_by_their_place():
    upper = msgpack.unpackb(blocks("upper")[0])
    nodes, first = np.frombuffer(upper["nodes"], "<i4"), np.frombuffer(upper["rows"], "<i8")
    links = np.frombuffer(upper["links"], "<i4").reshape(-1, META["M0"] // 2)
    assert len(first) == len(nodes) + 1
    assert first[-1] == len(links)
    assert ((links >= -1) & (links < len(nodes))).all()
    entry = upper["entry_rank"]
    assert first[entry + 1] - first[entry] == upper["max_level"]
    assert upper["codes"] == matrix("codes", "|u1", DIM)[nodes].tobytes()


def column(data: bytes) -> list:
    stored = msgpack.unpackb(data)
    present = np.unpackbits(np.frombuffer(stored["present"], np.uint8), bitorder="little")[: stored["n"]]
    kind = stored["type"]
    dtype = {"float": "<f8", "bool": "|u1", "str": "<i4", "list[str]": "<i4"}.get(kind, "<i8")
    items = np.frombuffer(stored["values"], dtype).tolist()
    if "str" in kind:
        items = [stored["dictionary"][item] if stored["dictionary"] else None for item in items]
    if kind.startswith("list"):
        offsets = np.frombuffer(stored["offsets"], "<i8").tolist()
        items = [items[start:end] for start, end in itertools.pairwise(offsets)]
    return [item if there else None for item, there in zip(items, present.tolist(), strict=True)]


@pytest.mark.parametrize("number", range(len(FIELDS)), ids=list(FIELDS))
def test_columns_and_payload_say_the_same(number):
    name = list(FIELDS)[number]
    payload = [row for block in blocks("payload") for row in msgpack.unpackb(block)]
    assert [row[0] for row in payload] == KEYS
    assert column(blocks(f"column:{name}")[0]) == [row[1][number] for row in payload]
    documents = rows().documents
    assert [row[2] for row in payload] == [documents[i] for i in ROW_OF]


def test_the_small_objects():
    manifest = unframed((GOLDEN / "v1" / "manifest").read_bytes(), b"VSTMANI\x01")
    entry = manifest["shards"][0]
    assert entry["size_bytes"] == len(SHARD)
    assert manifest["schema"]["fields"] == [list(field) for field in FIELDS.items()]
    assert unframed(SHARD[entry["head"][0] :][: entry["head"][1]], b"VSTHEAD\x01") == HEAD
    for name, part in HEAD["sections"].items():
        offsets = np.frombuffer(part["offsets"], "<i8").tolist()
        assert entry["sections"][name] == [offsets[0], offsets[-1] - offsets[0]]
    record = unframed((GOLDEN / "v1" / "log").read_bytes(), b"VSTLOG\x00\x01")
    upsert, delete = record["batches"]
    assert (upsert["op"], upsert["n"], upsert["dim"]) == ("upsert", N, DIM)
    assert upsert["vectors"] == rows().vectors.astype("<f4").tobytes()
    assert msgpack.unpackb(upsert["keys"]) == [f"key-{i}" for i in range(N)]
    assert column(upsert["columns"]["year"]) == [2000 + i if i % 3 else None for i in range(N)]
    assert (delete["op"], msgpack.unpackb(delete["keys"])) == ("delete", ["key-1", "gone"])
    deletes = unframed((GOLDEN / "v1" / "deletes-int").read_bytes(), b"VSTLOG\x00\x01")["batches"][0]
    assert np.frombuffer(deletes["keys"], "<i8").tolist() == [-1, 2**62]
    dead = unframed((GOLDEN / "v1" / "dead").read_bytes(), b"VSTDEAD\x01")
    assert np.frombuffer(zstandard.ZstdDecompressor().decompress(dead["bits"]), "<u8").tolist() == [0b1011, 1]
