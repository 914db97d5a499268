"""What a client sends and how it reads the answer: no sockets, so that both clients share it all.

A request of the face is a value: one message and its answer (`Call`), a method that reports progress
(`Watched`), or an upsert in parts (`Parts`). A client has one function that carries such a value out.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vstore import IndexSettings, Problem, Record, VerifyReport
from vstore.catalog.garbage import Collected
from vstore.catalog.pins import Snapshot
from vstore.database import check_schema
from vstore.errors import Closed, InvalidInput, VstoreError
from vstore.types import Schema
from vstore_server import messages
from vstore_server.codec import SMALL_BYTES, Limits, Message, decode, decode_small, encode
from vstore_server.errors import ProtocolError, error_from
from vstore_server.messages import PROTOCOL, read_value

T = TypeVar("T")
QUICK_METHODS = frozenset({"Search", "Get", "Count", "Explain", "Describe"})
"""Reads that may run twice and are short: they share streams."""
QUICK_BYTES = 64 << 10
ANSWER_LIMITS = Limits(message_bytes=1 << 30, items=1 << 30, text_bytes=1 << 30)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request of one method.

    `repeatable`: running it twice leaves the state and answer of once, so it may be sent again where an
    answer was lost. `heavy`: reading the answer takes long (it re-ranks), so not on an event loop.
    """

    method: str
    message: Message
    read: Callable[[Message], T]
    repeatable: bool = True
    heavy: bool = False


@dataclass(frozen=True, slots=True)
class Watched(Generic[T]):
    """A method that reports progress: to a function, or to a bar with this label."""

    method: str
    message: Message
    read: Callable[[Message], T]
    progress: Any
    label: str
    unit: str = "rows"


@dataclass(frozen=True, slots=True)
class Parts(Generic[T]):
    """An upsert in parts, each durable on its own; `read` takes the acknowledgements."""

    requests: Iterable[bytes]
    read: Callable[[list[Message]], T]


Request = Call[T] | Watched[T] | Parts[T]


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a server says of itself."""

    server: str
    limits: Limits
    rerankers: tuple[str, ...]
    role: str
    minor: int = 0
    """The protocol's minor number."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a server says of a collection."""

    schema: Schema
    index: IndexSettings
    version: int
    version_token: str


def request_bytes(message: Message, limits: Limits) -> bytes:
    """Return a request as bytes.

    Raises:
        InvalidInput: it is larger than the server takes.
    """
    data = encode(message)
    if len(data) > limits.message_bytes:
        raise InvalidInput(
            f"the request has {len(data)} bytes; the server takes {limits.message_bytes}: send less at once"
        )
    return data


def read_answer(data: bytes) -> Message:
    """Return an answer's message.

    Raises:
        ProtocolError: it cannot be read.
    """
    try:
        return decode_small(data) if len(data) <= SMALL_BYTES else decode(data, ANSWER_LIMITS)
    except InvalidInput as error:
        raise ProtocolError(f"the server's answer cannot be read: {error}") from None


def read_with(call: Call[T], data: bytes) -> T:
    """Return what an answer means.

    Raises:
        ProtocolError: it is not the answer that the call has.
    """
    return call.read(read_answer(data))


class AnsweredError(Exception):
    """An error that came as the answer of one call on a stream of calls."""

    def __init__(self, error: VstoreError) -> None:
        super().__init__(str(error))
        self.error = error


def quick_bytes(call: Call[Any], timeout_s: float | None) -> bytes | None:
    """Return a call as a request of `Calls`, or None where it must have a call of its own."""
    if call.method not in QUICK_METHODS:
        return None
    message = {"method": call.method, **call.message}
    if timeout_s is not None:
        message["timeout_ms"] = timeout_s * 1e3
    data = encode(message)
    return data if len(data) <= QUICK_BYTES else None


def read_quick(call: Call[T], data: bytes) -> T:
    """Return what an answer of `Calls` means.

    Raises:
        AnsweredError: it is an error.
        ProtocolError: it is not the answer that the call has.
    """
    message = read_answer(data)
    error = message.get("error")
    if isinstance(error, dict):
        metadata = {str(key): str(value) for key, value in error.items()}
        raise AnsweredError(error_from(metadata.get("status", ""), metadata.get("message"), metadata))
    return call.read(message)


def check_open(is_closed: bool, what: str) -> None:
    """Raise Closed where a handle was closed."""
    if is_closed:
        raise Closed(f"{what} was closed; connect, or get it, again")


