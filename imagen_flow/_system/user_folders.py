"""Know the folders of this user on this machine: what can be made again (`cache_folder`), and what
was decided (`config_folder`).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["cache_folder", "config_folder"]


def cache_folder() -> Path:
    """Say where stores, memos and small models are kept."""
    import platformdirs

    return platformdirs.user_cache_path("imagen-flow", appauthor=False)


def config_folder() -> Path:
    """Say where it is kept what the user trusts."""
    import platformdirs

    return platformdirs.user_config_path("imagen-flow", appauthor=False)
