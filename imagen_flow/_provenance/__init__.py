"""The provenance of outputs: its document, and how files carry it."""
