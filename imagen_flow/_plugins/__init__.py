"""Plugins and the registry of node types."""
