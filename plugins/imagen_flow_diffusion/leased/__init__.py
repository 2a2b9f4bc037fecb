"""What nodes lease of a checkpoint, whole or in groups of parts, and what is put on it for a while."""
