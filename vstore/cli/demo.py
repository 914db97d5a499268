"""`vstore demo`: from text to filtered and re-ranked answers, then again from a second process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from vstore.cli.connection import Place, parse_filter
from vstore.cli.demo_corpus import FIELDS, Docstring, collect, source_files
from vstore.cli.demo_embedding import Embedding
from vstore.cli.demo_questions import QUESTIONS, Question
from vstore.cli.output import Talker, count, hit_dict, print_json, receipt_lines, size, table
from vstore.cli.searching import model
from vstore.collection import Collection
from vstore.database import Database
from vstore.errors import InvalidInput, VstoreError
from vstore.progress import progress_of
from vstore.rerank import Rerank
from vstore.types import Hits

COLLECTION = "vstore-demo"
BATCH_ROWS = 2_000
DEPTHS = {"lexical": 50, "cross-encoder": 20}
MAX_TOKENS = 256
"""A cross-encoder on a CPU reads about 20 docstrings of this length in a second or two."""
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asked for."""

    directory: Path
    place: Place
    rerank: str = "lexical"
    rerank_model: str | None = None
    k: int = 5
    limit: int | None = None
    dim: int = 256
    reuse: bool = False
    json_mode: bool = False
    asked: tuple[str, ...] = ()
    filter_json: str | None = None

    @property
    def questions(self) -> tuple[Question, ...]:
        """The user's own questions under the user's filter, or the demo's."""
        if not self.asked:
            return QUESTIONS
        given = parse_filter(self.filter_json)
        return tuple(Question(text, given, self.filter_json or "") for text in self.asked)

    @property
    def embedding_path(self) -> Path:
        """Where the embedding is saved: beside the store, never in it."""
        return self.directory / "embedding.npz"


def run(options: DemoOptions) -> None:
    """Build the collection, or open an earlier run's with `reuse`, and answer the questions."""
    started = perf_counter()
    talker = Talker(options.json_mode)
    report: dict[str, Any] = {"uri": options.place.uri, "collection": COLLECTION}
    stages = reranker(options)
    with options.place.open(must_exist=options.reuse, read_only=options.reuse) as db:
        embedding = reopen(db, options, talker) if options.reuse else build(db, options, talker, report)
        with talker.step("First searches: compile what numba has not cached yet") as done:
            compile_searches(db.collection(COLLECTION), embedding, options)
            done.append("ready")
    # A connection with an empty cache, so that the receipts tell what the answers had to read.
    with options.place.open(read_only=True) as db:
        collection = db.collection(COLLECTION)
        report["rows"] = len(collection)
        report["answers"] = [
            answer(collection, embedding, question, stages, options, talker, number)
            for number, question in enumerate(options.questions, 1)
        ]
    if not options.reuse:
        report["second_process"] = ask_again(options, report["answers"], talker)
    report["seconds"] = round(perf_counter() - started, 2)
    talker.say(f"\nDone in {report['seconds']:.1f} s. Ask it yourself: {ask_command(options)}")
    if options.json_mode:
        print_json(report)


def reranker(options: DemoOptions) -> Rerank | None:
    """Return the re-ranking stage that was asked for.

    Raises:
        MissingDependency: the cross-encoder without the rerank extra.
    """
    chosen = model(options.rerank, options.rerank_model, MAX_TOKENS)
    return None if chosen is None else Rerank(chosen, depth=DEPTHS[options.rerank])


def compile_searches(collection: Collection, embedding: Embedding, options: DemoOptions) -> None:
    """Ask everything once, so that the receipts' milliseconds are those of searching."""
    for question in options.questions:
        collection.search(embedding.embed([question.text])[0], k=options.k, filter=question.filter)


