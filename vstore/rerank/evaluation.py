"""Does a re-ranker help and what does it cost: on queries with judgments, with and without it, by depth."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from vstore.errors import InvalidInput, InvalidSetting, MissingDependency
from vstore.rerank import metrics
from vstore.rerank.plan import Rerank, as_stages
from vstore.rerank.stage import ReadsObjects, apply
from vstore.settings import require
from vstore.types import Hit, Key, RerankReport

DEPTHS = (10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class EvalQuery:
    """One query with judgments: `relevant` has the gain by document id, absent is 0."""

    id: str
    vector: Any
    document: Any
    """Its own text or image, for the re-ranker."""
    relevant: dict[Key, float]
    filter: dict[str, Any] | None = None


Search = Callable[[EvalQuery, int], Sequence[Hit]]
"""(query, how many) -> hits of the first stage, best first, with their documents."""


@dataclass(frozen=True, slots=True)
class DepthResult:
    """A re-ranker at one depth. `recall_at_depth` is the ceiling: what no re-ranking can exceed."""

    depth: int
    ndcg_before: float
    ndcg_after: float
    ndcg_difference: float
    interval_95: tuple[float, float]
    mrr_before: float
    mrr_after: float
    recall_at_depth: float
    n_helped: int
    n_hurt: int
    n_unchanged: int
    added_p50_ms: float
    added_p95_ms: float
    pairs_per_s: float
    n_failed: int
    n_timed: int
    """Queries that the three times are of."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One query at one depth: its first k ids without and with the re-ranker."""

    id: str
    ndcg_before: float
    ndcg_after: float
    before: tuple[Key, ...]
    after: tuple[Key, ...]

    @property
    def change(self) -> str:
        """What the re-ranker did to nDCG, in words."""
        gain = self.ndcg_after - self.ndcg_before
        return f"nDCG {self.ndcg_before:.2f} to {self.ndcg_after:.2f} ({gain:+.2f})"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate`. `queries` are those of the depth of the greatest nDCG, `best_depth`."""

    model: str
    k: int
    n_queries: int
    first_p50_ms: float
    first_p95_ms: float
    depths: tuple[DepthResult, ...]
    best_depth: int
    queries: tuple[QueryResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class RerankCost:
    """What re-ranking costs at one depth, on a machine of one's own and by a priced service.

    `crossover_queries_per_hour` is where the machine becomes the cheaper one, None where its greatest rate
    lies below that.
    """

    depth: int
    own_usd_per_1000_queries: float
    service_usd_per_1000_queries: float
    own_queries_per_hour: float
    crossover_queries_per_hour: float | None


def read_queries(path: Path) -> list[EvalQuery]:
    """Read one JSON object a line: id, vector, text and / or image (a path), relevant, and perhaps filter.

    `relevant` is {"id": gain}, a list of [id, gain], or a list of ids. A JSON key is a str: where the whole
    file's are digits, they become ints.

    Raises:
        InvalidInput: the line that is no such object, named; or no lines at all.
    """
    queries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            judged = _judgments(found["relevant"])
            vector = np.asarray(found["vector"], dtype=np.float32)
            document = {name: found[name] for name in ("text", "image") if found.get(name)}
            if "image" in document:
                document["image"] = path.parent / document["image"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{path.name} line {number} is no query ({type(error).__name__}: {error}); expected "
                '{"id": ..., "vector": [...], "text": "...", "relevant": {"id": gain}}'
            ) from error
        if not document:
            raise InvalidInput(f"{path.name} line {number} has neither text nor image for the re-ranker")
        queries.append(EvalQuery(str(found.get("id", number)), vector, document, judged, found.get("filter")))
    if not queries:
        raise InvalidInput(f"{path.name} has no queries")
    for name, n in Counter(query.id for query in queries).items():
        if n > 1:
            raise InvalidInput(f"{path.name} has {n} queries of id {name!r}; ids must differ")
    if all(isinstance(key, str) and key.isdecimal() for query in queries for key in query.relevant):
        queries = [
            dataclasses.replace(query, relevant={int(key): gain for key, gain in query.relevant.items()})
            for query in queries
        ]
    return queries


def _judgments(given: Any) -> dict[Key, float]:
    if isinstance(given, dict):
        return {key: float(gain) for key, gain in given.items()}
    return dict((each[0], float(each[1])) if isinstance(each, list) else (each, 1.0) for each in given)


def evaluate(
    search: Search,
    queries: Sequence[EvalQuery],
    rerank: Any,
    *,
    k: int = 10,
    depths: Sequence[int] = DEPTHS,
    n_timed: int | None = None,
    store: ReadsObjects | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a re-ranker on queries with judgments.

    The first stage answers each query once, to the greatest depth. Then every depth is re-ranked by itself,
    the greatest first. Whatever is timed has nothing remembered from the others; what is not may use the
    scores that the model remembers of the same query's greater depth.

    Args:
        search: the first stage.
        queries: with judgments; queries without a relevant document count 0 before and after.
        rerank: a re-ranker, a callable, a name, or a `Rerank`, whose depth is replaced.
        k: of nDCG and MRR.
        depths: each 1 or more.
        n_timed: queries that are timed at lesser depths, spread over all; None for all. At the greatest
            depth all are.
        store: where documents' `store://` images are read, inside the clock.
        progress: called with (re-rankings done, of all).

    Raises:
        InvalidInput: no queries, or one that the re-ranker cannot read.
        InvalidSetting: a depth, or `n_timed`, below 1.
        RerankError: it failed.
    """
    if not queries:
        raise InvalidInput("evaluate got no queries")
    require(len(depths) > 0 and min(depths) >= 1, f"depths are {list(depths)}; each must be 1 or more")
    require(n_timed is None or n_timed >= 1, f"n_timed is {n_timed!r}; it must be 1 or more, or None for all")
    settings = rerank if isinstance(rerank, Rerank) else Rerank(rerank)
    forget = getattr(settings.model, "forget", lambda: None)
    _apply_at(settings, min(depths), queries[0], list(search(queries[0], max(depths))), k, store)
    answers, spent_ms = [], []
    for query in queries:
        started = perf_counter()
        answers.append(list(search(query, max(*depths, k))))
        spent_ms.append((perf_counter() - started) * 1e3)
    n_timed = min(n_timed or len(queries), len(queries))
    timed = set(np.linspace(0, len(queries) - 1, n_timed).round().astype(int).tolist())
    falling = sorted(set(depths), reverse=True)
    runs: dict[int, list[_Run]] = {depth: [] for depth in falling}
    for row, (query, hits) in enumerate(zip(queries, answers, strict=True)):
        for done, depth in enumerate(falling, 1):
            is_timed = depth == falling[0] or row in timed
            if is_timed:
                forget()
            ids, spent, report = _apply_at(settings, depth, query, hits, k, store)
            runs[depth].append(_Run(ids, spent if is_timed else None, report.n_scored, report.n_failed))
            if progress is not None:
                progress(row * len(falling) + done, len(queries) * len(falling))
    results = [_summed(depth, k, queries, answers, runs[depth]) for depth in depths]
    ranked = [[run.ids for run in runs[depth]] for depth in depths]
    first_p50_ms, first_p95_ms = np.percentile(spent_ms, [50, 95]).tolist()
    name = as_stages(settings)[0].name
    best = max(range(len(depths)), key=lambda each: results[each].ndcg_after)
    changed = tuple(
        _one(query, [hit.id for hit in hits][:k], after, k)
        for query, hits, after in zip(queries, answers, ranked[best], strict=True)
    )
    return Evaluation(
        name, k, len(queries), first_p50_ms, first_p95_ms, tuple(results), depths[best], changed
    )


def _one(query: EvalQuery, before: Sequence[Key], after: Sequence[Key], k: int) -> QueryResult:
    gains = query.relevant
    return QueryResult(
        query.id, metrics.ndcg(before, gains, k), metrics.ndcg(after, gains, k), tuple(before), tuple(after)
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One re-ranking: the first k ids after it, and its milliseconds where they count."""

    ids: list[Key]
    spent_ms: float | None
    n_scored: int
    n_failed: int


