"""Build a shard from rows; open and read one."""
