"""Fusions that are stored with a collection: one checksummed object each, applied by name.

A learned fusion's trees are stored as LightGBM's text, a weighted one's weights as they are, and of the
signals what they are: the vector score, recency, popularity and lexical relevance (with the words that it
counted) are made again from their settings. A signal that is a model is stored by its name alone, and whoever
applies the fusion gives it. Nothing that is stored is ever run as Python. What fusions are made of is
imported with the first of them: every collection imports this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vstore.catalog import layout
from vstore.errors import CorruptData, InvalidSetting, ObjectExists, ObjectNotFound, RerankError, nearest
from vstore.format.frame import decode_frame, decoding, encode_frame, pack, unpack
from vstore.rerank.callables import FUSION
from vstore.rerank.plan import Stage
from vstore.storage.base import ObjectStore
from vstore.types import Candidate, Float32s

if TYPE_CHECKING:
    from vstore.rerank.fusion import FusionReranker
    from vstore.rerank.learned import LearnedFusion

    Fusion: TypeAlias = LearnedFusion | FusionReranker

MAGIC: Final = b"VSTFUSE\x01"


class StoredFusion:
    """Stands for a fusion that is stored with a collection until a search of it puts that one in.

    Args:
        name: as `save_fusion` was given.

    Raises:
        InvalidSetting: it is no name.
    """

    def __init__(self, name: str) -> None:
        self.fusion = layout.check_name(name)
        self.name = f"{FUSION}{name}"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Raise RerankError: it has no model of its own."""
        raise RerankError(
            f"{self.name} is stored with a collection, and only a search of that collection can apply it; "
            "elsewhere pass collection.fusion(name)"
        )


def bound(stages: Sequence[Stage], fusion: Callable[[str], Fusion]) -> tuple[Stage, ...]:
    """Return the stages, each stored fusion that they name put in its place."""
    return tuple(
        replace(stage, reranker=fusion(stage.reranker.fusion))
        if isinstance(stage.reranker, StoredFusion)
        else stage
        for stage in stages
    )


class FusionShelf:
    """The fusions of one collection. Safe to use from several threads.

    Args:
        store: the collection's.
        prefix: what the names of its fusions begin with.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self.prefix = prefix
        self._read: dict[str, dict[str, Any]] = {}
        self._made: dict[tuple[str, tuple[int, ...]], Fusion] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of what is stored, in order.

        Raises:
            StorageError: the store failed.
        """
        return sorted(info.key.removeprefix(self.prefix) for info in self._store.list(self.prefix))

    def put(self, name: str, fusion: Fusion) -> None:
        """Store a fusion.

        Raises:
            InvalidSetting: it is no fusion, no name, or the name is taken.
            StorageError: the store failed.
        """
        self.put_bytes(name, encode_fusion(fusion))

    def put_bytes(self, name: str, data: bytes) -> None:
        """Store what `get_bytes` returned.

        Raises:
            InvalidSetting, CorruptData, StorageError: as `put`, or the bytes are no fusion.
        """
        key = f"{self.prefix}{layout.check_name(name)}"
        decode(data, key)
        try:
            self._store.put_if_absent(key, data)
        except ObjectExists:
            raise InvalidSetting(
                f"the collection has a fusion {name!r} already; choose another name, or delete it first"
            ) from None

    def get_bytes(self, name: str) -> bytes:
        """Return a fusion as it is stored.

        Raises:
            InvalidSetting: there is none of that name.
            StorageError: the store failed.
        """
        try:
            return self._store.get(f"{self.prefix}{layout.check_name(name)}")
        except ObjectNotFound:
            known = self.names()
            raise InvalidSetting(
                f"the collection has no fusion {name!r}{nearest(name, known)} "
                f"(it has: {', '.join(known) or 'none'})"
            ) from None

    def get(self, name: str, given: Mapping[str, Any]) -> Fusion:
        """Return a stored fusion, its signals made again.

        Args:
            name: as `put` was given.
            given: signals by name, for those that are models; what is not needed is left.

        Raises:
            InvalidSetting: there is none of that name, or a signal is missing.
            CorruptData: it is damaged.
            MissingDependency: it is a learned one, and lightgbm cannot be imported.
            StorageError: the store failed.
        """
        with self._lock:
            found = self._read.get(name)
        if found is None:
            found = decode(self.get_bytes(name), f"{self.prefix}{name}")
        signals: dict[str, Any] = {}
        for signal, described in found["signals"]:
            made = given[signal] if signal in given else _make(described, f"{self.prefix}{name}")
            if made is None:
                raise InvalidSetting(
                    f"fusion {name!r} uses the signal {signal!r}, a model: its name alone is stored; "
                    f"pass rerank=collection.fusion({name!r}, signals={{{signal!r}: model}}), "
                    "or register it with the server under that name"
                )
            signals[signal] = made
        models = tuple(id(given[signal]) for signal in signals if signal in given)
        with self._lock:
            self._read[name] = found
            known = self._made.get((name, models))
        if known is None:
            known = _fusion(found, signals, f"{self.prefix}{name}")
            with self._lock:
                # It holds its signals, so that their ids stay theirs.
                self._made[name, models] = known
        return known

    def delete(self, name: str) -> None:
        """Delete a fusion; unknown ones are no error."""
        self._store.delete([f"{self.prefix}{layout.check_name(name)}"])
        self.forget()

    def forget(self) -> None:
        """Read everything anew at the next use."""
        with self._lock:
            self._read.clear()
            self._made.clear()