def _apply_at(
    settings: Rerank, depth: int, query: EvalQuery, hits: list[Hit], k: int, store: ReadsObjects | None
) -> tuple[list[Key], float, RerankReport]:
    """Return (the first k ids after, milliseconds, what the stage reports)."""
    stages = as_stages(dataclasses.replace(settings, depth=depth))
    started = perf_counter()
    # A stage re-ranks k hits at least; a depth below k is measured as it says.
    ranked, (report,) = apply(stages, query.document, hits[:depth], depth, store)
    spent_ms = (perf_counter() - started) * 1e3
    ids = [hit.id for hit in ranked] + [hit.id for hit in hits[depth:]]
    return ids[:k], spent_ms, report


def _summed(
    depth: int,
    k: int,
    queries: Sequence[EvalQuery],
    answers: Sequence[Sequence[Hit]],
    runs: Sequence[_Run],
) -> DepthResult:
    firsts = [[hit.id for hit in hits] for hits in answers]
    judged = [query.relevant for query in queries]
    before = [metrics.ndcg(ids, gains, k) for ids, gains in zip(firsts, judged, strict=True)]
    after = [metrics.ndcg(run.ids, gains, k) for run, gains in zip(runs, judged, strict=True)]
    difference = np.array(after) - np.array(before)
    helped, hurt, unchanged = metrics.changes(before, after)
    spent_ms = np.array([run.spent_ms for run in runs if run.spent_ms is not None])
    n_scored = sum(run.n_scored for run in runs if run.spent_ms is not None)
    ranks_before = [metrics.reciprocal_rank(i, g, k) for i, g in zip(firsts, judged, strict=True)]
    ranks_after = [metrics.reciprocal_rank(run.ids, g, k) for run, g in zip(runs, judged, strict=True)]
    return DepthResult(
        depth=depth,
        ndcg_before=float(np.mean(before)),
        ndcg_after=float(np.mean(after)),
        ndcg_difference=float(difference.mean()),
        interval_95=metrics.paired_interval(difference),
        mrr_before=float(np.mean(ranks_before)),
        mrr_after=float(np.mean(ranks_after)),
        recall_at_depth=float(
            np.mean([metrics.recall(i, g, depth) for i, g in zip(firsts, judged, strict=True)])
        ),
        n_helped=helped,
        n_hurt=hurt,
        n_unchanged=unchanged,
        added_p50_ms=float(np.percentile(spent_ms, 50)),
        added_p95_ms=float(np.percentile(spent_ms, 95)),
        pairs_per_s=float(n_scored / max(spent_ms.sum() / 1e3, 1e-9)),
        n_failed=sum(run.n_failed for run in runs),
        n_timed=len(spent_ms),
    )


