"""`vstore verify`, `export`, `gc`, `tag` and `restore`: looking after a store."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vstore.cli.connection import AddressingStyle, AsJson, CollectionName, EndpointUrl, Place, Region, Uri
from vstore.cli.output import count, print_json, size
from vstore.progress import progress_of
from vstore.settings import Settings
from vstore.upkeep.report import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: vstore verify ./data photos")(verify)
    app.command(epilog="Example: vstore export ./data photos backup-of-photos")(export)
    app.command(epilog="Example: vstore gc ./data photos --dry-run")(gc)
    app.command(epilog="Example: vstore tag ./data photos before-the-move")(tag)
    app.command(epilog="Example: vstore restore ./data photos before-the-move")(restore)


def verify(
    uri: Uri,
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="One; all without it.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Read everything; check every checksum, reference, count, id and code. Exit code 1 if any is wrong."""
    place = Place(uri, endpoint_url, region, addressing_style)
    with place.open(read_only=True) as db, progress_of(True, "Verifying", unit="bytes") as progress:
        report = db.verify(collection, progress=progress)
    if as_json:
        print_json(report.as_dict())
    else:
        print(as_text(report))
    if not report.ok:
        raise typer.Exit(1)


def export(
    uri: Uri,
    collection: CollectionName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New, or empty.", show_default=False)],
    at: Annotated[
        str | None, typer.Option(help="A version (digits), a tag, or an ISO 8601 time; now without it.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Write a collection to a folder of plain files, which `vstore import` reads back whole."""
    started = perf_counter()
    place = Place(uri, endpoint_url, region, addressing_style)
    with place.open(read_only=True) as db, progress_of(True, f"Exporting {collection}") as progress:
        n_rows = db.export(collection, folder, at=None if at is None else snapshot_of(at), progress=progress)
    n_bytes = sum(file.stat().st_size for file in folder.iterdir())
    seconds = perf_counter() - started
    if as_json:
        print_json(
            {
                "collection": collection,
                "folder": str(folder),
                "n_rows": n_rows,
                "bytes_written": n_bytes,
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(f"{collection}: {count(n_rows, 'row')}, {size(n_bytes)}, into {folder} [{seconds:.1f} s]")


RetentionS = Annotated[
    float,
    typer.Option("--retention-s", min=0, help="Keep what was the latest so many seconds ago."),
]


def gc(
    uri: Uri,
    collection: CollectionName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; say what would be.")] = False,
    retention_s: RetentionS = 3600.0,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Delete old versions and what only they named; a writer may go on meanwhile.

    What no version ever named, left by a crash, is the writer's to delete: `vstore compact` does.
    """
    place = Place(uri, endpoint_url, region, addressing_style)
    with place.open(read_only=dry_run, settings=Settings(retention_s=retention_s)) as db:
        found = db.collect_garbage(collection, dry_run=dry_run)
    if as_json:
        print_json({"collection": collection, "dry_run": dry_run, **asdict(found)})
        return
    if dry_run:
        for key in (*found.manifests, *found.data, *found.leases):
            print(key)
    n_data = len(found.data) + len(found.leases)
    verb = "would be deleted" if dry_run else "deleted"
    print(f"{collection}: {count(len(found.manifests), 'version')} and {count(n_data, 'object')} {verb}")


def tag(
    uri: Uri,
    collection: CollectionName,
    name: Annotated[str | None, typer.Argument(metavar="[TAG]", help="None lists the versions.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag instead.")] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Keep a collection as it is now under a name, or list the versions that can be opened."""
    place = Place(uri, endpoint_url, region, addressing_style)
    if name is None:
        with place.open(read_only=True) as db:
            versions = db.snapshots(collection)
        if as_json:
            print_json({"collection": collection, "versions": [asdict(version) for version in versions]})
            return
        for version in versions:
            made = datetime.fromtimestamp(version.created_at, UTC).isoformat(timespec="seconds")
            line = f"{version.version}  {made}  {count(version.n_rows, 'row')}  {' '.join(version.tags)}"
            print(line.rstrip())
        return
    with place.open() as db:
        handle = db.collection(collection)
        at = None
        if delete:
            handle.untag(name)
        else:
            at = handle.tag(name, not as_json)
    if as_json:
        print_json({"collection": collection, "tag": name, "version": at})
    else:
        print(f"{collection}: tag {name} {'deleted' if delete else f'keeps version {at}'}")


def restore(
    uri: Uri,
    collection: CollectionName,
    at: Annotated[str, typer.Argument(metavar="AT", help="A version (digits), a tag, or an ISO 8601 time.")],
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the newest again: what was written after it is gone from the collection."""
    with Place(uri, endpoint_url, region, addressing_style).open() as db:
        handle = db.collection(collection)
        version = handle.restore(snapshot_of(at))
        n_rows = len(handle)
    if as_json:
        print_json({"collection": collection, "at": at, "version": version, "n_rows": n_rows})
    else:
        print(f"{collection}: {at} is back as version {version}, {count(n_rows, 'row')}")


def snapshot_of(text: str) -> int | str | datetime:
    """Return what a command line says: a version, a time, or else a tag."""
    if text.isdecimal() and text.isascii():
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def import_folder(place: Place, name: str, folder: Path, as_json: bool) -> None:
    """Make a collection of an export: what `vstore import` does with a folder."""
    started = perf_counter()
    with place.open(must_exist=False) as db, progress_of(True, f"Importing {folder.name}") as progress:
        n_rows = len(db.import_collection(folder, name, progress=progress))
    seconds = perf_counter() - started
    if as_json:
        print_json(
            {
                "file": str(folder),
                "collection": name,
                "created": True,
                "n_imported": n_rows,
                "n_rows": n_rows,
                "seconds": round(seconds, 3),
            }
        )
    else:
        print(f"{folder}: {count(n_rows, 'row')} into {name} [{seconds:.1f} s]")


def as_text(report: VerifyReport) -> str:
    """Return a report for people: each problem in a line, and a line of what was read."""
    lines = [f"{problem.object}: {problem.reason}" for problem in report.problems]
    read = (
        f"{count(report.n_manifests, 'manifest')}, {count(report.n_records, 'log record')}, "
        f"{count(report.n_dead_bitmaps, 'bitmap')} of dead rows, {count(report.n_shards, 'shard')} of "
        f"{count(report.n_rows, 'row')}, {size(report.bytes_read)}"
    )
    if report.n_unnamed:
        read += f"; {count(report.n_unnamed, 'object')} that nothing names"
    names = ", ".join(report.collections) or "no collection"
    verdict = "sound" if report.ok else count(len(report.problems), "problem")
    return "\n".join([*lines, f"{names}: {verdict} ({read})"])
