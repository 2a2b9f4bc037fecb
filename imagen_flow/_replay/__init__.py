"""Replay: run again what made a picture, from the provenance that the picture carries.

The modules, from the lowest floor up: `comparison` compares provenance documents; `rebuild`
rebuilds a graph from a document; `replay` plans and verifies.
"""
