"""What a commit may change, as pure functions: a wrong manifest is refused before it is published."""

from __future__ import annotations

from vstore.errors import CorruptData
from vstore.format.manifest import Manifest


def check_manifest(manifest: Manifest) -> None:
    """Raise CorruptData where a manifest contradicts itself."""
    ids = [entry.shard_id for entry in manifest.shards]
    _require(len(set(ids)) == len(ids), manifest, "names a shard twice")
    _require(manifest.version >= 1, manifest, "has no version")
    _require(manifest.log_start >= 1, manifest, "begins its log before record 1")
    _require(all(entry.n_rows > 0 for entry in manifest.shards), manifest, "names a shard without rows")
    _require(
        all((entry.dead_key is not None) == (entry.n_dead > 0) for entry in manifest.shards),
        manifest,
        "counts dead rows without naming them, or the other way round",
    )
    _require(not (manifest.dropped and manifest.shards), manifest, "is dropped and has shards")


def check_succession(before: Manifest, after: Manifest) -> None:
    """Raise CorruptData unless `after` may follow `before`."""
    _require(after.version == before.version + 1, after, f"does not follow version {before.version}")
    _require(after.name == before.name, after, f"has another name than {before.name!r}")
    if after.collection_id != before.collection_id:
        _require(before.dropped, after, "replaces a collection that was not dropped")
        return
    _require(not before.dropped, after, "continues a collection that was dropped")
    _check_schema(before, after)
    _require(after.writer_epoch >= before.writer_epoch, after, "goes back to an older writer epoch")
    _require(after.log_start >= before.log_start, after, "moves the beginning of the log back")
    _require(before.id_kind in (None, after.id_kind), after, "changes the kind of ids")
    known = {entry.shard_id: entry for entry in before.shards}
    for entry in after.shards:
        old = known.get(entry.shard_id)
        if old is not None:
            _require(
                old.n_dead <= entry.n_dead or is_restored(after),
                after,
                f"brings rows of shard {entry.shard_id} back to life",
            )
            same = (old.key, old.size_bytes, old.n_rows) == (entry.key, entry.size_bytes, entry.n_rows)
            _require(same, after, f"moves or resizes shard {entry.shard_id}")
            _require(
                entry.sections.items() <= old.sections.items() or is_restored(after),
                after,
                f"brings sections of shard {entry.shard_id} back, or moves them",
            )


def _check_schema(before: Manifest, after: Manifest) -> None:
    """Fields come and go; what a field is, and what the vectors are, stays."""
    old, new = before.schema, after.schema
    _require(
        (old.dim, old.metric) == (new.dim, new.metric), after, "changes dimension or metric in its schema"
    )
    for name, kind in new.fields.items():
        _require(old.fields.get(name, kind) == kind, after, f"changes the type of field {name!r}")


RESTORED = "restored"
"""The property that says "<version> as <version>": which version the second one brought back."""


def is_restored(manifest: Manifest) -> bool:
    """Return whether this very manifest brings an older version back."""
    return manifest.properties.get(RESTORED, "").endswith(f" as {manifest.version}")


def _require(condition: bool, manifest: Manifest, reason: str) -> None:
    if not condition:
        raise CorruptData(
            f"manifest {manifest.version} of collection {manifest.name!r} {reason}: it was not published"
        )
