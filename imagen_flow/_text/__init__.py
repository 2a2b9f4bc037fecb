"""Read graph files: words with their positions, and specs."""
