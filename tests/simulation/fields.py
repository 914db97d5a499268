"""Histories in which fields come and go too, in every order with writes, crashes, takeovers and restores.

They are histories of their own, so that a seed of `Actors` stays the history that it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from actors import Actors

from vstore.format.columns import column_from_values
from vstore.format.manifest import Manifest
from vstore.format.rows import RowBatch
from vstore.ingest.schema import with_field, without_field
from vstore.types import Schema

NAMES = ("extra", "more")


class FieldActors(Actors):
    """As `Actors`; writers also add and drop fields, under names that come back with another type."""

    def acts(self) -> list[Callable[[], None]]:
        return [*super().acts(), *[self.change_fields] * 5]

    def rows(self, keys: list[int], year: int, schema: Schema) -> RowBatch:
        rows = super().rows(keys, year, schema)
        columns = dict(rows.columns)
        for name in NAMES:
            if (kind := schema.fields.get(name)) is not None:
                value = self.stamp if kind == "int" else f"{name} {self.stamp}"
                values = [None if key % 4 == 0 else value for key in keys]
                columns[name] = column_from_values(kind, values, field=name)
        return replace(rows, columns=columns)

    def change_fields(self) -> None:
        picked = self.pick_idle_writer()
        if picked is None:
            return
        actor, writer = picked
        name = str(self.pick(NAMES))
        kind = str(self.pick(("int", "str")))
        drops = name in writer.view().schema.fields

        def change(manifest: Manifest, seq: int) -> Manifest:
            return without_field(manifest, name) if drops else with_field(manifest, name, kind, seq)

        version = self.as_writer(actor, lambda: writer.change_schema(change))
        self.note(f"{actor} {'dropped' if drops else 'added'} {name}: {version}")
        if version is not None:
            history = self.history_of(writer.view())
            fields = history.manifests[version].schema.fields
            assert (name not in fields) if drops else (fields[name] == kind), f"version {version}: {fields}"
        self.check_view(writer.view())
