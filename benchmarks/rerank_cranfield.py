"""Does re-ranking help? Cranfield: 1,400 abstracts, 225 queries with judgments.

    python benchmarks/rerank_cranfield.py --data FOLDER --model CHECKPOINT --embedder CHECKPOINT
        [--queries 225] [--depth 50] [--whole] [--words 72] [--best 1] [--cache FILE] [--out FILE]

The first stage is the cosine of MiniLM embeddings. Its best `depth` documents are re-ranked by the stage that
`Collection.search(rerank=...)` runs, in several ways: the cross-encoder over the title and the passage of
each abstract that shares most words with the query (with --whole also over whole abstracts), lexical
relevance (BM25) with the word counts of the collection and with those of the candidates alone, and both
models together. Each model is written down alone, and blended with the first stage.

Nothing is tuned on what it is judged by: the queries are drawn into 5 folds with a seed, and the blend that
judges a fold (weights in steps of 0.1) is the best one on the other four. Besides, the even blend, which
nobody chose. Intervals: paired bootstrap of the difference of nDCG@10, 95 %. `headline` in the file is the
line that counts: all signals, over all queries, with weights that no query chose which they judge.

--cache keeps the cross-encoder's logits, so that a run that was stopped goes on. Fewer than 225 queries are a
seeded sample. FOLDER holds cran.all.1400.xml, cran.qry.xml and cranqrel.trec.txt
(oussbenk/cranfield-trec-dataset); CHECKPOINTs are what `python benchmarks/models.py` prints. Milliseconds are
no subject here: `vstore eval` measures them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import embed

import vstore
from vstore.rerank import CrossEncoderReranker, LexicalReranker, PassageReranker
from vstore.rerank.metrics import changes, ndcg, paired_interval, recall
from vstore.rerank.scores import normalize
from vstore.types import Candidate

CROSS_ENCODER, LEXICAL, OF_CANDIDATES = "cross-encoder", "lexical", "lexical of the candidates"
CHOSEN = "chosen on other folds"
K = 10
N_FOLDS = 5
STEPS = 10
RESULT = Path(__file__).parent / "results" / "rerank_cranfield.json"
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cranfield:
    """Titles and texts by document (each text begins with its title), `queries`, and `judged[q]`: gains."""

    titles: list[str]
    texts: list[str]
    queries: list[str]
    judged: list[dict[int, int]]

    def candidate(self, document: int) -> Candidate:
        """Return a document as it would be stored: its title an attribute, and not in the text too."""
        title = self.titles[document]
        return Candidate(document, self.texts[document].removeprefix(title).strip(), None, {"title": title})


@dataclass(frozen=True)
class Outcome:
    """One way of re-ranking. `weights` of each fold; empty where nothing was chosen."""

    reranker: str
    n_queries: int
    ndcg_before: float
    ndcg_after: float
    difference: float
    interval_95: tuple[float, float]
    n_helped: int
    n_hurt: int
    n_unchanged: int
    weights: list[dict[str, float]]


class Kept:
    """A re-ranker of texts whose scores are kept in a file, by query and text."""

    def __init__(self, model: Any, path: Path | None) -> None:
        self.model = model
        self.name = model.name
        self._kept = sqlite3.connect(":memory:" if path is None else path)
        self._kept.execute("create table if not exists l (k text primary key, v real)")

    def score(self, query: str, documents: Sequence[Candidate]) -> list[float]:
        """Return scores as the model does."""
        keys = [hashlib.sha1(f"{query}\0{d.text}".encode()).hexdigest() for d in documents]
        ask = "select v from l where k = ?"
        known = {key: row[0] for key in keys if (row := self._kept.execute(ask, (key,)).fetchone())}
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            scores = self.model.score(query, [documents[i] for i in new]).tolist()
            known |= {keys[i]: score for i, score in zip(new, scores, strict=True)}
            self._kept.executemany(
                "insert or replace into l values (?, ?)", [(keys[i], known[keys[i]]) for i in new]
            )
            self._kept.commit()
        return [known[key] for key in keys]


def load(folder: Path) -> Cranfield:
    """Read the collection. Queries are numbered by position, as the judgments are, not by their `num`."""
    documents = (folder / "cran.all.1400.xml").read_text()
    numbers = [int(each) for each in re.findall(r"<docno>\s*(\d+)\s*</docno>", documents)]
    titles, texts = (
        [" ".join(each.split()) for each in re.findall(rf"<{tag}>(.*?)</{tag}>", documents, re.DOTALL)]
        for tag in ("title", "text")
    )
    asked = re.findall(r"<title>(.*?)</title>", (folder / "cran.qry.xml").read_text(), re.DOTALL)
    queries = [" ".join(each.split()).removesuffix(" .") for each in asked]
    index = {number: i for i, number in enumerate(numbers)}
    judged: list[dict[int, int]] = [{} for _ in queries]
    for line in (folder / "cranqrel.trec.txt").read_text().splitlines():
        query, _, document, gain = line.split()
        if int(gain) > 0 and int(document) in index:
            judged[int(query) - 1][index[int(document)]] = int(gain)
    if not len(titles) == len(texts) == len(numbers) == 1400 or len(queries) != 225:
        raise ValueError(
            f"{folder} holds {len(texts)} texts and {len(queries)} queries, expected 1400 and 225"
        )
    return Cranfield(titles, texts, queries, judged)


def stored(data: Cranfield, vectors: npt.NDArray[np.float32]) -> vstore.Collection:
    """Return a collection of the abstracts, as somebody would store them."""
    made = vstore.connect("memory://").create_collection(
        "cranfield", dim=vectors.shape[1], metric="cosine", fields={"title": "str"}
    )
    documents = [data.candidate(document) for document in range(len(data.texts))]
    titles = [{"title": title} for title in data.titles]
    made.upsert([d.id for d in documents], vectors, titles, [d.text for d in documents])
    return made


def embeddings(data: Cranfield, embedder: str, cache: Path | None) -> npt.NDArray[np.float32]:
    """Return float32[1400 + 225, dim], of unit length."""
    kept = None if cache is None else cache.with_suffix(".npy")
    if kept is not None and kept.exists():
        vectors = np.load(kept)
    else:
        vectors = embed(Path(embedder), [*data.texts, *data.queries])
        if kept is not None:
            np.save(kept, vectors)
    return np.asarray(vectors, np.float32)


def signals_of(
    asked: argparse.Namespace,
    data: Cranfield,
    queries: Sequence[int],
    first: Float64s,
    collection: vstore.Collection,
) -> tuple[list[list[int]], dict[str, list[Float64s]]]:
    """Return the candidates of each query, and the scores that each signal gives them."""
    model = Kept(CrossEncoderReranker(asked.model, cache_scores=0), asked.cache)
    rerankers: dict[str, Any] = {
        CROSS_ENCODER: PassageReranker(model, words=asked.words, best=asked.best, fields=["title"]),
        LEXICAL: LexicalReranker.of(collection, ["title"]),
        OF_CANDIDATES: LexicalReranker(["title"]),
    }
    if asked.whole:
        rerankers[f"{CROSS_ENCODER}, whole"] = PassageReranker(model, words=100_000, fields=["title"])
    found: dict[str, list[Float64s]] = {name: [] for name in ("vector", *rerankers)}
    tops = []
    for row, query in enumerate(queries):
        top = np.argsort(-first[row], kind="stable")[: asked.depth].tolist()
        tops.append(top)
        candidates = [data.candidate(document) for document in top]
        found["vector"].append(first[row, top])
        for name, reranker in rerankers.items():
            found[name].append(np.asarray(reranker.score(data.queries[query], candidates), np.float64))
        if (row + 1) % 25 == 0:
            print(f"{row + 1} of {len(queries)} queries", flush=True)
    return tops, found


def mixes(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """Yield all weights of the signals in steps, each above 0, that add up to 1."""
    for cut in itertools.combinations(range(1, STEPS), len(names) - 1):
        edges = (0, *cut, STEPS)
        yield dict(zip(names, np.diff(edges) / STEPS, strict=True))


class Judge:
    """nDCG@10 of a weighted sum of z-scores of signals, for each query."""

    def __init__(
        self, tops: list[list[int]], judged: list[dict[int, int]], signals: dict[str, list[Float64s]]
    ) -> None:
        self.tops, self.judged = tops, judged
        self.raw = signals
        self.scaled = {name: [normalize(s, "z_score") for s in each] for name, each in signals.items()}
        self.before = self.quality({"vector": 1.0})

    def quality(self, weights: dict[str, float]) -> Float64s:
        """Return float64[queries]."""
        after = []
        for row, (top, gains) in enumerate(zip(self.tops, self.judged, strict=True)):
            fused = sum(weight * self.scaled[name][row] for name, weight in weights.items())
            order = np.argsort(-np.asarray(fused), kind="stable").tolist()
            after.append(ndcg([top[i] for i in order], gains, K))
        return np.array(after)

    def held_out(self, names: Sequence[str]) -> tuple[Float64s, list[dict[str, float]]]:
        """Return float64[queries], each judged with weights that other folds chose, and these weights."""
        tried = [(weights, self.quality(weights)) for weights in mixes(names)]
        fold = np.random.default_rng(1).permutation(len(self.tops)) % N_FOLDS
        after, chosen = np.empty(len(self.tops)), []
        for number in range(N_FOLDS):
            weights, quality = max(tried, key=lambda each: float(each[1][fold != number].mean()))
            after[fold == number] = quality[fold == number]
            chosen.append({name: round(float(weight), 2) for name, weight in weights.items()})
        return after, chosen

    def outcome(self, name: str, after: Float64s, weights: list[dict[str, float]]) -> Outcome:
        """Return what the re-ranked qualities say beside the first stage's."""
        low, high = paired_interval(after - self.before)
        helped, hurt, unchanged = changes(self.before.tolist(), after.tolist())
        return Outcome(
            reranker=name,
            n_queries=len(after),
            ndcg_before=round(float(self.before.mean()), 4),
            ndcg_after=round(float(after.mean()), 4),
            difference=round(float((after - self.before).mean()), 4),
            interval_95=(round(low, 4), round(high, 4)),
            n_helped=helped,
            n_hurt=hurt,
            n_unchanged=unchanged,
            weights=weights,
        )


