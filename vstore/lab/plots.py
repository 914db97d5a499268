"""Pictures of an experiment's table, as PNG bytes. matplotlib comes with the extra `lab`."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from vstore.errors import MissingDependency

Table = list[dict[str, Any]]


class Picture(NamedTuple):
    """A picture: the name of its file, what stands below it, and itself."""

    name: str
    caption: str
    png: bytes


_COSTS: Final = (
    ("latency_p50_ms", 1, "virtual time of a query, p50, ms"),
    ("bytes_fetched", 1e6, "MB fetched a query"),
    ("usd_per_1000", 1, "US dollars for 1,000 queries"),
)
_LINES: Final = ("-", "--", ":", "-.")


def pyplot() -> Any:
    """Return matplotlib.pyplot, drawing to memory.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependency("pictures need matplotlib: pip install 'vstore[lab]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def pictures(table: Table) -> list[Picture]:
    """Return the pictures that a table has something for."""
    makers: tuple[Callable[[Table], list[Picture]], ...] = (
        recall_against_cost,
        heat_map,
        round_trips,
        cache_curves,
    )
    return [picture for make in makers for picture in make(table)]


def label(row: dict[str, Any], table: Table) -> str:
    """Return a policy's name in legends: with its width, order, layout or block where these differ."""
    parts = [row["policy"]]
    for key, text in (("ef", "ef {}"), ("order", "{}"), ("layout", "{}"), ("block_shift", "2^{} rows")):
        if len({other[key] for other in table}) > 1:
            parts.append(text.format(row[key]))
    return ", ".join(parts)


def recall_against_cost(table: Table) -> list[Picture]:
    """Return, for each store, recall against time, bytes and dollars; a point is a policy in a workload."""
    plt = pyplot()
    first = table[0]["cache"]
    found: list[Picture] = []
    for store in _distinct(table, "store"):
        rows = [row for row in table if row["store"] == store and row["cache"] == first]
        figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), sharey=True)
        for axis, (key, unit, title) in zip(axes, _COSTS, strict=True):
            for number, name in enumerate(_labels(rows)):
                of = [row for row in rows if label(row, rows) == name]
                how = {"marker": "osD^v<>pPX*"[number % 11], "color": f"C{number % 10}"}
                x, y = [row[key] / unit for row in of], [row["recall"] for row in of]
                axis.scatter(x, y, s=24, alpha=0.55, linewidths=0, label=name, **how)
                axis.scatter(np.median(x), np.mean(y), s=120, edgecolors="black", linewidths=0.8, **how)
            axis.set_xlabel(title)
            positive = [row[key] / unit for row in rows if row[key] > 0]
            if len(positive) == len(rows) and max(positive) > 20 * min(positive):
                _log_scale(axis)
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("recall")
        _legend_beside(axes[-1])
        caption = (
            f"Recall against cost on {store}, cache {first}; a small point is a workload, a large one a "
            "policy's mean recall at its median cost."
        )
        found.append(Picture(f"recall-against-cost-{store}", caption, _png(figure)))
    return found


def heat_map(table: Table) -> list[Picture]:
    """Return recall of each policy in each workload."""
    plt = pyplot()
    rows = _one_server(table)
    names, workloads = _labels(rows), _distinct(rows, "workload")
    grid = np.full((len(names), len(workloads)), np.nan)
    for i, name in enumerate(names):
        for j, workload in enumerate(workloads):
            of = [r["recall"] for r in rows if label(r, rows) == name and r["workload"] == workload]
            grid[i, j] = float(np.mean(of)) if of else np.nan
    figure, axis = plt.subplots(figsize=(2.5 + 0.62 * len(workloads), 1.6 + 0.36 * len(names)))
    axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    axis.set_xticks(range(len(workloads)), workloads, rotation=55, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for (i, j), value in np.ndenumerate(grid):
        axis.text(j, i, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7)
    return [Picture("recall-by-filter", "Recall of each traversal under each filter.", _png(figure))]


def round_trips(table: Table) -> list[Picture]:
    """Return round trips and requests of each policy, over all workloads."""
    plt = pyplot()
    rows = _one_server(table)
    names = _labels(rows)
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.4 + 0.32 * len(names)), sharey=True)
    for axis, key in zip(axes, ("n_round_trips", "n_requests"), strict=True):
        values = [[row[key] for row in rows if label(row, rows) == name] for name in names]
        axis.boxplot(values, orientation="horizontal", whis=(0, 100))
        axis.set_yticks(range(1, len(names) + 1), names, fontsize=8)
        _log_scale(axis)
        axis.set_xlabel(f"{key} a query: least, quartiles, most over the workloads")
        axis.grid(alpha=0.3)
    caption = f"Round trips and requests, cache {rows[0]['cache']}."
    return [Picture("round-trips", caption, _png(figure))]


def cache_curves(table: Table) -> list[Picture]:
    """Return hit rates and requests against the size of the cache, where several were tried."""
    if len({row["limit_bytes"] for row in table}) < 3:
        return []
    plt = pyplot()
    store = table[0]["store"]
    rows = [row for row in table if row["store"] == store]
    kinds = sorted({row["cache"].split(",")[0] for row in rows if row["limit_bytes"]})
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
    for axis, key in zip(axes, ("hit_rate", "n_requests"), strict=True):
        for number, name in enumerate(_labels(rows)):
            for turn, kind in enumerate(kinds):
                sizes: dict[int, list[float]] = {}
                for row in rows:
                    if label(row, rows) == name and row["cache"].split(",")[0] == kind:
                        sizes.setdefault(row["limit_bytes"], []).append(row[key])
                x = sorted(sizes)
                means = [np.mean(sizes[at]) for at in x]
                # Where there is one policy only, its colours tell its caches apart.
                colour = f"C{(number if len(_labels(rows)) > 1 else turn) % 10}"
                how = {"color": colour, "linestyle": _LINES[turn % 4], "marker": "os^D"[turn % 4]}
                axis.plot([at / 1e6 for at in x], means, label=f"{name}, {kind}", ms=4, **how)
        axis.set_xlabel("cache, MB")
        axis.set_ylabel(f"{key}, mean over the workloads")
        axis.grid(alpha=0.3)
    _legend_beside(axes[-1])
    return [Picture("cache-curves", "What a cache returns, by its size.", _png(figure))]


def _log_scale(axis: Any) -> None:
    """Make x logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib import ticker

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=12))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.tick_params(axis="x", labelsize=8)


def _legend_beside(axis: Any) -> None:
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _distinct(rows: Table, key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _labels(rows: Table) -> list[str]:
    return list(dict.fromkeys(label(row, rows) for row in rows))


def _one_server(table: Table) -> Table:
    first = table[0]
    return [row for row in table if row["store"] == first["store"] and row["cache"] == first["cache"]]


def _png(figure: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot().close(figure)
    return data.getvalue()
