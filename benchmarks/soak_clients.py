"""The clients of the soak run: owners that know what must be there, and those that misbehave."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

import vstore_server
from vstore import F
from vstore.errors import VstoreError
from vstore_server.codec import encode
from vstore_server.errors import Unauthenticated
from vstore_server.http2 import MessageStream
from vstore_server.messages import path_of

DIM = 16
TOKEN = "vst_" + "soak" * 10
N_IDS = 1_500
"""Of one owner: rows are replaced again and again, so that the collection keeps its size."""
STRANGERS = 10_000_000
PACE_S = 0.05
K = 10
_REFUSALS = ("INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED")
"""How a message that is none may end; the last of them on a machine that has no time."""


@dataclass
class Tally:
    """What happened. Thread-safe."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, n: int = 1) -> None:
        """Count something."""
        with self.lock:
            self.counts[what] += n

    def say_wrong(self, what: str) -> None:
        """Note an answer that cannot be."""
        with self.lock:
            self.wrong.append(what)


class Owner:
    """Writes rows that nobody else writes, and knows what every answer about them must be."""

    def __init__(self, number: int, url: str, seed: int, stop: threading.Event, tally: Tally) -> None:
        self.number = number
        self.rows: dict[int, tuple[np.ndarray, int]] = {}
        self._rng = np.random.default_rng([seed, number])
        self._stop, self._tally = stop, tally
        self._collection = vstore_server.connect(url, token=TOKEN).collection("soak")
        self._version = 0

    def run(self) -> None:
        """Write and ask until told to stop; what cannot be stops everything."""
        try:
            while not self._stop.is_set():
                act = self._rng.choice(5, p=[0.35, 0.05, 0.2, 0.1, 0.3])
                (self._upsert, self._delete, self._get, self._count, self._search)[act]()
                self._stop.wait(PACE_S)
        except Exception as error:
            self._tally.say_wrong(f"owner {self.number}: {error!r}")

    def differences(self, collection: Any) -> list[str]:
        """Return what of this owner's rows is not in a collection as it was acknowledged."""
        ids = list(range(self.number * N_IDS, (self.number + 1) * N_IDS))
        return [
            text
            for key, record in zip(ids, collection.get(ids), strict=True)
            if (text := self._off(key, record))
        ]

    def _off(self, key: int, record: Any) -> str | None:
        row = self.rows.get(key)
        if row is None:
            return None if record is None else f"row {key} was deleted and is there"
        if record is None:
            return f"row {key} of version {row[1]} is not there"
        if record.attributes["version"] != row[1] or not np.array_equal(record.vector, row[0]):
            return f"row {key} has version {record.attributes['version']}, not {row[1]}"
        return None

    def _ids(self, n: int) -> list[int]:
        return [int(i) for i in self._rng.choice(N_IDS, n, replace=False) + self.number * N_IDS]

    def _written(self, what: str, write: Callable[[], Any]) -> None:
        """Write until it is acknowledged: after an error it may have been done or not."""
        for _ in range(200):
            try:
                write()
            except VstoreError as error:
                self._tally.add(f"{what}: {type(error).__name__}")
                threading.Event().wait(0.02)
            else:
                self._tally.add(what)
                return
        raise RuntimeError(f"{what} failed 200 times")

    def _upsert(self) -> None:
        self._version += 1
        ids = self._ids(int(self._rng.integers(1, 60)))
        vectors = self._rng.standard_normal((len(ids), DIM)).astype(np.float32)
        attributes = {"owner": [self.number] * len(ids), "version": [self._version] * len(ids)}
        self._written("upsert", lambda: self._collection.upsert(ids, vectors, attributes))
        self._tally.add("rows written", len(ids))
        self.rows.update({key: (vector, self._version) for key, vector in zip(ids, vectors, strict=True)})

    def _delete(self) -> None:
        ids = self._ids(20)
        self._written("delete", lambda: self._collection.delete(ids))
        for key in ids:
            self.rows.pop(key, None)

    def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            answer = ask()
        except VstoreError as error:
            # A store that fails may make a read fail; never may it make it lie.
            self._tally.add(f"{what}: {type(error).__name__}")
            return None
        self._tally.add(what)
        return answer

    def _get(self) -> None:
        ids = self._ids(20)
        records = self._asked("get", lambda: self._collection.get(ids))
        for key, record in zip(ids, records or (), strict=bool(records)):
            if text := self._off(key, record):
                self._tally.say_wrong(f"get: {text}")

    def _count(self) -> None:
        count = self._asked("count", lambda: self._collection.count(F.owner == self.number))
        if count is not None and count != len(self.rows):
            self._tally.say_wrong(f"count: {count} rows of owner {self.number}, not {len(self.rows)}")

    def _search(self) -> None:
        query = self._rng.standard_normal(DIM).astype(np.float32)
        exact = self._rng.random() < 0.5
        recall = 1.0 if exact else 0.95
        mine = F.owner == self.number
        hits = self._asked("search", lambda: self._collection.search(query, K, mine, recall=recall))
        if hits is None:
            return
        if len(hits) != min(K, len(self.rows)):
            self._tally.say_wrong(f"search: {len(hits)} hits of {len(self.rows)} rows")
        for hit in hits:
            row = self.rows.get(hit.id)
            if row is None or hit.attributes["version"] != row[1]:
                self._tally.say_wrong(f"search: {hit.id} is not as it was written")
            elif abs(hit.distance - float(np.linalg.norm(row[0] - query))) > 1e-3:
                self._tally.say_wrong(f"search: the distance of {hit.id} is {hit.distance}")
        if exact and self.rows:
            vectors = np.stack([vector for vector, _ in self.rows.values()])
            nearest = np.sort(np.linalg.norm(vectors - query, axis=1))[:K]
            found = np.array([hit.distance for hit in hits])
            if found.shape == nearest.shape and not np.allclose(found, nearest, atol=1e-3):
                self._tally.say_wrong(f"search: {found} are not the nearest {nearest}")