def build(db: Database, options: DemoOptions, talker: Talker, report: dict[str, Any]) -> Embedding:
    """Read, embed and store the corpus; returns the embedding."""
    with talker.step("Reading docstrings of the standard library and of vstore's dependencies") as done:
        files = source_files()
        with progress_of(True, "Parsing", unit="files") as progress:
            corpus = collect(files, progress, options.limit)
        if not corpus:
            raise InvalidInput(
                "no docstrings were found: this Python has its standard library without sources"
            )
        n_packages = len({one.package for one in corpus})
        done.append(f"{len(corpus):,} docstrings of {n_packages} packages from {len(files):,} files")
    with talker.step("Embedding them: TF-IDF and truncated SVD, fitted on these texts") as done:
        texts = [one.document for one in corpus]
        embedding = Embedding.fit(texts, dim=options.dim)
        vectors = embedding.embed(texts)
        options.directory.mkdir(parents=True, exist_ok=True)
        embedding.save(options.embedding_path)
        done.append(
            f"{len(vectors):,} vectors of {embedding.dim} components, {len(embedding.vocabulary):,} words"
        )
    if COLLECTION in db.collections():
        talker.say(f"-- Dropping the collection {COLLECTION!r} of an earlier run")
        db.drop_collection(COLLECTION)
    collection = db.create_collection(COLLECTION, dim=embedding.dim, metric="cosine", fields=FIELDS)
    with talker.step(
        f"Upserting into {options.place.uri} in batches of {BATCH_ROWS:,}, each durable on return"
    ) as done:
        started = perf_counter()
        upsert(collection, corpus, vectors)
        done.append(f"{len(collection):,} rows, {len(corpus) / (perf_counter() - started):,.0f} rows/s")
    with talker.step(
        "Flushing them to a shard: cluster order, HNSW graph, codes (compiles on a first run)"
    ) as done:
        with progress_of(True, "Building") as progress:
            collection.flush(progress)
        done.append("published")
    report["corpus"] = {"docstrings": len(corpus), "packages": n_packages, "files": len(files)}
    report["embedding"] = {"dim": embedding.dim, "words": len(embedding.vocabulary)}
    return embedding


def upsert(collection: Collection, corpus: Sequence[Docstring], vectors: Any) -> None:
    """Write the corpus in batches, with a bar on a terminal."""
    with progress_of(True, "Upserting") as progress:
        for start in range(0, len(corpus), BATCH_ROWS):
            batch = corpus[start : start + BATCH_ROWS]
            columns = {name: [getattr(one, name) for one in batch] for name in FIELDS}
            columns["names"] = [list(names) for names in columns["names"]]
            collection.upsert(
                [one.key for one in batch],
                vectors[start : start + len(batch)],
                columns,
                [one.document for one in batch],
                progress=False,
            )
            progress(start + len(batch), len(corpus))


def reopen(db: Database, options: DemoOptions, talker: Talker) -> Embedding:
    """Open what an earlier run left."""
    with talker.step(f"Opening {options.place.uri} and the saved embedding") as done:
        embedding = Embedding.load(options.embedding_path)
        done.append(f"{len(db.collection(COLLECTION)):,} rows")
    return embedding


def answer(
    collection: Collection,
    embedding: Embedding,
    question: Question,
    stage: Rerank | None,
    options: DemoOptions,
    talker: Talker,
    number: int,
) -> dict[str, Any]:
    """Ask one question, without and with the re-ranker, and print both orders with what they cost."""
    vector = embedding.embed([question.text])[0]
    planned = collection.explain(vector, k=options.k, filter=question.filter)
    first = collection.search(vector, k=options.k, filter=question.filter)
    talker.say(f'\n== {number}. "{question.text}"')
    talker.say(f"   filter  {question.written or 'none'}")
    talker.say(f"   plan    {planned.plan}")
    talker.say(hits_table(first))
    for line in receipt_lines(first.receipt):
        talker.say(f"   receipt {line}")
    result = {
        "question": question.text,
        "filter": question.written or None,
        "plan": planned.as_dict(),
        "hits": [hit_dict(hit) for hit in first],
        "receipt": first.receipt.as_dict(),
    }
    if stage is not None:
        second = collection.search(
            vector, k=options.k, filter=question.filter, rerank=stage, query_document=question.text
        )
        named = ", then ".join(one.model for one in second.receipt.rerank)
        talker.say(f"   re-ranked by {named or 'nothing'}, the best {stage.depth}:")
        talker.say(hits_table(second, reranked=True))
        for one in second.receipt.rerank:
            failed = f", {one.n_failed} could not be scored" if one.n_failed else ""
            talker.say(
                f"   receipt {one.n_scored} scored, {one.n_moved} moved{failed}; {one.latency_ms:.1f} ms"
            )
        result["reranked"] = [hit_dict(hit) for hit in second]
        result["reranked_receipt"] = second.receipt.as_dict()
    return result


