"""What the methods of the service share: handles, limits, and the parts that many requests have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from vstore import Collection, Database
from vstore.errors import CollectionNotFound, VstoreError
from vstore_server.codec import Limits, Message
from vstore_server.errors import LimitExceeded
from vstore_server.handles import Handles
from vstore_server.messages import Reader
from vstore_server.methods import Call


class Requests:
    """Takes requests apart, within the limits and the caller's scope. Thread-safe."""

    def __init__(self, database: Database, limits: Limits, refresh_s: float) -> None:
        self.database = database
        self.limits = limits
        self._handles = Handles(database, refresh_s)

    def _name(self, reader: Reader, call: Call, field: str = "collection") -> str:
        name: str = reader.text(field)
        call.caller.check_collection(name)
        call.collection = name[:128]
        return name

    def _reading(self, reader: Reader, call: Call, *, refresh: bool = False) -> Callable[[], Collection]:
        """Return what opens what a request reads: the collection as it is, or a snapshot of it.

        A request is checked whole before anything is opened for it.
        """
        name, at, version = self._name(reader, call), reader.at("at"), reader.whole("version", None)
        at_least = reader.text("at_least", None)
        if at is not None:
            return lambda: self._handles.snapshot(name, at, version)
        return lambda: self._handles.get(name, refresh=refresh, at_least=at_least)

    def _writing(self, reader: Reader, call: Call) -> Callable[[], Collection]:
        """Return what opens what a request writes to."""
        name = self._name(reader, call)
        return lambda: self._handles.get(name)

    def _ids(self, reader: Reader) -> npt.NDArray[Any] | list[Any] | None:
        ids = reader.keys("ids")
        self._at_most("ids", 0 if ids is None else len(ids), self.limits.ids)
        return ids

    def _filter(self, reader: Reader) -> Message | None:
        """Return the filter of a request, no deeper and no larger than the limits."""
        filter: Message | None = reader.map("filter", None)
        level: list[Any] = [] if filter is None else [filter]
        depth = n_values = 0
        while level:
            below: list[Any] = []
            for value in level:
                items = value.values() if isinstance(value, dict) else value
                n_values += len(items)
                below += [item for item in items if isinstance(item, (dict, list))]
            # A level of the language is a map and a list: {"$and": [{...}, {...}]}.
            depth, level = depth + 1, below
            self._at_most("levels of filter", (depth + 1) // 2, self.limits.filter_depth)
            self._at_most("values of filter", n_values, self.limits.filter_values)
        return filter

    def _attributes(self, reader: Reader) -> list[Any] | dict[str, Any] | None:
        """Return the attributes of a write, no list among them longer than the limit."""
        attributes = reader.columns("attributes")
        limit = self.limits.list_items
        groups: Any = attributes.values() if isinstance(attributes, dict) else attributes or ()
        for group in groups:
            values = group.values() if isinstance(group, dict) else group if isinstance(group, list) else ()
            longest = max((len(value) for value in values if type(value) is list), default=0)
            self._at_most("items of a list attribute", longest, limit)
        return attributes

    def _k(self, reader: Reader) -> int:
        k: int = reader.whole("k", 10)
        self._at_most("k", k, self.limits.k)
        return k

    def _at_most(self, what: str, value: int, limit: int) -> None:
        if value > limit:
            raise LimitExceeded(
                f"{what}: {value} is over this server's limit of {limit}; ask for less at once"
            )

    @contextmanager
    def _settling(self, collection: Any, call: Call) -> Iterator[None]:
        """Let handles go that an error says are of no more use; name nothing out of the caller's scope."""
        try:
            yield
        except VstoreError as error:
            if isinstance(collection, str):
                self._handles.settle(collection, error)
            if isinstance(error, CollectionNotFound) and not call.caller.sees_all:
                # The usual message names the nearest collection, which may be out of the token's sight.
                raise CollectionNotFound(f"there is no collection {collection!r}") from None
            raise


def written(collection: Collection, **fields: Any) -> Message:
    """Return the answer of a write: its fields, and the token of a version that holds it."""
    return {**fields, "version_token": collection.version_token}