def costs(
    found: Evaluation, *, machine_usd_per_hour: float, service_usd_per_1000_pairs: float
) -> list[RerankCost]:
    """Return what re-ranking costs at each depth, on a rented machine as fast as this one and by a service.

    Raises:
        InvalidSetting: a price of 0 or less.
    """
    for name, price in (
        ("machine_usd_per_hour", machine_usd_per_hour),
        ("service_usd_per_1000_pairs", service_usd_per_1000_pairs),
    ):
        if not price > 0:
            raise InvalidSetting(f"{name} is {price!r}; it must be above 0")
    table = []
    for each in found.depths:
        most = each.pairs_per_s * 3600.0 / each.depth
        service = each.depth * service_usd_per_1000_pairs
        crossover = machine_usd_per_hour / (service / 1000.0)
        table.append(
            RerankCost(
                depth=each.depth,
                own_usd_per_1000_queries=machine_usd_per_hour / max(most, 1e-9) * 1000.0,
                service_usd_per_1000_queries=service,
                own_queries_per_hour=most,
                crossover_queries_per_hour=crossover if crossover <= most else None,
            )
        )
    return table


def page(
    found: Evaluation, table: Sequence[RerankCost] = (), picture: str | None = None, shown: str = ""
) -> str:
    """Return the result as Markdown.

    Args:
        found: the result.
        table: its costs.
        picture: the file that `draw` wrote, beside the page.
        shown: Markdown of queries that changed, as `vstore.rerank.examples` makes it.
    """
    return "\n".join(_page_lines(found, table, picture, shown)) + "\n"


