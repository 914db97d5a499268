"""From a query to hits with a receipt: plan, traverse, re-score, merge.

`request` what is asked; `planner` which traversal and why; `pipeline` one shard's part of an answer, as a
generator of the blocks it lacks; `rounds` drives many pipelines in parallel rounds; `search` merges.
Where everything is in memory: `resident` one kernel call a shard; `answers` one answer; `batch` many.
Imports everything below ingest; re-ranking happens above, on what this returns.
"""
