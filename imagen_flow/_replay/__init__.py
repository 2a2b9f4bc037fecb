"""A picture back into a run."""
