"""Locate the user's folders: one for data that can be recreated (`cache_folder`) and one for the
user's decisions (`config_folder`).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_folder", "config_folder"]


def cache_folder() -> Path:
    """Give the folder of stores, caches and tiny models."""
    import platformdirs

    return platformdirs.user_cache_path("imagen-flow", appauthor=False)


def config_folder() -> Path:
    """Give the folder of the list of trusted folders."""
    import platformdirs

    return platformdirs.user_config_path("imagen-flow", appauthor=False)
