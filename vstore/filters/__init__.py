"""Filter language to bitmaps."""
