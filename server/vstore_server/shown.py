"""Answers of searches as bytes, where most of a receipt is the same from one to the next: packed once.

The bytes are a message as any other: map fields have no order that means anything.
"""

from __future__ import annotations

from vstore.types import Hits
from vstore_server.codec import Message, encode

MOST_KINDS = 256
"""Kinds of receipts that are remembered."""
_RECEIPT = encode({"receipt": None})[1:-1]


class PackedReceipts:
    """The parts that receipts of a kind share, packed. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Message, bytes]] = {}

    def answer(self, hits: Hits, shared: Message, own: Message) -> bytes:
        """Return the message of `messages.hits_message`.

        Args:
            hits: the columns.
            shared: fields of the receipt: the same object for all of its kind, kept, changed by nobody.
            own: its other fields.
        """
        known = self._known.get((id(shared), len(own)))
        if known is None:
            if len(self._known) >= MOST_KINDS:
                self._known = {}
            packed = b"".join((_RECEIPT, _header(len(shared) + len(own)), _fields(shared)))
            # The map is kept: no other may come to have its id.
            known = self._known[id(shared), len(own)] = (shared, packed)
        columns = hits.columns()
        return b"".join((_header(len(columns) + 1), _fields(columns), known[1], _fields(own)))


def _fields(message: Message) -> bytes:
    """Return the keys and values of a map, without its header."""
    return encode(message)[1 if len(message) < 16 else 3 :]


def _header(n: int) -> bytes:
    """Return the header of a map of n fields (msgpack: fixmap, map 16)."""
    return bytes((0x80 | n,)) if n < 16 else b"\xde" + n.to_bytes(2, "big")
