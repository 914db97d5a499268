"""The commands. Each opens a place, calls the public face, prints, and leaves errors to `main`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import vstore
from vstore.cli import demo as demo_job
from vstore.cli import evaluating, fields, importing, lab, searching, upkeep
from vstore.cli.connection import (
    CREDENTIALS,
    AddressingStyle,
    AsJson,
    CollectionName,
    EndpointUrl,
    Place,
    Region,
    Uri,
    parse_filter,
)
from vstore.cli.info import describe_store
from vstore.cli.output import Talker, count, print_json, size
from vstore.errors import VstoreError
from vstore.progress import progress_of
from vstore.remote import server_module

app = typer.Typer(
    name="vstore",
    help="Filtered vector search on a folder or a bucket, re-scored exactly and re-ranked.",
    epilog=CREDENTIALS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class RerankChoice(StrEnum):
    """What `--rerank` takes."""

    none = "none"
    lexical = "lexical"
    cross_encoder = "cross-encoder"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a named error, 2 a wrong command line, 130 interrupted."""
    try:
        app(arguments, prog_name="vstore")
    except VstoreError as error:
        line = " ".join(str(error).split())
        print(f"vstore: {type(error).__name__}: {line}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def print_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"vstore {vstore.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Filtered vector search on a folder or a bucket, re-scored exactly and re-ranked."""


@app.command(epilog="Example: vstore demo --dir demo-data")
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the store and the embedding go.")] = Path(
        "demo-data"
    ),
    uri: Annotated[
        str | None, typer.Option("--uri", help="Put the store here instead, e.g. s3://bucket/prefix.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    rerank: Annotated[RerankChoice, typer.Option(help="The re-ranker.")] = RerankChoice.lexical,
    rerank_model: Annotated[
        str | None, typer.Option(help="The cross-encoder: a folder, or a name that transformers can load.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Hits to print.")] = 5,
    limit: Annotated[int | None, typer.Option(min=100, help="Use only so many docstrings.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Ask this instead; can be repeated.")] = None,
    filter: Annotated[str | None, typer.Option(help="With --ask: a filter, as JSON.")] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Build nothing: open what an earlier run left.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the main job on real text: this Python's docstrings, embedded, stored, searched and re-ranked."""
    parse_filter(filter)
    place = Place(uri or str(directory / "store"), endpoint_url, region, addressing_style)
    demo_job.run(
        demo_job.DemoOptions(
            directory=directory,
            place=place,
            rerank=rerank.value,
            rerank_model=rerank_model,
            k=k,
            limit=limit,
            reuse=reuse,
            json_mode=as_json,
            asked=tuple(ask or ()),
            filter_json=filter,
        )
    )


@app.command(epilog="Example: vstore info ./data photos --json")
def info(
    uri: Uri,
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="One; all without it.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Say what a store holds: collections, fields, rows, shards, bytes."""
    described = describe_store(Place(uri, endpoint_url, region, addressing_style), collection)
    if as_json:
        print_json(described.as_dict())
    else:
        print(described.as_text())


@app.command(name="import", epilog="Example: vstore import ./data photos photos.jsonl --metric cosine")
def import_(
    uri: Uri,
    collection: CollectionName,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, readable=True, help=".npy, .jsonl, .parquet, or an export's folder"
        ),
    ],
    metric: Annotated[
        importing.MetricChoice, typer.Option(help="Of a new collection.")
    ] = importing.MetricChoice.cosine,
    field: Annotated[
        list[str] | None,
        typer.Option(help="name=type, of a new collection; found in the first rows without it."),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help=".npy only: the ids; row numbers without it."),
    ] = None,
    id_key: Annotated[str, typer.Option(help="The id's key or column.")] = "id",
    vector_key: Annotated[str, typer.Option(help="The vector's key or column.")] = "vector",
    text_key: Annotated[str, typer.Option(help="The document's key or column, if there is one.")] = "text",
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows of one upsert.")] = 2_000,
    flush: Annotated[bool, typer.Option(help="Build the shard at the end.")] = True,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Upsert a file's rows, making the collection where there is none.

    Keys or columns other than the id, the vector and the text are attributes. The folder of an export becomes
    a new collection just as it was, whatever the options say.
    """
    place = Place(uri, endpoint_url, region, addressing_style)
    if file.is_dir():
        upkeep.import_folder(place, collection, file, as_json)
        return
    fields = importing.parse_fields(field)
    keys = importing.Keys(id_key, vector_key, text_key)
    source = importing.open_source(file, keys, ids, batch_rows)
    report = importing.import_file(place, collection, source, metric.value, fields, flush, Talker(as_json))
    if as_json:
        print_json(report)


@app.command(
    epilog="""Example: vstore search ./data photos --like bird-17 --filter '{"year": {"$gte": 2020}}'"""
)
def search(
    uri: Uri,
    collection: CollectionName,
    vector: Annotated[str | None, typer.Option(help="The query: a JSON list, or a .npy file.")] = None,
    like: Annotated[str | None, typer.Option(help="The query: the vector of this id.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits wanted.")] = 10,
    filter: Annotated[str | None, typer.Option(help="A filter, as JSON.")] = None,
    recall: Annotated[float, typer.Option(help="Share of the true k best to aim for; 1 is exact.")] = 0.95,
    ef: Annotated[
        int | None, typer.Option(min=1, help="Beam width, instead of what --recall stands for.")
    ] = None,
    rerank: Annotated[RerankChoice, typer.Option(help="The re-ranker; it needs --text.")] = RerankChoice.none,
    rerank_model: Annotated[str | None, typer.Option(help="The cross-encoder's folder or name.")] = None,
    text: Annotated[str | None, typer.Option(help="The query's own text, for the re-ranker.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the plan and do not search.")] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Search a collection, and print the hits with the plan and the receipt."""
    if (vector is None) == (like is None):
        raise typer.BadParameter("give --vector or --like, one of them")
    if rerank is not RerankChoice.none and text is None:
        raise typer.BadParameter("--rerank needs the query's own text: give --text")
    request = searching.SearchOptions(
        vector, like, k, parse_filter(filter), recall, ef, rerank.value, rerank_model, text, explain, as_json
    )
    with Place(uri, endpoint_url, region, addressing_style).open(read_only=True) as db:
        searching.run(db.collection(collection), request)


@app.command(epilog="Example: vstore warm s3://bucket/prefix photos --cache-dir /var/cache/vstore")
def warm(
    uri: Uri,
    collection: CollectionName,
    cache_dir: Annotated[
        str | None,
        typer.Option("--cache-dir", help="A folder that processes share and keep.", show_default=False),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option("--filter", help="Only what searches with this filter want (JSON).", show_default=False),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="The most to read.", min=0, show_default=False)
    ] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Exact vectors and payload too.")] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Read all that a search needs, and check its checksums on the way; says how many bytes that is.

    With --cache-dir it is kept there, for every process that connects with the same cache_dir; what is there
    already is not read again. Without, it only checks: memory serves one process, which calls
    collection.warm().
    """
    place = Place(uri, endpoint_url, region, addressing_style)
    with place.open(read_only=True, cache_dir=cache_dir) as db:
        n_bytes = db.collection(collection).warm(
            not as_json, filter=parse_filter(filter), max_bytes=max_bytes, vectors=vectors
        )
        n_shards = describe_store(Place(uri, endpoint_url, region, addressing_style), collection).n_shards
    if as_json:
        print_json(
            {
                "collection": collection,
                "bytes_fetched": int(n_bytes),
                "n_blocks": n_bytes.n_blocks,
                "n_left": n_bytes.n_left,
                "n_shards": n_shards,
            }
        )
    else:
        left = f"; {count(n_bytes.n_left, 'block')} left out" if n_bytes.n_left else ""
        print(f"{collection}: {size(n_bytes)} read and checked, of {count(n_shards, 'shard')}{left}")


@app.command(epilog="Example: vstore compact ./data photos")
def compact(
    uri: Uri,
    collection: CollectionName,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Merge a collection's shards, drop deleted rows, and delete what nothing names any more."""
    place = Place(uri, endpoint_url, region, addressing_style)
    before = describe_store(place, collection)
    with place.open() as db, progress_of(not as_json, "Compacting") as progress:
        db.collection(collection).compact(progress)
    after = describe_store(place, collection)
    if as_json:
        print_json({"before": before.as_dict(), "after": after.as_dict()})
    else:
        print(
            f"{collection}: {after.n_rows:,} rows, {before.n_shards} -> {after.n_shards} shards, "
            f"{size(before.n_bytes)} -> {size(after.n_bytes)}"
        )


@app.command(
    epilog="Example: vstore serve ./data --listen 127.0.0.1:8765",
    add_help_option=False,
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def serve(context: typer.Context) -> None:
    """Serve a store to other processes and machines; vstore serve --help lists the options.

    "vstore serve token" makes an API token.
    """
    raise typer.Exit(server_module("__main__").main(context.args, "vstore serve"))


upkeep.register(app)
fields.register(app)
lab.register(app)
evaluating.register(app)
