"""A field of many rows as arrays: what filters evaluate, the memtable holds and shards store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vstore.types import Bools, FieldType, Int64s


@dataclass(frozen=True, slots=True)
class Column:
    """One field of n rows. A null row has `present` False and holds the type's zero (or no items).

    | type      | values                                  | offsets    | dictionary               |
    |-----------|-----------------------------------------|------------|--------------------------|
    | int       | int64[n]                                | None       | None                     |
    | float     | float64[n]                              | None       | None                     |
    | bool      | bool[n]                                 | None       | None                     |
    | datetime  | int64[n], microseconds since 1970 UTC   | None       | None                     |
    | str       | int32[n], index into dictionary         | None       | unique str, sorted       |
    | list[str] | int32[n_items], index into dictionary   | int64[n+1] | unique str, sorted       |
    | list[int] | int64[n_items]                          | int64[n+1] | None                     |

    The items of row i of a list are `values[offsets[i]:offsets[i + 1]]`. Strings sort by code point.
    Arrays are owned by the column and never written to.
    """

    type: FieldType
    present: Bools
    values: npt.NDArray[np.generic]
    offsets: Int64s | None = None
    dictionary: tuple[str, ...] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.present)
