"""Counters, gauges and histograms, and Prometheus's text format 0.0.4 for them.

A search records a dozen numbers; under one lock, with children looked up once, that takes some microseconds.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of a latency."""
MAX_CHILDREN = 500
"""Label values that come after so many are counted as "other": a caller must not be able to fill memory."""

Labels = tuple[str, ...]
Sample = tuple[str, Sequence[tuple[str, str]], float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what it means, its kind and the names of its labels."""

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels = ()


class Counter:
    """Numbers that only grow, one for each combination of label values. Not thread-safe by itself."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._values: dict[Labels, float] = {}

    def add(self, amount: float, *values: str) -> None:
        """Add to the child of these label values."""
        key = _bounded(self._values, values)
        self._values[key] = self._values.get(key, 0.0) + amount

    def samples(self) -> Iterator[Sample]:
        """Yield every child's number."""
        for values, number in sorted(self._values.items()):
            yield self.family.name, list(zip(self.family.labels, values, strict=True)), number


class Histogram:
    """How often a quantity in seconds fell under each bound, one for each combination of label values."""

    def __init__(self, family: Family, bounds: Sequence[float] = SECONDS) -> None:
        self.family = family
        self._bounds = tuple(bounds)
        self._children: dict[Labels, list[float]] = {}

    def observe(self, seconds: float, *values: str) -> None:
        """Count one quantity in the child of these label values."""
        self.observe_all((seconds,), *values)

    def observe_all(self, seconds: Iterable[float], *values: str) -> None:
        """Count quantities in the child of these label values."""
        key = _bounded(self._children, values)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = [0.0] * (len(self._bounds) + 2)
        for one in seconds:
            child[bisect_left(self._bounds, one)] += 1
            child[-1] += one

    def samples(self) -> Iterator[Sample]:
        """Yield buckets, sum and count of every child."""
        name = self.family.name
        for values, child in sorted(self._children.items()):
            labels = list(zip(self.family.labels, values, strict=True))
            n = 0.0
            for bound, count in zip((*self._bounds, float("inf")), child[:-1], strict=True):
                n += count
                yield f"{name}_bucket", [*labels, ("le", _number(bound))], n
            yield f"{name}_sum", labels, child[-1]
            yield f"{name}_count", labels, n


class Registry:
    """The metrics of a server. Thread-safe through its one lock, which who records holds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._kept: list[Counter | Histogram] = []
        self._asked: list[tuple[Family, Callable[[], Iterable[tuple[Labels, float]]]]] = []
        self.before_text: Callable[[], None] = lambda: None
        """Called, with the lock held, before anything is read."""

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        """Make a counter."""
        made = Counter(Family(name, help, "counter", labels))
        self._kept.append(made)
        return made

    def histogram(self, name: str, help: str, *labels: str) -> Histogram:
        """Make a histogram of seconds."""
        made = Histogram(Family(name, help, "histogram", labels))
        self._kept.append(made)
        return made

    def ask(self, family: Family, values: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Have a metric's values asked for at each reading: of what is counted elsewhere."""
        self._asked.append((family, values))

    @property
    def families(self) -> list[Family]:
        """Every metric there is."""
        return [*(kept.family for kept in self._kept), *(family for family, _ in self._asked)]

    def text(self) -> str:
        """Return every metric in Prometheus's text format."""
        lines: list[str] = []
        with self.lock:
            self.before_text()
            kept = [(one.family, list(one.samples())) for one in self._kept]
        for family, ask in self._asked:
            labelled = [(list(zip(family.labels, values, strict=True)), number) for values, number in ask()]
            kept.append((family, [(family.name, labels, number) for labels, number in labelled]))
        for family, samples in kept:
            lines += [f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}"]
            lines += [_line(*sample) for sample in samples]
        return "\n".join(lines) + "\n"


def _bounded(children: dict[Labels, float] | dict[Labels, list[float]], values: Labels) -> Labels:
    if values in children or len(children) < MAX_CHILDREN:
        return values
    return ("other",) * len(values)


def _line(name: str, labels: Sequence[tuple[str, str]], number: float) -> str:
    inside = ",".join(f'{label}="{_escaped(value, quotes=True)}"' for label, value in labels)
    return f"{name}{{{inside}}} {_number(number)}" if inside else f"{name} {_number(number)}"


def _number(number: float) -> str:
    if number == float("inf"):
        return "+Inf"
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def _escaped(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
