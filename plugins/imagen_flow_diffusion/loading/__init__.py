"""Load checkpoints, whole or in groups of parts, and parts of other models instead of their own."""
