"""The picture of the object storage benchmark: latency and bytes against recall, in every state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .plots import caption

COLOURS = {"cold": "#1d3557", "vectors remote": "#c1121f", "naive graph": "#8d99ae"}
PANELS = (("ms", "milliseconds a query"), ("megabytes_mean", "megabytes a query"))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the sweep: a column for each filter, latency above, bytes below."""
    tasks = list(dict.fromkeys(row["filter"] for row in result["sweep"]))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, grid = pyplot.subplots(
        len(PANELS), len(tasks), figsize=(4.2 * len(tasks), 6.6), layout="constrained", squeeze=False
    )
    for column, task in enumerate(tasks):
        for line, (key, label) in enumerate(PANELS):
            axes = grid[line][column]
            for state, colour in COLOURS.items():
                points = [r for r in result["sweep"] if r["filter"] == task and r["state"] == state]
                axes.plot(
                    [row["recall"] for row in points],
                    [max(row[key], 1e-3) for row in points],
                    marker="o",
                    color=colour,
                    label=state,
                )
            axes.set_yscale("log")
            axes.set_xlabel("recall@10")
            axes.set_ylabel(label)
            axes.grid(visible=True, which="both", alpha=0.25)
            if line == 0:
                axes.set_title(task)
    grid[0][0].legend(fontsize=8)
    latency = result["settings"]["latency_ms"]
    shape = caption(result).split(", k=10")[0]
    made.suptitle(f"{shape}, k=10, every request {latency:g} ms later", fontsize=10)
    made.savefig(path, dpi=120)
