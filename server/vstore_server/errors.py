"""Errors that only a network adds, and how every error crosses it.

    VstoreError
    ├── RemoteError
    │   ├── Unauthenticated (PermissionError)    no token, or one that the server does not know
    │   ├── PermissionRefused (PermissionError)  the token's role or scope does not reach that far
    │   ├── ServerBusy (RuntimeError)            too much in flight; `retry_after_s` says when to come back
    │   ├── ServerUnavailable (ConnectionError)  no server answers there, or it is shutting down
    │   ├── DeadlineExceeded (TimeoutError)      the call's time is over
    │   ├── Cancelled (RuntimeError)             the caller gave up
    │   ├── ProtocolError (ValueError)           an answer, or a method, that this protocol does not have
    │   └── ServerFailed (RuntimeError)          a failure inside the server; its log knows the request id
    └── InvalidInput
        ├── MalformedMessage                     bytes that are no request of this protocol
        └── LimitExceeded                        a request or answer larger than the server allows

An error travels as a gRPC status (for callers that know nothing of vstore) and the name of its class in
the trailing metadata (for those that do). Storage, format and re-ranker failures name objects, paths or
model internals: their text stays in the server's log.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

from vstore import errors
from vstore.errors import InvalidInput, VstoreError

ERROR_KEY = "vstore-error"
REQUEST_ID_KEY = "vstore-request-id"
RETRY_AFTER_KEY = "vstore-retry-after-ms"
MAX_MESSAGE_BYTES = 2000
_SHORTENED = " ... (message shortened)"


class RemoteError(VstoreError):
    """Something between this process and the server, or the server itself."""


class Unauthenticated(RemoteError, PermissionError):
    """No token, or one that the server does not know."""


class PermissionRefused(RemoteError, PermissionError):
    """The token's role, or its collections, do not reach that far."""


class ServerBusy(RemoteError, RuntimeError):
    """Too many requests are in flight; come back after `retry_after_s` seconds."""

    retry_after_s: float = 0.1


class ServerUnavailable(RemoteError, ConnectionError):
    """No server answers at that address, or it is shutting down."""


class DeadlineExceeded(RemoteError, TimeoutError):
    """The call took longer than the caller would wait."""


class Cancelled(RemoteError, RuntimeError):
    """The caller gave up."""


class ProtocolError(RemoteError, ValueError):
    """An answer that this client cannot read, or a method that the server does not have."""


class ServerFailed(RemoteError, RuntimeError):
    """A failure inside the server; its log has the details under the request id."""


class MalformedMessage(InvalidInput):
    """Bytes that are no request of this protocol."""


class LimitExceeded(InvalidInput):
    """A request, or the answer it would have, is larger than the server allows."""


_STATUS: dict[type[BaseException], str] = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.FieldError: "INVALID_ARGUMENT",
    errors.FilterError: "INVALID_ARGUMENT",
    errors.CollectionExists: "ALREADY_EXISTS",
    errors.CollectionNotFound: "NOT_FOUND",
    errors.SnapshotNotFound: "NOT_FOUND",
    errors.StaleRead: "UNAVAILABLE",
    errors.StorageError: "INTERNAL",
    errors.AccessDenied: "FAILED_PRECONDITION",
    errors.BucketNotFound: "FAILED_PRECONDITION",
    errors.NotAStore: "FAILED_PRECONDITION",
    errors.StoreFull: "FAILED_PRECONDITION",
    errors.StoreUnavailable: "UNAVAILABLE",
    errors.CommitConflict: "ABORTED",
    errors.FormatError: "DATA_LOSS",
    errors.WriterFenced: "ABORTED",
    errors.QueryTimeout: "DEADLINE_EXCEEDED",
    errors.QueryCancelled: "CANCELLED",
    errors.QueryLimitExceeded: "RESOURCE_EXHAUSTED",
    errors.ReadOnly: "FAILED_PRECONDITION",
    errors.Closed: "FAILED_PRECONDITION",
    errors.MissingDependency: "UNIMPLEMENTED",
    errors.RerankError: "INTERNAL",
    Unauthenticated: "UNAUTHENTICATED",
    PermissionRefused: "PERMISSION_DENIED",
    ServerBusy: "RESOURCE_EXHAUSTED",
    ServerUnavailable: "UNAVAILABLE",
    DeadlineExceeded: "DEADLINE_EXCEEDED",
    Cancelled: "CANCELLED",
    ProtocolError: "UNIMPLEMENTED",
    ServerFailed: "INTERNAL",
    VstoreError: "INTERNAL",
}
"""The gRPC status of each class and, where they have no line of their own, of its subclasses."""

