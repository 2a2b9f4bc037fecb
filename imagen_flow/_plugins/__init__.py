"""Discover plugins and build the registry of node types."""
