"""Tables, the JSON of a run, and the facts that its figures depend on."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .datasets import Dataset
from .frontier import Point, median_qps_at, median_ratio
from .runner import BASE, OWN, Measured, Plan

RESULTS = Path(__file__).parent / "results"
SCHEMA = 1
LEVELS = (0.95, 0.99)
FEATURES = ("avx2", "fma", "avx512f", "avx512vl", "avx512_vnni", "avx512_vpopcntdq", "asimd", "sve")


def machine() -> dict[str, Any]:
    """Return processor, its features that matter here, cores, memory, and the load at this moment."""
    model, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
        table = {key.strip(): value.strip() for key, value in reversed(lines)}
        model = table.get("model name", model)
        if "cpu family" in table:
            model += f" (family {table['cpu family']}, model {table.get('model', '?')})"
        flags = table.get("flags", table.get("Features", ""))
    return {
        "cpu": model,
        "features": [feature for feature in FEATURES if feature in flags.split()],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_at_start": round(os.getloadavg()[0], 1),
    }


def versions() -> dict[str, str]:
    """Return the versions of vstore and of what it computes with."""
    found = {"python": platform.python_version()}
    for name in ("vstore", "numpy", "numba", "llvmlite"):
        found[name] = importlib.metadata.version(name)
    return found


def document(name: str, dataset: Dataset, plan: Plan, measured: Measured, **more: Any) -> dict[str, Any]:
    """Return a run as JSON: everything that was measured, and everything that it depends on."""
    return {
        "schema": SCHEMA,
        "benchmark": name,
        "command": command(name),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "dataset": {
            "name": dataset.name,
            "rows": len(dataset.points),
            "dim": dataset.points.shape[1],
            "metric": "l2",
        },
        "plan": {key: getattr(plan, key) for key in plan.__slots__ if key != "python"},
        "builds": measured.builds,
        "absent": measured.absent,
        "points": measured.points,
        **more,
    }


def command(name: str) -> str:
    """Return the command that was given, without paths of this machine."""
    given = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return " ".join(["python", "-m", f"benchmarks.{name}", *given])


def write(result: dict[str, Any], out: Path) -> None:
    """Write a run's JSON, points one a line: they are many, and read as a diff."""
    out.parent.mkdir(parents=True, exist_ok=True)
    shown = {key: value for key, value in result.items() if key != "points"}
    text = json.dumps(shown, indent=1)
    lines = ",\n  ".join(json.dumps(rounded(point)) for point in result["points"])
    out.write_text(text[:-2] + ',\n "points": [\n  ' + lines + "\n ]\n}\n")


def rounded(value: Any) -> Any:
    """Return JSON with floats to six digits: more of them were never measured."""
    if isinstance(value, float):
        return value if value == 0 or not math.isfinite(value) else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def sweeps(
    points: Sequence[dict[str, Any]], peer: str, task: str, clock: str
) -> dict[tuple[int, int], list[Point]]:
    """Return {(group, repeat): [(recall, QPS), ...]} of one peer's answers to one task."""
    out: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        if point["peer"] == peer and point["filter"] == task and "error" not in point:
            key = (point["group"], point["repeat"])
            out.setdefault(key, []).append((point["recall"], point[clock]))
    return out


def level_of(
    points: Sequence[dict[str, Any]], peer: str, task: str, recall: float, clock: str
) -> dict[str, float | None]:
    """Return QPS at a recall, and the ratios to the base and to vstore in the same repeats."""
    ours = sweeps(points, peer, task, clock)
    row: dict[str, float | None] = {"qps": median_qps_at(list(ours.values()), recall)}
    for label, other in (("to_base", BASE), ("to_vstore", OWN)):
        theirs = sweeps(points, other, task, clock)
        shared = [key for key in ours if key in theirs]
        row[label] = median_ratio([ours[key] for key in shared], [theirs[key] for key in shared], recall)
    return row


def summary(
    points: Sequence[dict[str, Any]], peers: Sequence[str], tasks: Sequence[str], clock: str
) -> list[dict[str, Any]]:
    """Return one row for each task and peer: QPS and ratios at each level, best recall."""
    rows = []
    for task in tasks:
        for peer in peers:
            runs = sweeps(points, peer, task, clock)
            if not runs:
                continue
            best = max(recall for sweep in runs.values() for recall, _ in sweep)
            levels = {str(level): level_of(points, peer, task, level, clock) for level in LEVELS}
            rows.append({"filter": task, "peer": peer, "best_recall": best, "levels": levels})
    return rows


def calibration(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what vstore reached for each recall that it was asked: the worst repeat of each task."""
    reached: dict[tuple[str, float], list[float]] = {}
    for point in points:
        if point["peer"] == OWN and "recall" in point.get("param", {}) and "error" not in point:
            reached.setdefault((point["filter"], point["param"]["recall"]), []).append(point["recall"])
    return [
        {"filter": task, "asked": asked, "reached": min(values)}
        for (task, asked), values in sorted(reached.items())
    ]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, columns aligned."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    for line in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """Return "12,345", or "-" for None."""
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def median_of(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return statistics.median(values) if values else None