def encode_fusion(fusion: Fusion) -> bytes:
    """Return a fusion as it is stored.

    Raises:
        InvalidSetting: it is no fusion.
    """
    return encode_frame(MAGIC, pack(_described(fusion)))


def decode(data: bytes, where: str) -> dict[str, Any]:
    """Return what is stored of a fusion: `signals`, and `result` and `model`, or `how` and `weights`.

    Raises:
        CorruptData, UnsupportedVersion: the bytes are no fusion, damaged, or of a newer vstore.
    """
    found: dict[str, Any] = unpack(decode_frame(data, MAGIC, where), where)
    with decoding(where):
        pairs = [(str(name), dict(described)) for name, described in found["signals"]]
        if "weights" in found:
            weights = [float(weight) for weight in found["weights"]]
            whole = len(weights) == len(pairs) and isinstance(found["how"], str)
        else:
            whole = isinstance(found["model"], str)
        if not whole or not pairs:
            raise CorruptData(f"{where}: it has no model and no weights, or no signals")
        return {**found, "signals": pairs}


def _described(fusion: Any) -> dict[str, Any]:
    from vstore.rerank.fusion import FusionReranker
    from vstore.rerank.learned import LearnedFusion

    if isinstance(fusion, FusionReranker):
        signals: dict[str, Any] = fusion.members
        how = {"how": fusion.how, "weights": list(fusion.weights.values())}
    elif isinstance(fusion, LearnedFusion):
        signals, how = fusion.signals, fusion.described()
    else:
        raise InvalidSetting(
            f"save_fusion got a {type(fusion).__name__}; it stores what rerank.learned.train returns, "
            "or a rerank.fusion.FusionReranker"
        )
    return {**how, "signals": [(name, _describe(signal)) for name, signal in signals.items()]}


def _fusion(found: Mapping[str, Any], signals: Mapping[str, Any], where: str) -> Fusion:
    from vstore.rerank.fusion import FusionReranker
    from vstore.rerank.learned import LearnedFusion

    if "weights" not in found:
        return LearnedFusion.of(found, signals, where)
    weighted = zip(signals, signals.values(), found["weights"], strict=True)
    try:
        return FusionReranker({name: (signal, float(w)) for name, signal, w in weighted}, found["how"])
    except InvalidSetting as error:
        raise CorruptData(f"{where} is no fusion: {error}") from error


def _describe(signal: Any) -> dict[str, Any]:
    from vstore.rerank.fusion import FirstStage, Popularity, Recency
    from vstore.rerank.lexical import LexicalReranker

    if isinstance(signal, FirstStage):
        return {"kind": "vector"}
    if isinstance(signal, Recency):
        return {"kind": "recency", "field": signal.field, "half_life_days": signal.half_life_days}
    if isinstance(signal, Popularity):
        return {"kind": "popularity", "field": signal.field}
    if type(signal) is LexicalReranker:
        settings = {"fields": list(signal.fields), "k1": signal.k1, "b": signal.b}
        if signal.counts is None:
            return {"kind": "lexical", **settings}
        # A kind of its own: who does not know of counts must not score without them.
        return {"kind": "lexical_counted", **settings, "counts": signal.counts.described()}
    return {"kind": "given"}


def _make(described: Mapping[str, Any], where: str) -> Any:
    """Return the signal that was described, or None where it has to be given."""
    from vstore.rerank.fusion import FirstStage, Popularity, Recency
    from vstore.rerank.lexical import LexicalReranker
    from vstore.rerank.word_counts import WordCounts

    kind = described["kind"]
    if kind == "vector":
        return FirstStage()
    if kind == "recency":
        return Recency(str(described["field"]), float(described["half_life_days"]))
    if kind == "popularity":
        return Popularity(str(described["field"]))
    if kind in ("lexical", "lexical_counted"):
        counts = WordCounts.of(described["counts"], where) if kind == "lexical_counted" else None
        return LexicalReranker(described["fields"], float(described["k1"]), float(described["b"]), counts)
    return None
