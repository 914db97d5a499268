"""Looking after a store: verify what it holds, export a collection, import it again.

`report` what a verification found; `verify` a collection's manifests, log and dead rows; `shard_check` one
shard; `export` and `importing` a collection as a folder of plain files.
Imports collection, shard, ingest and catalog.
"""

from vstore.upkeep.report import Problem, VerifyReport

__all__ = ["Problem", "VerifyReport"]
