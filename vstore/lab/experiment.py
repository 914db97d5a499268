"""An experiment as a file: what is run over what, in TOML. docs/LAB.md lists every key."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vstore.errors import InvalidSetting, nearest
from vstore.lab import parts
from vstore.lab.replay import CacheChoice, ReadRule
from vstore.lab.stores import Empirical, Fixed, LogNormal, StoreModel, preset
from vstore.lab.workload import Workload
from vstore.settings import require

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """A traversal and its width.

    Raises:
        InvalidSetting: a width below 1.
    """

    traversal: str
    """A shipped one, or "file.py:name", the file beside the experiment's."""
    ef: int = 64
    n_seeds: int = 256
    n_predicted: int = 16
    lookahead: int = 0
    """Beam entries that a stop asks for; 0: all."""

    def __post_init__(self) -> None:
        least = min(self.ef, self.n_seeds, self.n_predicted + 1, self.lookahead + 1)
        require(
            least >= 1,
            f"{self}: ef and n_seeds must be 1 or more, n_predicted and lookahead 0 or more",
        )

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.traversal.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """How the graph is built and laid out."""

    M: int = 16
    ef_construction: int = 200
    bits: int = 8
    cluster_rows: int = 512
    block_shift: int = 8
    """log2 of the rows of a block of lists, and of codes."""
    order: str = "cluster"
    """A shipped one, or "file.py:name"."""
    layout: str = "separate"


@dataclass(frozen=True, slots=True)
class Cell:
    """One unit of work: an index, a workload, a seed. All policies, caches and stores run over it."""

    data: dict[str, Any]
    index: IndexChoice
    workload: Workload
    seed: int


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says."""

    name: str
    title: str
    folder: Path
    n_queries: int
    n_clients: int
    k: int
    cells: tuple[Cell, ...]
    policies: tuple[Policy, ...]
    caches: tuple[CacheChoice, ...]
    stores: tuple[StoreModel, ...]
    reads: ReadRule
    drawings: int = 0
    """Queries that the report draws as they walked, under the first cell's workload."""
    text: dict[str, Any] = field(default_factory=dict)
    """The file's own content."""


_TOP = {
    "name", "title", "seeds", "queries", "clients", "k", "data", "index", "workload", "policy", "cache",
    "store", "stores", "reads", "drawings",
}  # fmt: skip


def read_experiment(path: str | Path) -> Experiment:
    """Read an experiment file.

    Any key of [index], [[workload]] and [[policy]] may be a list: each value is tried with each other one's.

    Raises:
        InvalidSetting: it is not TOML, or a key or value is not one that an experiment has; the message says
            which, and the known ones.
    """
    path = Path(path)
    try:
        text = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InvalidSetting(f"experiment {path} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"{path} is no TOML: {error}") from None
    _known("the experiment", text, _TOP)
    seeds = text.get("seeds", [0])
    indexes = _grid(IndexChoice, [text.get("index", {})], "index")
    workloads = _grid(Workload, text.get("workload", [{}]), "workload")
    data = text.get("data", [{"kind": "clustered"}])
    tables = [_located(table, path.parent) for table in (data if isinstance(data, list) else [data])]
    cells = itertools.product(tables, indexes, workloads, seeds)
    stores = [preset(name) for name in text.get("stores", [])]
    stores += [_store(table, path.parent) for table in text.get("store", [])]
    policies = _grid(Policy, text.get("policy", []), "policy")
    require(bool(policies), f"{path} names no [[policy]]: nothing would run")
    caches = [_cache(cache) for cache in text.get("cache", [{}])]
    for kind, names in (("cache", [c.name for c in caches]), ("store", [s.name for s in stores])):
        require(len(set(names)) == len(names), f"{path}: two of [[{kind}]] have one name: {names}")
    for policy in policies:
        parts.traversal_of(policy.traversal, path.parent)
    for index in indexes:
        parts.order_of(index.order, path.parent)
        parts.layout_of(index.layout, path.parent)
    for cache in caches:
        parts.cache_of(cache, path.parent)
    counts = {key: text.get(key, default) for key, default in (("queries", 100), ("clients", 1), ("k", 10))}
    require(min(counts.values()) >= 1, f"{path}: {counts}; each must be 1 or more")
    return Experiment(
        text.get("name", path.stem),
        text.get("title", path.stem),
        path.parent,
        counts["queries"],
        counts["clients"],
        counts["k"],
        tuple(Cell(*cell) for cell in cells),
        tuple(policies),
        tuple(caches),
        tuple(stores) or (preset("free"),),
        _make(ReadRule, text.get("reads", {}), "reads"),
        text.get("drawings", 0),
        text,
    )


def _known(where: str, table: dict[str, Any], names: set[str]) -> None:
    for key in table:
        if key not in names:
            raise InvalidSetting(
                f"{where} has no key {key!r}{nearest(key, names)}; known are {', '.join(sorted(names))}"
            )


def _make(kind: type[T], table: dict[str, Any], where: str) -> T:
    _known(f"[{where}]", table, {f.name for f in dataclasses.fields(kind)})  # type: ignore[arg-type]
    try:
        return kind(**table)
    except TypeError as error:
        raise InvalidSetting(f"[{where}]: {error}") from None


def _grid(kind: type[T], tables: list[dict[str, Any]], where: str) -> list[T]:
    """Return one object for each choice of one value for every key that has a list."""
    found: list[T] = []
    for table in tables:
        choices = [value if isinstance(value, list) else [value] for value in table.values()]
        tried = itertools.product(*choices)
        found += [_make(kind, dict(zip(table, values, strict=True)), where) for values in tried]
    return found


def _located(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the table with its `path`, where it has one, as seen from here: it is the experiment's."""
    return {key: str(folder / value) if key == "path" else value for key, value in table.items()}


def _cache(table: dict[str, Any]) -> CacheChoice:
    arguments = {**table, "pinned": tuple(table.get("pinned", ()))}
    return _make(CacheChoice, arguments, "cache")


def _store(table: dict[str, Any], folder: Path) -> StoreModel:
    arguments = dict(table)
    latency = arguments.pop("latency", {"kind": "fixed", "ms": 0.0})
    kinds = {"fixed": Fixed, "log_normal": LogNormal}
    kind = latency.get("kind")
    rest = {key: value for key, value in latency.items() if key != "kind"}
    if kind == "empirical":
        arguments["latency"] = Empirical.read(_located(rest, folder).get("path", ""))
    elif kind in kinds:
        arguments["latency"] = _make(kinds[kind], rest, "store.latency")
    else:
        raise InvalidSetting(f"latency kind {kind!r} is none of fixed, log_normal, empirical")
    return _make(StoreModel, arguments, "store")