def outcomes_of(judge: Judge) -> list[Outcome]:
    """Return every way of re-ranking: alone, evenly blended, and with weights that other folds chose."""
    models = [name for name in judge.raw if name != "vector"]
    sets = [(name,) for name in models]
    sets += [(name, LEXICAL) for name in models if name.startswith(CROSS_ENCODER)]
    found = []
    for names in sets:
        if len(names) == 1:
            found.append(judge.outcome(f"{names[0]}, alone", judge.quality({names[0]: 1.0}), []))
        mixed = ("vector", *names)
        even = judge.quality(dict.fromkeys(mixed, 1.0 / len(mixed)))
        found.append(judge.outcome(f"{', '.join(mixed)}: even", even, []))
        after, weights = judge.held_out(mixed)
        found.append(judge.outcome(f"{', '.join(mixed)}: {CHOSEN}", after, weights))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the collection's three files")
    parser.add_argument("--model", required=True, help="a cross-encoder's folder or name")
    parser.add_argument("--embedder", required=True, help="an embedding model's folder")
    parser.add_argument("--queries", type=int, default=225)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--words", type=int, default=72, help="of a passage")
    parser.add_argument("--best", type=int, default=1, help="passages of an abstract that the model reads")
    parser.add_argument("--whole", action="store_true", help="score whole abstracts too; slow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="a file that keeps logits; made where it is absent")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(asked.threads)
    data = load(asked.data)
    queries = np.random.default_rng(0).permutation(len(data.queries))[: asked.queries].tolist()
    vectors = embeddings(data, asked.embedder, asked.cache)
    n = len(data.texts)
    first = np.asarray(vectors[n:][queries] @ vectors[:n].T, np.float64)
    tops, signals = signals_of(asked, data, queries, first, stored(data, vectors[:n]))
    judged = [data.judged[query] for query in queries]
    outcomes = outcomes_of(Judge(tops, judged, signals))
    ceiling = np.mean([recall(top, gains) for top, gains in zip(tops, judged, strict=True)])
    command = (
        "python benchmarks/rerank_cranfield.py --data FOLDER --model CHECKPOINT --embedder CHECKPOINT "
        f"--queries {asked.queries} --depth {asked.depth} --words {asked.words} --best {asked.best}"
    )
    report = {
        "command": command + (" --whole" if asked.whole else ""),
        "k": K,
        "depth": asked.depth,
        "recall_at_depth": round(float(ceiling), 4),
        "first_stage": "cosine of MiniLM-L6 embeddings",
        "cross_encoder": "ms-marco-MiniLM-L-12-v2, weights from 8 bits",
        "headline": f"vector, {CROSS_ENCODER}, {LEXICAL}: {CHOSEN}",
        "outcomes": [asdict(one) for one in outcomes],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n")
    for one in outcomes:
        print(
            f"{one.reranker:60} nDCG@{K} {one.ndcg_before:.4f} -> {one.ndcg_after:.4f} {one.difference:+.4f} "
            f"[{one.interval_95[0]:+.4f}, {one.interval_95[1]:+.4f}]  "
            f"+{one.n_helped} -{one.n_hurt} ={one.n_unchanged}"
        )
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
