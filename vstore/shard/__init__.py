"""Build a shard from rows; open and read one.

`space` where graph and clusters live; `builder` rows to a shard file; `sections` and `head` what is in it;
`reader` an open shard; `session` one query's hold on it; `payload` what a hit shows;
`threads` how many a step of a build takes.
Imports traverse, cache, format and storage.
"""
