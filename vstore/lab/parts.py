"""Finds parts by name: shipped ones, or those of a file beside the experiment."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vstore.cache.policies import ADMISSIONS, EVICTIONS, PREFETCHES
from vstore.errors import InvalidSetting, nearest
from vstore.lab.layouts import LAYOUTS, Layout
from vstore.lab.orders import ORDERS, Order
from vstore.lab.planners import PLANNED
from vstore.lab.replay import CacheChoice
from vstore.lab.walks import TRAVERSALS, LabTraversal


def part_of(kind: str, name: str, folder: Path, known: Mapping[str, Any]) -> Any:
    """Return a part: one of `known`, or "file.py:name" with the file in `folder`.

    Args:
        kind: what it is, for messages.
        name: the part's.
        folder: the experiment's.
        known: the shipped ones.

    Raises:
        InvalidSetting: there is none.
    """
    file, _, attribute = name.rpartition(":")
    if not file:
        if name not in known:
            raise InvalidSetting(
                f"{kind} {name!r} is none of {', '.join(known)}{nearest(name, known)}; "
                "one of your own is named file.py:name"
            )
        return known[name]
    module = _module(folder / file)
    if not hasattr(module, attribute):
        raise InvalidSetting(f"{kind} {name!r}: {file} has no {attribute!r}")
    return getattr(module, attribute)


def traversal_of(name: str, folder: Path) -> LabTraversal:
    """Return a traversal by name; raises as `part_of`."""
    traversal: LabTraversal = part_of("traversal", name, folder, {**TRAVERSALS, **PLANNED})
    return traversal


def order_of(name: str, folder: Path) -> Order:
    """Return an id order by name; raises as `part_of`."""
    order: Order = part_of("order", name, folder, ORDERS)
    return order


def layout_of(name: str, folder: Path) -> Layout:
    """Return a layout by name; raises as `part_of`."""
    layout: Layout = part_of("layout", name, folder, LAYOUTS)
    return layout


def cache_of(choice: CacheChoice, folder: Path) -> CacheChoice:
    """Return a cache whose policies are found; raises as `part_of`."""
    found = {
        kind: part_of(kind, name, folder, known)
        for kind, known in (("eviction", EVICTIONS), ("admission", ADMISSIONS), ("prefetch", PREFETCHES))
        if isinstance(name := getattr(choice, kind), str)
    }
    return dataclasses.replace(choice, **found)


@functools.cache
def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InvalidSetting(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
