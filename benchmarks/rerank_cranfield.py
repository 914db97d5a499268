"""Does re-ranking help? Cranfield: 1,400 abstracts, 225 queries with judgments.

    python benchmarks/rerank_cranfield.py --data FOLDER --model CHECKPOINT [--queries 25] [--depth 30]

For two first stages (BM25; cosine of TF-IDF reduced to 256 dimensions) the best `depth` documents are
re-ranked by the stage that `Collection.search(rerank=...)` runs. Written down for each: nDCG@10 before
and after, a paired bootstrap interval of the difference, queries helped, hurt and unchanged, and the
milliseconds that a query pays. The queries are spread evenly over the 225, so that nobody chose them.

FOLDER holds cran.all.1400.xml, cran.qry.xml and cranqrel.trec.txt (oussbenk/cranfield-trec-dataset);
CHECKPOINT is what `python benchmarks/models.py` prints. Without --model the cross-encoder is left out.
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

from vstore.rerank import CrossEncoderReranker, LexicalReranker, Rerank, apply, as_stages
from vstore.types import Candidate, Hit

K = 10
N_BOOTSTRAP = 10_000
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


def ndcg(ranked: Sequence[int], gains: dict[int, int], k: int = K) -> float:
    """Return nDCG@k, linear gains (Järvelin & Kekäläinen 2002, in TREC's form); 0 where nothing is judged."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    got = np.array([gains.get(document, 0) for document in ranked[:k]], dtype=np.float64)
    best = np.array(sorted(gains.values(), reverse=True)[:k], dtype=np.float64)
    ideal = float(best @ discounts[: len(best)])
    return float(got @ discounts[: len(got)]) / ideal if ideal > 0 else 0.0


def interval(differences: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences, by bootstrap over queries."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(differences), size=(N_BOOTSTRAP, len(differences)))
    low, high = np.percentile(differences[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def first_stages(data: Cranfield, queries: Sequence[int]) -> dict[str, npt.NDArray[np.float64]]:
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
    return {
        "BM25": np.array(
            [np.nan_to_num(bm25.score(data.queries[q], everything)) for q in queries], np.float64
        ),
        "TF-IDF, 256 dimensions": np.asarray(asked @ documents.T, np.float64),
    }


def best_hits(data: Cranfield, scores: npt.NDArray[np.float64], depth: int) -> list[Hit]:
    """Return the `depth` best documents as a search would."""
    best = np.argsort(-scores, kind="stable")[:depth].tolist()
    return [
        Hit(i, float(scores[i]), -float(scores[i]), {}, {"text": data.texts[i]}, float(scores[i]), rank)
        for rank, i in enumerate(best)
    ]


def measure(
    data: Cranfield,
    queries: Sequence[int],
    name: str,
    scores: npt.NDArray[np.float64],
    rerank: Rerank,
    depth: int,
) -> Outcome:
    """Re-rank every query's best documents and compare."""
    stages = as_stages(rerank, depth)
    before, after, spent_ms = [], [], []
    for row, query in enumerate(queries):
        hits = best_hits(data, scores[row], depth)
        ranked, reports = apply(stages, data.queries[query], hits, K)
        before.append(ndcg([int(hit.id) for hit in hits], data.judged[query]))
        after.append(ndcg([int(hit.id) for hit in ranked], data.judged[query]))
        spent_ms.append(reports[0].latency_ms)
    difference = np.array(after) - np.array(before)
    return Outcome(
        first_stage=name,
        reranker=stages[0].name + (f", {rerank.blend:g} of the first score" if rerank.blend else ""),
        n_queries=len(queries),
        ndcg_before=round(float(np.mean(before)), 4),
        ndcg_after=round(float(np.mean(after)), 4),
        difference=round(float(difference.mean()), 4),
        interval_95=tuple(round(each, 4) for each in interval(difference)),  # type: ignore[arg-type]
        n_helped=int((difference > 1e-9).sum()),
        n_hurt=int((difference < -1e-9).sum()),
        n_unchanged=int((np.abs(difference) <= 1e-9).sum()),
        p50_ms=round(float(np.percentile(spent_ms, 50)), 1),
        p95_ms=round(float(np.percentile(spent_ms, 95)), 1),
    )


def run(data: Cranfield, model: str | None, n_queries: int, depth: int) -> list[Outcome]:
    """Return every re-ranker over every first stage."""
    queries = np.linspace(0, len(data.queries) - 1, n_queries).round().astype(int).tolist()
    rerankers = [Rerank(LexicalReranker())]
    if model is not None:
        cross_encoder = CrossEncoderReranker(model)
        cross_encoder.score("warm up", [Candidate(0, data.texts[0], None, {})])
        rerankers += [Rerank(cross_encoder), Rerank(cross_encoder, blend=0.3)]
    return [
        measure(data, queries, name, scores, rerank, depth)
        for name, scores in first_stages(data, queries).items()
        for rerank in rerankers
        if (name, rerank.model) != ("BM25", rerankers[0].model)
    ]


def machine() -> dict[str, Any]:
    """Return what the milliseconds were measured on."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the collection's three files")
    parser.add_argument("--model", help="a cross-encoder's folder or name")
    parser.add_argument("--queries", type=int, default=25)
    parser.add_argument("--depth", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    outcomes = run(load(asked.data), asked.model, asked.queries, asked.depth)
    for one in outcomes:
        print(
            f"{one.first_stage:24} {one.reranker:60} nDCG@{K} {one.ndcg_before:.3f} -> {one.ndcg_after:.3f} "
            f"[{one.interval_95[0]:+.3f}, {one.interval_95[1]:+.3f}]  "
            f"+{one.n_helped} -{one.n_hurt} ={one.n_unchanged}  "
            f"p50 {one.p50_ms:.0f} ms, p95 {one.p95_ms:.0f} ms"
        )
    report = {
        "depth": asked.depth,
        "k": K,
        "machine": machine(),
        "outcomes": [asdict(one) for one in outcomes],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
