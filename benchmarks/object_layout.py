"""Draws how a collection lies in a bucket, and what each round trip of a cold query reads of it.

python -m benchmarks.object_layout          # writes docs/object_storage.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "docs" / "object_storage.svg"
COLOURS = ("#457b9d", "#2a9d8f", "#e9c46a", "#e76f51")
PLAIN = "#eceff1"
OBJECTS = (
    ("vstore.json", "what makes the place a store", 0),
    ("latest/photos", "a copy of the latest manifest", 0),
    ("catalog/photos/0...07", "manifests; listed, to see that the copy is the latest", 0),
    ("data/photos/<id>/log/", "writes since; listed beside round 2", 1),
    ("data/photos/<id>/shards/<id>.shard", "below", None),
)
SECTIONS = (
    ("columns", 0.09, 1, "the filter's"),
    ("upper", 0.07, None, ""),
    ("lists", 0.12, None, ""),
    ("codes", 0.24, 2, "of the nearest clusters"),
    ("exact vectors", 0.26, 3, "of the candidates"),
    ("payload", 0.08, 3, ""),
    ("keys", 0.06, None, ""),
    ("head", 0.08, 1, "centroids, directory"),
)
READ = {"columns": (0.0, 0.3), "codes": (0.42, 0.60), "exact vectors": (0.50, 0.56), "payload": (0.5, 0.6)}
"""The part of a section that one query reads; the head is read whole."""


def draw(axes: Any) -> None:
    """Draw objects above, and the sections of one shard, in the order of the file, below."""
    from matplotlib.patches import Rectangle

    for line, (name, note, round_) in enumerate(OBJECTS):
        y = 0.94 - 0.075 * line
        colour = PLAIN if round_ is None else COLOURS[round_]
        axes.add_patch(Rectangle((0.02, y - 0.026), 0.014, 0.045, color=colour, ec="none"))
        axes.text(0.045, y, name, family="monospace", fontsize=9, va="center")
        axes.text(0.42, y, note, fontsize=9, va="center", color="#37474f")
    x = 0.02
    for name, width, round_, note in SECTIONS:
        width *= 0.96
        axes.add_patch(Rectangle((x, 0.27), width, 0.16, fc=PLAIN, ec="#90a4ae", lw=0.8))
        if round_ is not None:
            first, last = READ.get(name, (0.0, 1.0))
            part = (x + first * width, 0.27), (last - first) * width
            axes.add_patch(Rectangle(*part, 0.16, color=COLOURS[round_], lw=0))
        axes.text(x + width / 2, 0.455, name, ha="center", fontsize=8)
        axes.text(x + width / 2, 0.235, note, ha="center", fontsize=7, color="#37474f")
        x += width
    legend = ("1  which version", "2  head and columns", "3  codes", "4  exact vectors and payload")
    for i, (colour, label) in enumerate(zip(COLOURS, legend, strict=True)):
        axes.add_patch(Rectangle((0.02 + 0.25 * i, 0.09), 0.014, 0.045, color=colour))
        axes.text(0.045 + 0.25 * i, 0.112, label, fontsize=9, va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(0.05, 1)
    axes.axis("off")


def main() -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "vstore"
    from matplotlib import pyplot

    made, axes = pyplot.subplots(figsize=(10, 4.6), layout="constrained")
    draw(axes)
    made.savefig(OUT, metadata={"Date": None})
    print(f"written: {OUT.name}")


if __name__ == "__main__":
    main()
