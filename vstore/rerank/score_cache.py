"""Scores that a model gave before, by digest of query and document; the least recently used goes first."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from typing import Any

from vstore.settings import require


class ScoreCache:
    """float by key, at most `max_scores` of them. Safe to use from several threads.

    Raises:
        InvalidSetting: max_scores is no whole number of 0 or more.
    """

    def __init__(self, max_scores: int) -> None:
        require(
            isinstance(max_scores, int) and not isinstance(max_scores, bool) and max_scores >= 0,
            f"cache_scores is {max_scores!r}; it must be a whole number, 0 for no cache",
        )
        self.max_scores = max_scores
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: bytes) -> float | None:
        """Return a score that was put, or None."""
        with self._lock:
            score = self._scores.get(key)
            if score is not None:
                self._scores.move_to_end(key)
            return score

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._scores.clear()

    def put(self, key: bytes, score: float) -> None:
        """Keep a score; where there are too many, the one unused for longest goes."""
        if not self.max_scores:
            return
        with self._lock:
            self._scores[key] = score
            self._scores.move_to_end(key)
            if len(self._scores) > self.max_scores:
                self._scores.popitem(last=False)


def digest(text: str | None, image: Any) -> bytes:
    """Return 16 bytes that stand for a text and an image (bytes, a path, or a PIL image).

    A path stands for the file as it is now: its size and modification time are part of it.
    """
    hashed = hashlib.blake2b(digest_size=16)
    encoded = b"" if text is None else text.encode("utf-8", "surrogatepass")
    hashed.update(b"-" if text is None else b"%d:" % len(encoded))
    hashed.update(encoded)
    if isinstance(image, (bytes, bytearray, memoryview)):
        hashed.update(b"bytes")
        hashed.update(image)
    elif isinstance(image, (str, os.PathLike)):
        hashed.update(f"path{os.fspath(image)}".encode("utf-8", "surrogatepass"))
        try:
            found = os.stat(image)
            hashed.update(b"%d %d" % (found.st_size, found.st_mtime_ns))
        except (OSError, ValueError):
            hashed.update(b"?")
    elif image is not None:
        hashed.update(f"pil{image.mode}{image.size}".encode())
        hashed.update(image.tobytes())
    return hashed.digest()
