"""Manifests and how they are committed: which collections exist, and what each is made of.

`layout` names of objects; `catalog` load, create, commit, drop; `invariants` what a commit may change, as
pure functions; `garbage` deletion of what no kept manifest names. Imports storage and format.
"""

from vstore.catalog.catalog import Catalog

__all__ = ["Catalog"]
