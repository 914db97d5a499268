"""`vstore eval`: does a re-ranker help on this collection, and what does it cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vstore.cli.connection import (
    AddressingStyle,
    AsJson,
    CollectionName,
    EndpointUrl,
    Place,
    Region,
    Uri,
    read_object,
)
from vstore.cli.output import Talker, print_json
from vstore.collection import Collection
from vstore.errors import MissingDependency
from vstore.progress import progress_of
from vstore.rerank import Rerank, load_reranker
from vstore.rerank.evaluation import (
    DEPTHS,
    EvalQuery,
    Evaluation,
    costs,
    draw,
    evaluate,
    page,
    read_queries,
)
from vstore.rerank.examples import draw_examples, examples, list_examples
from vstore.rerank.images import ImageReader
from vstore.storage import ObjectStore
from vstore.types import Hit

PHOTOS = "photos.jpg"


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What the command line asked for."""

    queries: Path
    rerank: str
    rerank_model: str | None
    blend: float | None
    k: int
    depths: tuple[int, ...]
    machine_usd_per_hour: float | None
    service_usd_per_1000_pairs: float | None
    rerank_settings: dict[str, Any]
    n_shown: int
    n_timed: int | None
    out: Path
    json_mode: bool


def run(collection: Collection, store: ObjectStore, options: EvalOptions) -> None:
    """Measure, write results.json, results.png, results.md and photos.jpg into the folder, print the page."""
    queries = read_queries(options.queries)
    arguments = [] if options.rerank_model is None else [options.rerank_model]
    rerank = Rerank(load_reranker(options.rerank, *arguments, **options.rerank_settings), blend=options.blend)

    def search(query: EvalQuery, depth: int) -> Sequence[Hit]:
        return collection.search(query.vector, depth, query.filter).hits

    with progress_of(not options.json_mode, "re-ranking") as report:
        found = evaluate(
            search,
            queries,
            rerank,
            k=options.k,
            depths=options.depths,
            n_timed=options.n_timed,
            store=store,
            progress=report,
        )
    table = []
    if options.machine_usd_per_hour is not None and options.service_usd_per_1000_pairs is not None:
        table = costs(
            found,
            machine_usd_per_hour=options.machine_usd_per_hour,
            service_usd_per_1000_pairs=options.service_usd_per_1000_pairs,
        )
    options.out.mkdir(parents=True, exist_ok=True)
    talker = Talker(options.json_mode)
    picture: str | None = "results.png"
    try:
        draw(found, options.out / "results.png")
    except MissingDependency as error:
        picture = None
        talker.say(f"no picture: {error}")
    seen = _shown(collection, store, found, queries, options, talker)
    written = page(found, table, picture, seen)
    (options.out / "results.md").write_text(written)
    result: dict[str, Any] = {**found.as_dict(), "costs": [asdict(row) for row in table]}
    (options.out / "results.json").write_text(json.dumps(result) + "\n")
    if options.json_mode:
        print_json(result)
    else:
        print(written)
        print(f"wrote {options.out}")


def _shown(
    collection: Collection,
    store: ObjectStore,
    found: Evaluation,
    queries: Sequence[EvalQuery],
    options: EvalOptions,
    talker: Talker,
) -> str:
    """Return Markdown of the queries that changed most: their photos in a picture, or a table of texts."""
    changed = examples(found, options.n_shown)
    by_id = {query.id: query for query in queries}
    keys = sorted({key for each in changed for key in (*each.before, *each.after)}, key=str)
    documents = {
        record.id: record.document for record in (collection.get(keys) if keys else []) if record is not None
    }
    if any((document or {}).get("image") for document in documents.values()):
        try:
            reader = ImageReader(read_store=store.get)
            if draw_examples(changed, by_id, documents, options.out / PHOTOS, reader):
                return f"![photos before and after; relevant ones have a green frame]({PHOTOS})\n"
        except MissingDependency as error:
            talker.say(f"no photos: {error}")
    return list_examples(changed, by_id, documents)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(name="eval", epilog="Example: vstore eval ./data photos queries.jsonl --rerank lexical")
    def eval_(
        uri: Uri,
        collection: CollectionName,
        queries: Annotated[
            Path,
            typer.Argument(
                metavar="QUERIES",
                exists=True,
                dir_okay=False,
                help='One JSON object a line: {"vector": [...], "text": "...", "relevant": {"id": gain}}.',
            ),
        ],
        rerank: Annotated[
            str, typer.Option(help="A re-ranker's name: lexical, cross-encoder, or an installed package's.")
        ] = "lexical",
        rerank_model: Annotated[
            str | None, typer.Option(help="Its folder, name or URL, where it takes one.")
        ] = None,
        rerank_settings: Annotated[
            str | None, typer.Option(help='Its settings, a JSON object such as {"views": 4}.')
        ] = None,
        blend: Annotated[float | None, typer.Option(help="Weight of the vector score, 0 to 1.")] = None,
        k: Annotated[int, typer.Option("-k", min=1, help="Of nDCG and MRR.")] = 10,
        depth: Annotated[list[int] | None, typer.Option(min=1, help="Can be repeated.")] = None,
        machine_price: Annotated[
            float | None, typer.Option(help="$ an hour of a machine like this one.")
        ] = None,
        service_price: Annotated[float | None, typer.Option(help="$ a thousand pairs of a service.")] = None,
        show: Annotated[int, typer.Option(min=0, help="Queries to show, of those that changed most.")] = 4,
        timed: Annotated[
            int | None, typer.Option(min=1, help="Queries timed at lesser depths; default all.")
        ] = None,
        out: Annotated[Path, typer.Option(help="The folder for JSON, picture and page.")] = Path("eval"),
        endpoint_url: EndpointUrl = None,
        region: Region = None,
        addressing_style: AddressingStyle = None,
        as_json: AsJson = False,
    ) -> None:
        """Measure a re-ranker on queries with judgments: quality with and without it, time, and cost."""
        if (machine_price is None) != (service_price is None):
            raise typer.BadParameter("give --machine-price and --service-price together, or neither")
        options = EvalOptions(
            queries,
            rerank,
            rerank_model,
            blend,
            k,
            tuple(sorted(depth or DEPTHS)),
            machine_price,
            service_price,
            read_object(rerank_settings or "{}", "--rerank-settings", '{"views": 4}'),
            show,
            timed,
            out,
            as_json,
        )
        with Place(uri, endpoint_url, region, addressing_style).open(read_only=True) as db:
            run(db.collection(collection), db.store, options)
