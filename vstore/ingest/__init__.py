"""Log, memtable, flush and compaction: how rows get in."""