_FROM_STATUS: dict[str, type[VstoreError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionRefused,
    "UNAVAILABLE": ServerUnavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "UNIMPLEMENTED": ProtocolError,
    "RESOURCE_EXHAUSTED": ServerBusy,
}

_GENERIC: dict[type[BaseException], str] = {
    errors.ReadOnly: "this server serves its store read-only; write through the server that writes",
    errors.WriterFenced: "another writer has taken the collection over; the next write takes it back",
    errors.StorageError: "the server's object store failed",
    errors.FormatError: "the server read bytes from its store that do not hold",
    errors.RerankError: "the re-ranker failed",
    errors.MissingDependency: "the server lacks an optional package that this needs",
}
"""Classes whose own text names objects, paths or internals, and what callers read instead."""


def _error_classes() -> dict[str, type[VstoreError]]:
    here = [value for value in globals().values() if inspect.isclass(value)]
    known = [value for value in vars(errors).values() if inspect.isclass(value)]
    return {value.__name__: value for value in [*known, *here] if issubclass(value, VstoreError)}


CLASSES: Mapping[str, type[VstoreError]] = _error_classes()
"""Every error class that can cross the wire, by name."""


def status_of(error: BaseException) -> str:
    """Return the name of the gRPC status of an error; "INTERNAL" for one that nobody meant to raise."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), "INTERNAL")


def name_of(error: BaseException) -> str:
    """Return the name of the error's class, or of its nearest base that clients know."""
    return next((k.__name__ for k in type(error).__mro__ if CLASSES.get(k.__name__) is k), "ServerFailed")


def is_internal(error: BaseException) -> bool:
    """Whether the error's own text must stay in the server's log."""
    return not isinstance(error, VstoreError) or _generic(error) is not None


def public_message(error: BaseException, secrets: Iterable[str], request_id: str) -> str:
    """Return what a caller may read of an error.

    Args:
        error: what a request ended with.
        secrets: texts that must not appear, as the store's url.
        request_id: the line in the server's log.
    """
    generic = _generic(error)
    if generic is not None:
        return f"{generic} (request {request_id})"
    if not isinstance(error, VstoreError):
        return f"the server failed; its log has the details under request {request_id}"
    text = str(error)
    for secret in secrets:
        text = text.replace(f"{secret}: ", "").replace(secret, "the store")
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_MESSAGE_BYTES:
        return data.decode()
    return data[: MAX_MESSAGE_BYTES - len(_SHORTENED)].decode("utf-8", "ignore") + _SHORTENED


def error_from(status: str, details: str | None, metadata: Mapping[str, str]) -> VstoreError:
    """Return the exception that a gRPC status and its trailing metadata stand for."""
    text = details or f"the server answered {status}"
    name = metadata.get(ERROR_KEY)
    if name is None and status == "RESOURCE_EXHAUSTED" and "larger than max" in text:
        return LimitExceeded(f"{text}; send or ask for less at once")
    if name is None and status == "CANCELLED" and "Channel closed" not in text:
        # Who gives up hears nothing; a server that stops resets what it had accepted and not begun.
        return ServerUnavailable(f"the server ended the call ({text}); it is shutting down: ask again")
    kind = CLASSES.get(name or "") or _FROM_STATUS.get(status, ServerFailed)
    error = kind(text)
    if isinstance(error, ServerBusy) and metadata.get(RETRY_AFTER_KEY, "").isdigit():
        error.retry_after_s = int(metadata[RETRY_AFTER_KEY]) / 1000
    return error


def retry_delay_s(error: VstoreError, attempt: int, repeatable: bool, n_retries: int) -> float | None:
    """Return how long to wait before trying a call again, or None where that must not be.

    Args:
        error: how the call ended.
        attempt: how often it was tried again before.
        repeatable: a second run of the call leaves the same state and answer as one.
        n_retries: at most so many.
    """
    if attempt >= n_retries:
        return None
    if isinstance(error, ServerBusy):
        return error.retry_after_s * (1 << attempt)
    if isinstance(error, ServerUnavailable) and repeatable:
        return 0.05 * (1 << attempt)
    return None


def _generic(error: BaseException) -> str | None:
    return next((_GENERIC[kind] for kind in type(error).__mro__ if kind in _GENERIC), None)
