"""Follow what lies on the disk: settled changes as an iterator, and graphs whose results are kept true."""

from .settled import Changes, changes, is_temporary

__all__ = ["Changes", "changes", "is_temporary"]
