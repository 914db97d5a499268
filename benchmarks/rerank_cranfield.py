"""Does re-ranking help? Cranfield: 1,400 abstracts, 225 queries with judgments.

    python benchmarks/rerank_cranfield.py --data FOLDER --model CHECKPOINT [--embedder CHECKPOINT]
        [--first NAME ...] [--queries 225] [--depth 50] [--max-length 256] [--threads 1] [--out FILE]

For each first stage (BM25; cosine of TF-IDF reduced to 256 dimensions; with --embedder, cosine of MiniLM
embeddings) the best `depth` documents are re-ranked by the stage that `Collection.search(rerank=...)` runs.
Written down for each: nDCG@10 before and after, a paired bootstrap interval of the difference, queries
helped, hurt and unchanged, and the milliseconds that a query pays. Fewer than 225 queries are a seeded
sample, so that nobody chose them; the file is rewritten as queries finish and says how many it has.

FOLDER holds cran.all.1400.xml, cran.qry.xml and cranqrel.trec.txt (oussbenk/cranfield-trec-dataset);
CHECKPOINTs are what `python benchmarks/models.py` prints. Without --model the cross-encoder is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from models import embed

from vstore.rerank import CrossEncoderReranker, LexicalReranker, Rerank, apply, as_stages
from vstore.rerank.metrics import changes, ndcg, paired_interval, recall
from vstore.types import Candidate, Hit

K = 10
EMBEDDINGS = "MiniLM-L6 embeddings"
RESULT = Path(__file__).parent / "results" / "rerank_cranfield.json"


@dataclass(frozen=True)
class Cranfield:
    """`texts` by document, `queries`, and `judged[q]`: {document index: gain} of query q."""

    texts: list[str]
    queries: list[str]
    judged: list[dict[int, int]]


@dataclass(frozen=True)
class Outcome:
    """One re-ranker over one first stage."""

    first_stage: str
    reranker: str
    n_queries: int
    recall_at_depth: float
    ndcg_before: float
    ndcg_after: float
    difference: float
    interval_95: tuple[float, float]
    n_helped: int
    n_hurt: int
    n_unchanged: int
    p50_ms: float
    p95_ms: float


def load(folder: Path) -> Cranfield:
    """Read the collection. Queries are numbered by position, as the judgments are, not by their `num`."""
    documents = (folder / "cran.all.1400.xml").read_text()
    numbers = [int(each) for each in re.findall(r"<docno>\s*(\d+)\s*</docno>", documents)]
    texts = [" ".join(each.split()) for each in re.findall(r"<text>(.*?)</text>", documents, re.DOTALL)]
    titles = re.findall(r"<title>(.*?)</title>", (folder / "cran.qry.xml").read_text(), re.DOTALL)
    queries = [" ".join(each.split()).removesuffix(" .") for each in titles]
    index = {number: i for i, number in enumerate(numbers)}
    judged: list[dict[int, int]] = [{} for _ in queries]
    for line in (folder / "cranqrel.trec.txt").read_text().splitlines():
        query, _, document, gain = line.split()
        if int(gain) > 0 and int(document) in index:
            judged[int(query) - 1][index[int(document)]] = int(gain)
    if not len(texts) == len(numbers) == 1400 or len(queries) != 225:
        raise ValueError(
            f"{folder} holds {len(texts)} texts and {len(queries)} queries, expected 1400 and 225"
        )
    return Cranfield(texts, queries, judged)


def first_stages(
    data: Cranfield, queries: Sequence[int], embedder: str | None
) -> dict[str, npt.NDArray[np.float64]]:
    """Return float64[len(queries), 1400] scores of each first stage."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    everything = [Candidate(i, text, None, {}) for i, text in enumerate(data.texts)]
    bm25 = LexicalReranker()
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    reduced = TruncatedSVD(256, random_state=0)
    documents = normalize(reduced.fit_transform(words.fit_transform(data.texts)))
    asked = normalize(reduced.transform(words.transform([data.queries[q] for q in queries])))
    found = {
        "BM25": np.array(
            [np.nan_to_num(bm25.score(data.queries[q], everything)) for q in queries], np.float64
        ),
        "TF-IDF, 256 dimensions": np.asarray(asked @ documents.T, np.float64),
    }
    if embedder is not None:
        vectors = embed(Path(embedder), [*data.texts, *(data.queries[q] for q in queries)])
        n = len(data.texts)
        found[EMBEDDINGS] = np.asarray(vectors[n:] @ vectors[:n].T, np.float64)
    return found


def best_hits(data: Cranfield, scores: npt.NDArray[np.float64], depth: int) -> list[Hit]:
    """Return the `depth` best documents as a search would."""
    best = np.argsort(-scores, kind="stable")[:depth].tolist()
    return [
        Hit(i, float(scores[i]), -float(scores[i]), {}, {"text": data.texts[i]}, float(scores[i]), rank)
        for rank, i in enumerate(best)
    ]