def hits_table(hits: Hits, reranked: bool = False) -> str:
    """Return hits with their scores and attributes; re-ranked ones with the place and score they had."""
    if not hits:
        return "   no row matches"
    before = ["was", "cosine"] if reranked else []
    header = ["#", *before, "score", "id", "kind", "lines", "public", "names"]
    rows = [
        [
            place,
            *([hit.first_rank + 1, hit.first_score] if reranked else []),
            hit.score,
            hit.id,
            *(hit.attributes.get(name) for name in ("kind", "lines", "public", "names")),
        ]
        for place, hit in enumerate(hits, 1)
    ]
    return table(header, rows, indent="     ")


def ask_again(options: DemoOptions, answers: list[dict[str, Any]], talker: Talker) -> dict[str, Any]:
    """Answer again in a second process, which has only what is stored, and compare.

    Raises:
        VstoreError: it failed, or its answers differ.
    """
    with talker.step("A second process opens the store and answers the same questions") as done:
        started = perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", "vstore.cli", *reuse_arguments(options), "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise VstoreError(
                f"the second process ended with {ended.returncode}: {ended.stderr.strip()[-2000:]}"
            )
        theirs = json.loads(ended.stdout)["answers"]
        for ours, other in zip(answers, theirs, strict=True):
            for part in ("hits", "reranked"):
                if part in other and not same_hits(ours[part], other[part]):
                    raise VstoreError(
                        f"the second process answered {ours['question']!r} differently: "
                        f"{[hit['id'] for hit in other[part]]} and not {[hit['id'] for hit in ours[part]]}"
                    )
        receipts = [one["receipt"] for one in theirs]
        cold = {
            name: sum(one[name] for one in receipts)
            for name in ("n_round_trips", "n_requests", "bytes_fetched")
        }
        # A model that the second process was not given had no part in what was compared.
        reranked = all("reranked" in one for one in theirs)
        before = "" if reranked or options.rerank == "none" else " before re-ranking"
        done.append(
            f"all {len(theirs)} answers the same{before}, hit for hit; it read {size(cold['bytes_fetched'])} "
            f"in {count(cold['n_round_trips'], 'round trip')}"
        )
    seconds = round(perf_counter() - started, 2)
    return {"same": True, "reranked_too": reranked, "seconds": seconds, **cold}


def same_hits(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    """Return whether two answers have the same hits in the same order; scores may differ by rounding."""
    return len(ours) == len(theirs) and all(
        {**a, "score": None} == {**b, "score": None} and abs(a["score"] - b["score"]) <= SCORE_TOLERANCE
        for a, b in zip(ours, theirs, strict=True)
    )


def reuse_arguments(options: DemoOptions) -> list[str]:
    """Return the command line that opens this run's store again, without the questions' own."""
    arguments = ["demo", "--reuse", "--dir", str(options.directory), "--uri", options.place.uri]
    # The light re-ranker runs again; a large model's minute on a CPU would prove nothing more.
    rerank = options.rerank if options.rerank == "lexical" else "none"
    arguments += [*options.place.arguments, "--rerank", rerank, "-k", str(options.k)]
    for text in options.asked:
        arguments += ["--ask", text]
    if options.filter_json:
        arguments += ["--filter", options.filter_json]
    return arguments


def ask_command(options: DemoOptions) -> str:
    """Return a command to type that asks this run's store something else."""
    started_as = sys.argv[0] if Path(sys.argv[0]).name == "vstore" else "python -m vstore.cli"
    program = "vstore" if shutil.which("vstore") else started_as
    uri = ["--uri", options.place.uri, *options.place.arguments] if options.place.is_s3 else []
    words = [
        program,
        "demo",
        "--reuse",
        "--dir",
        str(options.directory),
        *uri,
        "--ask",
        '"draw a progress bar"',
    ]
    return " ".join(words)
