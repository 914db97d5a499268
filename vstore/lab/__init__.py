"""The lab: filter-aware traversal as an experiment. docs/LAB.md walks through it.

`stores` in virtual time; `index`, `orders`, `layouts` and `graph` what is searched; `expand` compiles an
expansion of one's own into the resumable search, `expansions` and `walks` have the published ones; `driver`
runs a query, `trace` keeps it, `replay` serves it through caches from stores.
"""
