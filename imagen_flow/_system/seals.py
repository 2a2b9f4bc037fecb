"""Seal database rows, so that a row that was changed or exchanged for another is noticed.

A seal is a digest over everything that belongs together (a key and its outputs). With the user's
own secret it has a second part that nobody else can make: in a store that came with a folder from
elsewhere, only the rows that this user wrote are trusted.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import field
from hashlib import blake2b
from pathlib import Path

from .._system.dataclass import dataclass

__all__ = ["Seals", "read_secret"]

_SIZE = 16


@dataclass(frozen=True, slots=True)
class Seals:
    """Make and check the seals of rows.

    Params:
        secret: the user's own secret; without one, seals only detect damage.
        only_own: trust only rows that were sealed with this secret.
    """

    secret: bytes = field(default=b"", repr=False)
    only_own: bool = False

    def make(self, *parts: str | bytes) -> bytes:
        """Seal parts that belong together."""
        seal = _digest(parts)
        assert seal is not None
        return seal + self._signature(seal) if self.secret else seal

    def is_trusted(self, seal: object, *parts: object) -> bool:
        """Tell whether a seal matches these parts, of whatever type they are, and was made by
        somebody who is trusted.
        """
        return self.is_intact(seal, *parts) and (not self.only_own or self.is_own(seal))

    def is_intact(self, seal: object, *parts: object) -> bool:
        """Tell whether a seal matches these parts, whoever made it."""
        return type(seal) is bytes and seal[:_SIZE] == _digest(parts)

    def is_own(self, seal: object) -> bool:
        """Tell whether a seal was made with this secret."""
        return (
            bool(self.secret)
            and type(seal) is bytes
            and hmac.compare_digest(seal[_SIZE:], self._signature(seal[:_SIZE]))
        )

    def _signature(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self.secret, digest_size=_SIZE).digest()


def _digest(parts: tuple[object, ...]) -> bytes | None:
    """Digest parts with their types and lengths; None if one is neither text nor bytes."""
    # One pass and one hash: this runs for every step that is looked up.
    text = ""
    for part in parts:
        if type(part) is str:
            text += f"{len(part)}:{part}"
        elif type(part) is bytes:
            text += f"b{len(part)}:{part.decode('latin-1')}"
        else:
            return None
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest()


def read_secret(path: Path) -> bytes:
    """Read the user's secret from a file that only the user can access; create it if it is missing.
    Returns no bytes if that is impossible.
    """
    for _ in range(2):
        try:
            handle = os.open(
                path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            )
        except FileNotFoundError:
            _create_secret(path)
            continue
        except OSError:
            return b""
        with open(handle, "rb") as stream:
            status = os.fstat(handle)
            # A file that others could have read or planted holds no secret.
            if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
                return b""
            secret = stream.read(33)
        return secret if len(secret) == 32 else b""
    return b""


def _create_secret(path: Path) -> None:
    temporary = path.with_name(f".{path.name}-{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600
        )
        with open(handle, "wb") as stream:
            stream.write(os.urandom(32))
        try:
            os.link(temporary, path)  # the first process wins
        except OSError:
            if not os.path.lexists(path):
                os.replace(temporary, path)
        temporary.unlink(missing_ok=True)
    except OSError:
        return
