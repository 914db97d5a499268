"""Opens a collection while a first search runs: the manifest is known, the log is still being looked at.

What a manifest names is all of a collection but for what its log holds beyond it. A search may start on that
and compare when the rest has come: mostly nothing has, and the round trips that looking takes cost nothing.
Dead rows are the manifest's, too: where there are any, they are one round trip before the search.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from vstore.catalog import Catalog
from vstore.errors import FormatError, StorageError
from vstore.format.manifest import Manifest
from vstore.ingest.reader import OpenShard, load_view, open_snapshot
from vstore.ingest.view import CollectionView, S
from vstore.settings import Settings

T = TypeVar("T")


class Opening(Generic[S]):
    """A collection that is being opened. Thread-safe.

    Args:
        catalog: the store's catalog.
        manifest: of the collection, the latest just now.
        settings: as for `load_view`.
        open_shard: opens a shard; reads nothing.
    """

    def __init__(
        self, catalog: Catalog, manifest: Manifest, settings: Settings, open_shard: OpenShard[S]
    ) -> None:
        self.provisional = _provisional(catalog, manifest, settings, open_shard)
        """What the manifest names; None where dead rows are gone: a newer manifest may do without them."""
        self._start = partial(Opening, catalog, manifest, settings, open_shard)
        pool = ThreadPoolExecutor(1, thread_name_prefix="vstore-open")
        self._view: Future[CollectionView[S]] = pool.submit(
            load_view,
            catalog,
            manifest.name,
            settings,
            open_shard=open_shard,
            previous=self.provisional,
            manifest=manifest,
        )
        pool.shutdown(wait=False)

    def again(self) -> Opening[S]:
        """Return a new opening of the same: after a failure."""
        return self._start()

    def view(self) -> CollectionView[S]:
        """Return what the collection held when it was opened; waits until that is known.

        Raises: as `load_view`.
        """
        return self._view.result()

    def confirmed(self) -> bool:
        """Return whether the provisional view held all that the collection did; waits as `view`."""
        before, view = self.provisional, self.view()
        return (
            before is not None
            and view.manifest.version == before.manifest.version
            and not view.memtable.chunks
            # The very same: the log held nothing that made rows of them die.
            and view.shards is before.shards
        )


class Loaded(Generic[S]):
    """What a handle has read of its collection, or is still reading. Thread-safe.

    Args:
        view: the collection as it was loaded; None where it is being opened.
        opening: that opening.
    """

    def __init__(self, view: CollectionView[S] | None, opening: Opening[S] | None = None) -> None:
        self._lock = threading.Lock()
        self._opening = opening
        if view is None and opening is not None:
            view = opening.provisional
            if view is None:
                self._opening, view = None, opening.view()
        assert view is not None
        self.shown = view
        """The view, or what its manifest alone says."""

    @property
    def is_read(self) -> bool:
        """Whether `shown` is the view."""
        return self._opening is None

    def take(self, view: CollectionView[S]) -> None:
        """Replace the view."""
        with self._lock:
            self.shown, self._opening = view, None

    def view(self) -> CollectionView[S]:
        """Return the view; waits where it is still being read.

        Raises: as `load_view`; the next call tries again.
        """
        opening = self._opening
        if opening is None:
            return self.shown
        try:
            view = opening.view()
        except BaseException:
            self._opening = opening.again()
            raise
        with self._lock:
            if self._opening is opening:
                self.shown, self._opening = view, None
            return self.shown

    def early(self, answer: Callable[[CollectionView[S]], T]) -> T | None:
        """Return what `answer` makes of the view while it is being read; None where it is read, or held more.

        Raises: as `view`, and what `answer` raises.
        """
        opening = self._opening
        if opening is None or opening.provisional is None:
            return None
        try:
            found = answer(opening.provisional)
        except (StorageError, FormatError):
            # What is missing or damaged may be what a newer manifest does without.
            self.view()
            if opening.confirmed():
                raise
            return None
        self.view()
        return found if opening.confirmed() else None


def _provisional(
    catalog: Catalog, manifest: Manifest, settings: Settings, open_shard: OpenShard[S]
) -> CollectionView[S] | None:
    """Return what the manifest names; dead rows, where there are any, are read in one round."""
    try:
        return open_snapshot(catalog, manifest, settings, open_shard=open_shard)
    except (StorageError, FormatError):
        return None
