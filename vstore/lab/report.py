"""One HTML page of an experiment that needs nothing beside it: pictures inside, and the table."""

from __future__ import annotations

import base64
import csv
import html
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from vstore.errors import InvalidInput
from vstore.lab.drawing import drawings
from vstore.lab.experiment import Experiment
from vstore.lab.plots import Picture, Table, label, pictures

_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:3px 9px;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "img{max-width:100%}figcaption{color:#555;font-size:13px}pre{background:#f6f6f6;padding:1em;overflow:auto}"
)
_COLUMNS: Final = (
    "recall", "n_distances", "n_filter_checks", "n_lists", "n_rounds", "n_round_trips", "n_requests",
    "bytes_fetched", "hit_rate", "usd_per_1000", "latency_p50_ms", "latency_p99_ms",
)  # fmt: skip


def read_table(out: Path) -> Table:
    """Return the table that `run` wrote; numbers are numbers again.

    Raises:
        InvalidInput: there is none.
    """
    path = out / "table.csv"
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist: run the experiment first, with the same --out")
    return read_rows(path)


def read_rows(path: Path) -> Table:
    """Return the rows of a table's file; numbers are numbers again."""
    with path.open(newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def write_pictures(experiment: Experiment, out: Path) -> list[Path]:
    """Draw everything and write each picture to `out`/plots; return the files."""
    folder = out / "plots"
    folder.mkdir(exist_ok=True)
    paths = []
    for picture in _all_pictures(experiment, out):
        paths.append(folder / f"{picture.name}.png")
        paths[-1].write_bytes(picture.png)
    return paths


def write_report(experiment: Experiment, out: Path) -> Path:
    """Write `out`/report.html and return its path."""
    table = read_table(out)
    facts = json.loads((out / "facts.json").read_text())
    shown = "".join(
        f'<figure><img alt="" src="data:image/png;base64,{base64.b64encode(picture.png).decode()}">'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in _all_pictures(experiment, out)
    )
    title = html.escape(experiment.title)
    made = {key: facts[key] for key in ("commit", "versions", "python", "machine")}
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{_sizes(table)}</p>{shown}<h2>Means over the workloads</h2>{_summary(table)}"
        f"<h2>The experiment</h2><pre>{html.escape(json.dumps(facts['experiment'], indent=2))}</pre>"
        f"<h2>Made by</h2><pre>{html.escape(json.dumps(made, indent=2))}</pre></html>\n"
    )
    path = out / "report.html"
    path.write_text(page)
    return path


def _all_pictures(experiment: Experiment, out: Path) -> list[Picture]:
    return pictures(read_table(out)) + drawings(experiment, out)


def _sizes(table: Table) -> str:
    data = ", ".join(dict.fromkeys(f"{row['data']} {row['n']:,} x {row['d']}" for row in table))
    workloads = len({row["workload"] for row in table})
    return html.escape(f"{data}; {workloads} workloads, {table[0]['n_queries']} queries in each.")


def _summary(table: Table) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("policy", "cache", "store", *_COLUMNS))
    groups: dict[tuple[str, str, str], Table] = {}
    for row in table:
        groups.setdefault((label(row, table), row["cache"], row["store"]), []).append(row)
    shown, others = "", ""
    for names, rows in groups.items():
        means = [float(np.mean([row[column] for row in rows])) for column in _COLUMNS]
        cells = [*(html.escape(name) for name in names), *(f"{value:,.4g}" for value in means)]
        line = "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        if names[1] == table[0]["cache"]:
            shown += line
        else:
            others += line
    whole = f"<table><tr>{head}</tr>{shown}</table>"
    if others:
        whole += (
            f"<details><summary>The other caches</summary><table><tr>{head}</tr>{others}</table></details>"
        )
    return whole


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
