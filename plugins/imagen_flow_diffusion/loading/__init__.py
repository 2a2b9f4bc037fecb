"""Load a checkpoint, whole or in groups of parts, its own or another model's in their place."""
