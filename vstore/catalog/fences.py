"""The fence records that garbage collection keeps when it deletes the log around them.

A writer that was fenced while it slept puts its next record exactly where its successor's fence is.
Were the fence collected with the log before it, that put would succeed, and a write that no reader
ever sees would be acknowledged. So the manifest names the fences, and they outlive the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vstore.errors import CorruptData
from vstore.format.manifest import Manifest

PROPERTY: Final = "fences"
MAX_FENCES: Final = 256
"""The newest that are kept: a writer that this many others have replaced is taken for dead."""


def fences_of(manifest: Manifest) -> tuple[int, ...]:
    """Return the numbers of the fence records that the manifest names, ascending.

    Raises:
        CorruptData: the property is no list of numbers.
    """
    text = manifest.properties.get(PROPERTY, "")
    try:
        return tuple(int(seq) for seq in text.split())
    except ValueError:
        raise CorruptData(
            f"manifest {manifest.version} of collection {manifest.name!r}: fences are {text!r}, not numbers"
        ) from None


def with_fences(properties: Mapping[str, str], fences: Iterable[int]) -> dict[str, str]:
    """Return the manifest's properties with the newest of these fence records named."""
    newest = sorted(set(fences))[-MAX_FENCES:]
    return {**properties, PROPERTY: " ".join(str(seq) for seq in newest)}
