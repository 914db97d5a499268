"""The messages of `Frames`: many requests in one, many answers in one. Both ends share this.

Each request and answer is bytes of its own inside, so that one that is malformed fails alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from vstore_server.codec import Limits, decode, encode
from vstore_server.errors import MalformedMessage

METHOD = "Frames"
MINOR = 2
"""The protocol's minor number since which servers have it."""
MOST_CALLS = 256
"""Requests of one frame."""
MOST_BYTES = 4 << 20
"""Of one frame of requests."""
MOST_UNDER_WAY = 128
"""Calls of one stream that have no answer yet; a server reads no further until there are fewer."""

_LIMITS = Limits(message_bytes=MOST_BYTES, depth=2, items=4 * MOST_CALLS + 8, text_bytes=16)
_ANSWER_LIMITS = Limits(message_bytes=1 << 30, depth=2, items=1 << 20, text_bytes=16)
_REQUEST_FIELDS = frozenset({"numbers", "requests", "cancel"})


def pack_requests(numbers: Sequence[int], requests: Sequence[bytes], cancel: Sequence[int] = ()) -> bytes:
    """Return a frame of requests under their numbers, and of those that nobody waits for any more."""
    message = {"numbers": numbers, "requests": requests}
    return encode(message | {"cancel": cancel} if cancel else message)


def unpack_requests(data: bytes) -> tuple[list[int], list[bytes], list[int]]:
    """Return numbers, requests, and the numbers of calls that were given up.

    Raises:
        MalformedMessage: it is no such frame, or one of too much.
    """
    message = decode(data, _LIMITS)
    if not _REQUEST_FIELDS.issuperset(message):
        raise MalformedMessage("a frame has numbers, requests and cancel, and no other field")
    numbers, requests = message.get("numbers") or [], message.get("requests") or []
    given_up = message.get("cancel") or []
    _check(numbers, requests, "requests")
    if not isinstance(given_up, list) or not all(type(number) is int for number in given_up):
        raise MalformedMessage("a frame's cancel must be a list of numbers")
    if len(numbers) > MOST_CALLS or len(set(numbers)) < len(numbers):
        raise MalformedMessage(f"a frame has at most {MOST_CALLS} requests, each under a number of its own")
    return numbers, requests, given_up


def pack_answers(numbers: Sequence[int], answers: Sequence[bytes]) -> bytes:
    """Return a frame of answers under the numbers of their requests."""
    return encode({"numbers": numbers, "answers": answers})


def unpack_answers(data: bytes) -> tuple[list[int], list[bytes]]:
    """Return numbers and answers.

    Raises:
        MalformedMessage: it is no such frame.
    """
    message = decode(data, _ANSWER_LIMITS)
    numbers, answers = message.get("numbers"), message.get("answers")
    _check(numbers, answers, "answers")
    return numbers, answers  # type: ignore[return-value]


def _check(numbers: object, given: object, name: str) -> None:
    if (
        not isinstance(numbers, list)
        or not isinstance(given, list)
        or len(numbers) != len(given)
        or not all(type(number) is int for number in numbers)
        or not all(type(one) is bytes for one in given)
    ):
        raise MalformedMessage(f"a frame has as many numbers (ints) as {name} (bytes)")
