"""Read graph files: words with their positions, specs, and the parse cache."""
