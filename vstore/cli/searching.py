"""`vstore search`: a query from the command line, its hits, plan and receipt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from vstore.cli.output import hits_dict, print_json, receipt_lines, table
from vstore.collection import Collection
from vstore.errors import InvalidInput
from vstore.types import Hits, Key

DEFAULT_MODEL = "cross-encoder/ms-marco-MiniLM-L12-v2"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What the command line asked for; one of `vector` and `like` is given."""

    vector: str | None
    like: str | None
    k: int
    filter: dict[str, Any] | None
    recall: float
    ef: int | None
    rerank: str
    rerank_model: str | None
    text: str | None
    explain: bool
    json_mode: bool


def run(collection: Collection, options: SearchOptions) -> None:
    """Search and print.

    Raises:
        InvalidInput: no row has the id of `--like`.
    """
    query = read_vector(options.vector) if options.vector else vector_of(collection, options.like or "")
    if options.explain:
        planned = collection.explain(query, options.k, options.filter, recall=options.recall, ef=options.ef)
        if options.json_mode:
            print_json(planned.as_dict())
        else:
            print(
                "\n".join(
                    [f"plan    {planned.plan}", *(f"receipt {line}" for line in receipt_lines(planned))]
                )
            )
        return
    hits = collection.search(
        query,
        options.k,
        options.filter,
        recall=options.recall,
        ef=options.ef,
        rerank=model(options.rerank, options.rerank_model),
        query_document=options.text,
    )
    if options.json_mode:
        print_json(hits_dict(hits))
    else:
        print(as_text(hits, list(collection.schema.fields)))


def read_vector(text: str) -> Any:
    """Return the query of `--vector`: a JSON list of numbers, or the only row of a .npy file."""
    try:
        if not text.lstrip().startswith("["):
            return np.load(Path(text), allow_pickle=False).squeeze()
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--vector is neither a JSON list nor a .npy file: {error}") from error


def vector_of(collection: Collection, written: str) -> Any:
    """Return the vector of the row whose id was written; digits are tried as an int first."""
    candidates: list[Key] = [int(written)] if written.lstrip("-").isdecimal() else []
    for key in [*candidates, written]:
        try:
            (record,) = collection.get([key])
        except InvalidInput:
            continue
        if record is not None:
            return record.vector
    raise InvalidInput(
        f"collection {collection.name!r} has no row with id {written!r}; --like takes an id that is there"
    )


def model(name: str, model_name: str | None, max_tokens: int | None = None) -> Any:
    """Return the re-ranker that `--rerank` names, or None; a cross-encoder reads so many tokens of a pair."""
    if name == "none":
        return None
    if name == "lexical":
        from vstore.rerank import LexicalReranker

        return LexicalReranker()
    from vstore.rerank.cross_encoder import CrossEncoderReranker

    return CrossEncoderReranker(model_name or DEFAULT_MODEL, max_length=max_tokens)


def as_text(hits: Hits, fields: list[str]) -> str:
    """Return hits as a table with the first fields, and the plan and receipt under it."""
    shown = fields[:6]
    rows = [
        [place, hit.id, hit.score, hit.distance, *(hit.attributes.get(name) for name in shown)]
        for place, hit in enumerate(hits, 1)
    ]
    lines = [table(["#", "id", "score", "distance", *shown], rows) if rows else "no row matches"]
    lines.append(f"plan    {hits.receipt.plan}")
    lines += [f"receipt {line}" for line in receipt_lines(hits.receipt)]
    return "\n".join(lines)
