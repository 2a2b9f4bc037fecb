"""Graph files as written: words with their positions, and the cache of what was read."""
