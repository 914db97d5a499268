"""Bytes to arrays and back. docs/FORMAT.md is the authority.

`frame` small checksummed objects; `manifest`, `log_record`, `dead_rows` what they hold; `shard_file` the
container of a shard; `columns`, `column_codec`, `rows`, `rows_codec` rows as arrays and as bytes.
Every decoder raises CorruptData or UnsupportedVersion, naming object, offset and reason.
Imports types, settings and errors only.
"""
