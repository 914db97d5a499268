"""A collection's fusions: stored with it, applied by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vstore.catalog import layout
from vstore.handle import Handle
from vstore.rerank.stored import FusionShelf

if TYPE_CHECKING:
    from vstore.rerank.stored import Fusion


class StoredFusions(Handle):
    """The part of a collection that keeps its fusions."""

    _shelf: FusionShelf | None = None

    def save_fusion(self, name: str, fusion: Fusion) -> None:
        """Store a fusion with the collection: `search(rerank="fusion:NAME")` applies it.

        Of signals that are models the names alone are stored; `fusion` takes the models.

        Args:
            name: as names of collections are.
            fusion: what `vstore.rerank.learned.train` returned, or a weighted `FusionReranker`.

        Raises:
            InvalidSetting: it is something else, or the name is taken or none.
            WriterFenced, StorageError, ReadOnly.
        """
        with self._writing():
            self._fusions().put(name, fusion)

    def fusion(self, name: str, signals: Mapping[str, Any] | None = None) -> Fusion:
        """Return a stored fusion.

        Args:
            name: as `save_fusion` was given.
            signals: by name, those that are models; what the fusion does not use is left.

        Raises:
            InvalidSetting: there is none of that name, or a signal is missing.
            CorruptData: it is damaged.
            MissingDependency: it is a learned one, and lightgbm cannot be imported.
            StorageError: the store failed.
        """
        return self._fusions().get(name, signals or {})

    def fusions(self) -> list[str]:
        """Return the names of the stored fusions."""
        return self._fusions().names()

    def delete_fusion(self, name: str) -> None:
        """Delete a stored fusion. Unknown names are no error."""
        with self._writing():
            self._fusions().delete(name)

    def fusion_bytes(self, name: str) -> bytes:
        """Return a stored fusion as it is stored, for `put_fusion_bytes` of another collection.

        Raises:
            InvalidSetting: there is none of that name.
            StorageError: the store failed.
        """
        return self._fusions().get_bytes(name)

    def put_fusion_bytes(self, name: str, data: bytes) -> None:
        """Store what `fusion_bytes` returned.

        Raises:
            InvalidSetting: the name is taken or none.
            CorruptData, UnsupportedVersion: the bytes are no fusion, damaged, or of a newer vstore.
            WriterFenced, StorageError, ReadOnly.
        """
        with self._writing():
            self._fusions().put_bytes(name, data)

    def _fusions(self) -> FusionShelf:
        collection_id = self._view().manifest.collection_id
        prefix = layout.fusion_prefix(self._name, collection_id)
        shelf: FusionShelf | None = self._shelf
        if shelf is None or shelf.prefix != prefix:
            shelf = self._shelf = FusionShelf(self._parts.catalog.store, prefix)
        return shelf
