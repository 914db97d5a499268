"""Frontiers, the grid as heat maps, builds as bars. Needs matplotlib: pip install 'vstore[bench]'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .frontier import pareto
from .runner import BASE, OWN

STRONG = {OWN: "#c1121f", BASE: "#1d3557"}


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """Return (figure, axes) of a plot that needs no display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained")
    return made, axes


def caption(result: dict[str, Any]) -> str:
    """Return what a picture must say of itself."""
    shape, machine = result["dataset"], result["machine"]
    return f"{shape['name']}, {shape['rows']:,} x {shape['dim']}, k=10, one thread, {machine['cpu']}"


def frontiers(result: dict[str, Any], path: Path) -> None:
    """Draw recall against QPS (log scale), each peer's points of all repeats that nothing beats."""
    made, axes = figure(9, 6)
    clock = result["clock"]
    best: dict[str, list[tuple[float, float]]] = {}
    for point in result["points"]:
        if "error" not in point and point["recall"] >= 0.8:
            best.setdefault(point["peer"], []).append((point["recall"], point[clock]))
    for peer, points in best.items():
        front = pareto(points)
        axes.plot(
            [recall for recall, _ in front],
            [qps for _, qps in front],
            marker="o",
            markersize=3,
            label=peer,
            linewidth=2.5 if peer in STRONG else 1.2,
            color=STRONG.get(peer),
        )
    axes.set_yscale("log")
    axes.set_xlim(0.8, 1.003)
    axes.set_xlabel("recall@10")
    axes.set_ylabel("queries a second" + (" of processor time" if clock == "qps_cpu" else ""))
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.set_title(caption(result), fontsize=9)
    axes.legend(fontsize=8, ncols=2)
    made.savefig(path, dpi=130)


def heat_maps(result: dict[str, Any], path: Path) -> None:
    """Draw the grid twice: recall at default settings, and QPS at 0.95 over the best peer's."""
    rows = result["grid"]["rows"]
    columns = result["grid"]["columns"]
    made, axes = figure(4 + 1.1 * len(columns) * 2, 1.2 + 0.5 * len(rows), 2)
    panels = (
        ("recall@10, default settings", result["grid"]["recall"], "RdYlGn", (0.9, 1.0), "{:.3f}"),
        ("QPS at recall 0.95 over the best peer", result["grid"]["ratio"], "RdYlGn", (0.0, 2.0), "{:.2f}x"),
    )
    for panel, (title, values, colours, (low, high), form) in zip(axes, panels, strict=True):
        shown = [[float("nan") if value is None else value for value in line] for line in values]
        panel.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto")
        panel.set_xticks(range(len(columns)), columns)
        panel.set_yticks(range(len(rows)), rows, fontsize=8)
        panel.set_title(title, fontsize=10)
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                text = "-" if value is None else form.format(value)
                panel.text(x, y, text, ha="center", va="center", fontsize=7)
    made.suptitle(caption(result), fontsize=9)
    made.savefig(path, dpi=130)


def bars(result: dict[str, Any], path: Path) -> None:
    """Draw build speeds, vectors a second, and memory growth, a bar for each peer."""
    builds = sorted(result["summary"], key=lambda row: row["vectors_per_s"])
    made, axes = figure(11, 1 + 0.35 * len(builds), 2)
    names = [row["peer"] for row in builds]
    colours = [STRONG.get(name, "#8d99ae") for name in names]
    axes[0].barh(names, [row["vectors_per_s"] for row in builds], color=colours)
    axes[0].set_xlabel("vectors a second")
    axes[1].barh(names, [row["grown_bytes"] / 2**20 for row in builds], color=colours)
    axes[1].set_xlabel("process growth, MiB")
    made.suptitle(
        caption(result).replace("one thread", f"{result['plan']['build_threads']} thread(s)"), fontsize=9
    )
    made.savefig(path, dpi=130)


def spread(result: dict[str, Any], path: Path) -> None:
    """Draw the percentiles of one query a call against a query's time in a batch."""
    made, axes = figure(7, 2.6)
    percentiles = result["calls"]["percentiles_us"]
    axes.barh([f"p{name}" for name in percentiles], list(percentiles.values()), color=STRONG[OWN])
    axes.axvline(result["calls"]["batch_us"], color=STRONG[BASE], label="a query of search_batch")
    axes.set_xlabel("microseconds of one search call")
    axes.legend(fontsize=8)
    made.suptitle(caption(result), fontsize=9)
    made.savefig(path, dpi=130)
