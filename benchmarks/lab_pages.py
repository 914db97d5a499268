"""The tables of the filter grid's page, from its results: recall by filter, and what the way there costs.

    python -m benchmarks.lab_pages            # writes them into docs/lab/grid.md
    python -m benchmarks.lab_pages --check    # says whether they are there already

After `vstore lab run docs/lab/grid.toml` (and `grid_1m.toml`), whose tables belong into docs/lab/results.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from vstore.lab.plots import Table
from vstore.lab.report import read_rows

LAB = Path(__file__).parents[1] / "docs" / "lab"
GRIDS = {"100,000 rows": "grid.csv", "1,000,000 rows": "grid_1m.csv"}
CORRELATIONS = ("near", "none", "far")
SHOWN = (("near", 0.2), ("none", 0.01), ("far", 0.05))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    page = LAB / "grid.md"
    old = page.read_text()
    new = filled(old, {name: read_rows(LAB / "results" / file) for name, file in GRIDS.items()})
    if not asked.check:
        page.write_text(new)
        return 0
    print("up to date" if new == old else f"{page} is not what its results say: run this without --check")
    return int(new != old)


def filled(page: str, grids: dict[str, Table]) -> str:
    """Return the page with its tables, which stand in this order, made anew."""
    made = [*(recall_table(table) for table in grids.values()), cost_table(grids)]
    tables = iter(made)
    found, n = re.subn(r"(?m)^\| traversal .*\n(?:\|.*\n)+", lambda _: next(tables), page, count=len(made))
    assert n == len(made), f"the page has {n} tables of traversals, not {len(made)}"
    return found


def recall_table(rows: Table) -> str:
    """Return recall of each traversal but the exact one, a column for each correlation."""
    lines = [f"| traversal | {' | '.join(CORRELATIONS)} |", "| --- | --- | --- | --- |"]
    for policy in policies_of(rows):
        if policy == "exact":
            continue
        cells = []
        for correlation in CORRELATIONS:
            of = [row for row in rows if row["policy"] == policy and row["correlation"] == correlation]
            values = [short(row["recall"]) for row in sorted(of, key=lambda row: -row["selectivity"])]
            cells.append("1.00 in all" if set(values) == {"1.00"} else " ".join(values))
        lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cost_table(grids: dict[str, Table]) -> str:
    """Return round trips and dollars for 1,000 queries of each traversal in three filters of each grid."""
    lines = [f"| traversal | {' | '.join(grids)} |", "| --- |" + " --- |" * len(grids)]
    for policy in dict.fromkeys(name for rows in grids.values() for name in policies_of(rows)):
        cells = []
        for rows in grids.values():
            at = {(r["correlation"], r["selectivity"]): r for r in rows if r["policy"] == policy}
            shown = [f"{at[k]['n_round_trips']:,.0f}, {at[k]['usd_per_1000']:.3f}" for k in SHOWN if k in at]
            cells.append(" / ".join(shown) or "not run")
        lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def policies_of(rows: Table) -> list[str]:
    """Return the policies in the order in which they ran."""
    return list(dict.fromkeys(row["policy"] for row in rows))


def short(share: float) -> str:
    """Return a share with two digits, as `.97` or `1.00`."""
    return f"{share:.2f}".removeprefix("0")


if __name__ == "__main__":
    sys.exit(main())