class Progressed(Generic[T]):
    """Reads the messages of a progress stream; `result` is there when the stream has ended."""

    def __init__(self, watched: Watched[T], report: Callable[[int, int], None]) -> None:
        self._watched = watched
        self._report = report
        self._last: Message | None = None

    def feed(self, data: bytes) -> None:
        """Take one message in."""
        message = read_answer(data)
        if "result" in message:
            self._last = message
        else:
            self._report(read_value(message, "done"), read_value(message, "total"))

    @property
    def result(self) -> T:
        """What the method returned."""
        if self._last is None:
            raise ProtocolError("the stream ended without a result")
        return self._watched.read(self._last)


def write_message(message: Message) -> Message:
    """Return the message of a write under an idempotency key of its own."""
    return {**message, "idempotency_key": uuid.uuid4().hex}


def read_scan(data: bytes) -> list[Record]:
    """Return the records of one message of a `Scan`; the first has their number instead."""
    message = read_answer(data)
    return [] if "rows" in message else messages.read_batch_of_records(message)


# The database.


def connect_call() -> Call[Welcome]:
    """Return the greeting that a client begins with."""
    return Call("Connect", {}, _read_welcome)


def _read_welcome(message: Message) -> Welcome:
    protocol = read_value(message, "protocol")
    if not isinstance(protocol, dict) or protocol.get("major") != PROTOCOL["major"]:
        raise ProtocolError(
            f"the server speaks protocol {protocol!r} and this client {PROTOCOL['major']}; upgrade the older"
        )
    known = {field.name for field in dataclasses.fields(Limits)}
    given = {name: value for name, value in read_value(message, "limits").items() if name in known}
    rerankers = tuple(read_value(message, "rerankers"))
    role, minor = read_value(message, "role"), protocol.get("minor")
    minor = minor if isinstance(minor, int) else 0
    return Welcome(read_value(message, "server"), Limits(**given), rerankers, role, minor)


def list_call() -> Call[list[str]]:
    """Return the call of `collections`."""
    return Call("ListCollections", {}, lambda answer: list(read_value(answer, "collections")))


def create_call(
    name: str, dim: Any, metric: Any, fields: Mapping[str, Any] | None, index: IndexSettings | None
) -> Call[None]:
    """Return the call of `create_collection`; `describe_call` follows it."""
    schema = check_schema(dim, metric, fields or {})
    message = {"name": name, **messages.schema_message(schema)}
    if index is not None:
        message["index"] = dataclasses.asdict(index)
    return Call("CreateCollection", write_message(message), lambda answer: None, repeatable=False)


def drop_call(name: str) -> Call[None]:
    """Return the call of `drop_collection`."""
    message = write_message({"collection": name})
    return Call("DropCollection", message, lambda answer: None, repeatable=False)


def describe_call(name: str, at: Any = None) -> Call[Description]:
    """Return the call that opens a collection, or a snapshot of it."""
    message = {"collection": name} if at is None else {"collection": name, "at": at}
    return Call("Describe", message, read_description)


def read_description(answer: Message) -> Description:
    """Return the answer of a `Describe`."""
    known = {field.name for field in dataclasses.fields(IndexSettings)}
    index = {name: value for name, value in read_value(answer, "index").items() if name in known}
    return Description(
        messages.read_schema(read_value(answer, "schema")),
        IndexSettings(**index),
        read_value(answer, "version"),
        read_value(answer, "version_token"),
    )


def snapshots_call(name: str) -> Call[list[Snapshot]]:
    """Return the call of `snapshots`."""
    return Call("Snapshots", {"collection": name}, messages.read_snapshots)


def verify_call(name: str | None, progress: Any) -> Watched[VerifyReport]:
    """Return the call of `verify`."""
    return Watched("Verify", {"collection": name}, _read_report, progress, "verifying", "bytes")


def _read_report(answer: Message) -> VerifyReport:
    given = dict(read_value(answer, "report"))
    problems = [Problem(one["object"], one["reason"]) for one in given.pop("problems")]
    known = {field.name for field in dataclasses.fields(VerifyReport)}
    return VerifyReport(problems=problems, **{key: n for key, n in given.items() if key in known})


def collect_call(name: str, dry_run: bool) -> Call[Collected]:
    """Return the call of `collect_garbage`."""
    names = [field.name for field in dataclasses.fields(Collected)]
    message = write_message({"collection": name, "dry_run": bool(dry_run)})
    return Call(
        "CollectGarbage",
        message,
        lambda answer: Collected(**{name: tuple(read_value(answer, name)) for name in names}),
    )