class Measured:
    """One re-ranker over one first stage, query after query."""

    def __init__(self, first_stage: str, rerank: Rerank, depth: int) -> None:
        self.first_stage = first_stage
        self.stages = as_stages(rerank, depth)
        self.blend = rerank.blend
        self.before: list[float] = []
        self.after: list[float] = []
        self.ceiling: list[float] = []
        self.spent_ms: list[float] = []

    def add(self, query: str, judged: dict[int, int], hits: list[Hit]) -> None:
        """Re-rank one query's hits and keep what it did."""
        ranked, reports = apply(self.stages, query, hits, K)
        self.before.append(ndcg([hit.id for hit in hits], judged, K))
        self.after.append(ndcg([hit.id for hit in ranked], judged, K))
        self.ceiling.append(recall([hit.id for hit in hits], judged))
        self.spent_ms.append(reports[0].latency_ms)

    def outcome(self) -> Outcome:
        """Return what the queries so far say."""
        difference = np.array(self.after) - np.array(self.before)
        low, high = paired_interval(difference)
        helped, hurt, unchanged = changes(self.before, self.after)
        return Outcome(
            first_stage=self.first_stage,
            reranker=self.stages[0].name + (f", {self.blend:g} of the first score" if self.blend else ""),
            n_queries=len(difference),
            recall_at_depth=round(float(np.mean(self.ceiling)), 4),
            ndcg_before=round(float(np.mean(self.before)), 4),
            ndcg_after=round(float(np.mean(self.after)), 4),
            difference=round(float(difference.mean()), 4),
            interval_95=(round(low, 4), round(high, 4)),
            n_helped=helped,
            n_hurt=hurt,
            n_unchanged=unchanged,
            p50_ms=round(float(np.percentile(self.spent_ms, 50)), 1),
            p95_ms=round(float(np.percentile(self.spent_ms, 95)), 1),
        )


def rerankers(model: str | None, max_length: int, text: str) -> list[Rerank]:
    """Return what is compared. The cross-encoder's scores are kept, so that blends cost nothing more."""
    found = [Rerank(LexicalReranker())]
    if model is not None:
        cross_encoder = CrossEncoderReranker(model, max_length=max_length, cache_scores=100_000)
        cross_encoder.score("warm up", [Candidate(0, text, None, {})])
        found += [Rerank(cross_encoder, blend=blend) for blend in (0.0, 0.3, 0.5)]
    return found


def sample(n_all: int, n: int) -> list[int]:
    """Return n of the queries in a seeded order."""
    return np.random.default_rng(0).permutation(n_all)[:n].tolist()


def machine() -> dict[str, Any]:
    """Return what the milliseconds were measured on."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the collection's three files")
    parser.add_argument("--model", help="a cross-encoder's folder or name")
    parser.add_argument("--embedder", help="an embedding model's folder")
    parser.add_argument("--first", action="append", help="only this first stage; can be repeated")
    parser.add_argument("--queries", type=int, default=225)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.model:
        import torch

        torch.set_num_threads(asked.threads)
    data = load(asked.data)
    queries = sample(len(data.queries), asked.queries)
    compared = rerankers(asked.model, asked.max_length, data.texts[0])
    stages = {
        name: scores
        for name, scores in first_stages(data, queries, asked.embedder).items()
        if not asked.first or name in asked.first
    }
    measured = [
        [
            Measured(name, rerank, asked.depth)
            for rerank in compared
            if (name, rerank) != ("BM25", compared[0])
        ]
        for name in stages
    ]
    for row, query in enumerate(queries):
        for scores, each in zip(stages.values(), measured, strict=True):
            hits = best_hits(data, scores[row], asked.depth)
            for one in each:
                one.add(data.queries[query], data.judged[query], hits)
        if (row + 1) % 25 == 0 or row + 1 == len(queries):
            outcomes = [one.outcome() for each in measured for one in each]
            write(asked, outcomes)
            print(f"{row + 1} of {len(queries)} queries", flush=True)
    for one in outcomes:
        print(
            f"{one.first_stage:24} {one.reranker:60} nDCG@{K} {one.ndcg_before:.3f} -> {one.ndcg_after:.3f} "
            f"[{one.interval_95[0]:+.3f}, {one.interval_95[1]:+.3f}]  "
            f"+{one.n_helped} -{one.n_hurt} ={one.n_unchanged}  "
            f"p50 {one.p50_ms:.0f} ms, p95 {one.p95_ms:.0f} ms"
        )
    print(f"wrote {asked.out}")


def write(asked: argparse.Namespace, outcomes: list[Outcome]) -> None:
    """Write the report of the queries so far."""
    report = {
        "command": "python benchmarks/rerank_cranfield.py --data FOLDER --model CHECKPOINT "
        "--embedder CHECKPOINT "
        f"--queries {asked.queries} --depth {asked.depth} --max-length {asked.max_length} "
        f"--threads {asked.threads}",
        "depth": asked.depth,
        "k": K,
        "max_length": asked.max_length,
        "machine": machine(),
        "outcomes": [asdict(one) for one in outcomes],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