def open_stream(address: str, method: str) -> MessageStream:
    """Return a stream of a method, over a socket of its own."""
    host, port = address.rsplit(":", 1)
    return MessageStream(
        socket.create_connection((host, int(port)), 20),
        scheme="http",
        authority=address,
        path=path_of(method),
        metadata=[("authorization", f"Bearer {TOKEN}")],
        max_message_bytes=1 << 20,
    )


class Killer:
    """A process without threads whose children write, and are killed while they do.

    Make it before this process has any thread: a copy of a process that has some may hang.
    """

    def __init__(self, address: str) -> None:
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            with contextlib.suppress(BaseException):
                self._serve(address, theirs)
            os._exit(0)
        theirs.close()
        self._orders = ours

    def kill(self, data: bytes, cut: int) -> None:
        """Have a child write `data`, then begin to write it again, and kill it after `cut` bytes."""
        self._orders.sendall(len(data).to_bytes(4, "big") + cut.to_bytes(4, "big") + data)
        if self._orders.recv(1) != b"k":
            raise ChildProcessError("the process that forks clients is gone")

    def close(self) -> None:
        """End the process."""
        self._orders.close()
        os.waitpid(self._pid, 0)

    @staticmethod
    def _serve(address: str, orders: socket.socket) -> None:
        while head := orders.recv(8, socket.MSG_WAITALL):
            size, cut = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
            data = orders.recv(size, socket.MSG_WAITALL)
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                with contextlib.suppress(BaseException):
                    stream = open_stream(address, "UpsertStream")
                    stream.ask(data, 20)
                    stream._send(b"\0" + size.to_bytes(4, "big") + data[:cut])
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
            orders.sendall(b"k")


class Chaos:
    """Clients that are killed, do not know the token, or send what is no message."""

    def __init__(self, url: str, killer: Killer, seed: int, stop: threading.Event, tally: Tally) -> None:
        self._url, self._killer, self._stop, self._tally = url, killer, stop, tally
        self._address = url.removeprefix("vstore://")
        self._rng = random.Random(seed)
        self._channel = grpc.insecure_channel(self._address)
        self._message = encode(
            {"collection": "soak", "query": np.zeros(DIM, np.float32), "k": 3, "filter": {"owner": 1}}
        )

    def run(self) -> None:
        """Misbehave until told to stop."""
        try:
            while not self._stop.is_set():
                self._rng.choice((self._kill, self._stranger, self._malformed, self._garbage))()
                self._stop.wait(4 * PACE_S)
        except Exception as error:
            self._tally.say_wrong(f"chaos: {error!r}")

    def _kill(self) -> None:
        """A process writes, and dies between one byte and the next."""
        ids = sorted({STRANGERS + self._rng.randrange(500) for _ in range(20)})
        vectors = np.zeros((len(ids), DIM), np.float32)
        attributes = {"owner": [-1] * len(ids), "version": [0] * len(ids)}
        part = {"batch": 0, "collection": "soak", "ids": ids, "vectors": vectors, "attributes": attributes}
        data = encode(part)
        self._killer.kill(data, self._rng.randrange(len(data)))
        self._tally.add("clients killed")

    def _stranger(self) -> None:
        try:
            vstore_server.connect(self._url, token="vst_" + "x" * 40, n_retries=0)
        except Unauthenticated:
            self._tally.add("wrong tokens refused")
        else:
            self._tally.say_wrong("a wrong token was taken")

    def _malformed(self) -> None:
        """A search with some bytes changed: an error, or an answer if it still means something."""
        spoilt = bytearray(self._message)
        for _ in range(self._rng.randint(1, 8)):
            spoilt[self._rng.randrange(len(spoilt))] = self._rng.randrange(256)
        method = self._rng.choice(("Search", "Upsert", "Count", "CreateCollection", "Get", "Delete"))
        stub = self._channel.unary_unary(path_of(method))
        try:
            stub(bytes(spoilt), timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")])
            self._tally.add("malformed and still a message")
        except grpc.RpcError as error:
            code = error.code().name  # type: ignore[attr-defined]
            self._tally.add(f"malformed: {code}")
            if code not in _REFUSALS:
                self._tally.say_wrong(f"a malformed message ended with {code}")

    def _garbage(self) -> None:
        """Bytes that are no HTTP/2, and a stream that is left in the middle of a call."""
        host, port = self._address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 20) as raw:
            raw.sendall(self._rng.randbytes(self._rng.randint(1, 2000)))
        stream = open_stream(self._address, "Calls")
        with contextlib.suppress(OSError):
            stream.ask(encode({"method": "Search", "collection": 3}), 20)
            stream._send(b"\0" + len(self._message).to_bytes(4, "big") + self._message)
        stream.close()
        self._tally.add("connections left")


def maintain(url: str, stop: threading.Event, tally: Tally) -> None:
    """Flush, compact and collect garbage now and then, as an operator would."""
    collection = vstore_server.connect(url, token=TOKEN).collection("soak")
    while not stop.wait(15):
        for work in (collection.flush, collection.compact):
            try:
                work()
            except VstoreError as error:
                tally.add(f"{work.__name__}: {type(error).__name__}")
            else:
                tally.add(work.__name__)