def _page_lines(
    found: Evaluation, table: Sequence[RerankCost], picture: str | None, shown: str
) -> Iterator[str]:
    yield f"# Re-ranking with {found.model}"
    yield ""
    yield (
        f"{found.n_queries} queries, re-ranked to each depth by itself. The first stage alone takes "
        f"{found.first_p50_ms:.1f} ms (p50), {found.first_p95_ms:.1f} ms (p95)."
    )
    yield ""
    if picture:
        yield f"![nDCG and added milliseconds by depth]({picture})"
        yield ""
    yield (
        f"| depth | recall at depth | nDCG@{found.k} | difference | MRR@{found.k} | helped / hurt / same "
        "| added p50, p95 ms | pairs/s |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for d in found.depths:
        yield (
            f"| {d.depth} | {d.recall_at_depth:.3f} | {d.ndcg_before:.3f} to {d.ndcg_after:.3f} "
            f"| {d.ndcg_difference:+.3f} ({d.interval_95[0]:+.3f} to {d.interval_95[1]:+.3f}) "
            f"| {d.mrr_before:.3f} to {d.mrr_after:.3f} | {d.n_helped} / {d.n_hurt} / {d.n_unchanged} "
            f"| {d.added_p50_ms:.1f}, {d.added_p95_ms:.1f} | {d.pairs_per_s:.1f} |"
        )
    yield ""
    yield (
        "Recall at depth is the share of the relevant documents that the re-ranker sees: what is deeper it "
        "cannot lift. Difference: of nDCG, with its 95 % interval over queries (paired bootstrap); an "
        "interval that holds 0 shows no gain. Added: what a search takes longer."
    )
    fewest = min((d.n_timed for d in found.depths), default=found.n_queries)
    if fewest < found.n_queries:
        of = ", ".join(str(d.depth) for d in found.depths if d.n_timed == fewest)
        yield ""
        yield f"Times and pairs/s at depth {of} are of {fewest} queries, spread over all."
    failed = max((d.n_failed for d in found.depths), default=0)
    if failed:
        yield ""
        yield f"{failed} documents could not be scored and kept their places."
    if table:
        yield ""
        yield (
            "| depth | own machine, $ / 1000 queries | service, $ / 1000 queries "
            "| own is cheaper from, queries / hour |"
        )
        yield "| --- | --- | --- | --- |"
        for row in table:
            never = f"never: it answers {row.own_queries_per_hour:.0f} at most"
            crossover = row.crossover_queries_per_hour
            yield (
                f"| {row.depth} | {row.own_usd_per_1000_queries:.3f} "
                f"| {row.service_usd_per_1000_queries:.3f} "
                f"| {never if crossover is None else f'{crossover:.0f}'} |"
            )
    if shown:
        yield ""
        yield f"## Queries that changed most, at depth {found.best_depth}"
        yield ""
        yield shown.rstrip()


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of this size in inches.

    Raises:
        MissingDependency: matplotlib cannot be imported.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency(
            f"the picture needs matplotlib ({error}); run: pip install 'vstore[lab]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def draw(found: Evaluation, path: Path) -> None:
    """Write a picture: nDCG with its interval, and the added milliseconds, by depth.

    Raises:
        MissingDependency: matplotlib cannot be imported.
    """
    figure = new_figure(9, 3.4)
    quality, cost = figure.subplots(1, 2)
    depths = [d.depth for d in found.depths]
    after = np.array([d.ndcg_after for d in found.depths])
    before = np.array([d.ndcg_before for d in found.depths])
    low, high = (before + [d.interval_95[side] for d in found.depths] for side in (0, 1))
    spread = np.maximum(np.stack([after - low, high - after]), 0.0)
    quality.errorbar(depths, after, yerr=spread, marker="o", capsize=3, label="re-ranked")
    quality.plot(depths, before, color="gray", linestyle="--", label="first stage")
    quality.set(xlabel="depth", ylabel=f"nDCG@{found.k}")
    figure.suptitle(found.model, fontsize=10)
    quality.legend()
    cost.plot(depths, [d.added_p50_ms for d in found.depths], marker="o", label="p50")
    cost.plot(depths, [d.added_p95_ms for d in found.depths], marker="o", label="p95")
    cost.set(xlabel="depth", ylabel="added ms", ylim=(0, None))
    cost.legend()
    figure.savefig(path, dpi=130)
