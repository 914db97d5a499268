"""Version tokens: a moment of a collection as text, so that a reader elsewhere can wait until it sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vstore.errors import InvalidSetting
from vstore.ingest.view import CollectionView

_TEXT = re.compile(r"([0-9a-z]{1,64})-([0-9]{1,18})-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class VersionToken:
    """A view has seen it that holds every log record below `seq`, under manifest `version` or a later one.

    Numbers of a collection only grow; one that was dropped and created again has another id.
    """

    collection_id: str
    seq: int
    version: int

    @classmethod
    def of(cls, view: CollectionView[Any]) -> VersionToken:
        """Return the token of all that a view holds."""
        return cls(view.manifest.collection_id, view.seq, view.manifest.version)

    def __str__(self) -> str:
        return f"{self.collection_id}-{self.seq}-{self.version}"

    def seen_by(self, other: VersionToken) -> bool:
        """Whether a view of the token `other` holds everything that this one stands for."""
        same = self.collection_id == other.collection_id
        return same and self.seq <= other.seq and self.version <= other.version


@lru_cache(maxsize=1024)
def parse_token(text: str) -> VersionToken:
    """Return the token that a text stands for.

    Raises:
        InvalidSetting: it stands for none.
    """
    found = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidSetting(f"{text!r:.80} is no version token; pass what version_token returned")
    return VersionToken(found[1], int(found[2]), int(found[3]))
