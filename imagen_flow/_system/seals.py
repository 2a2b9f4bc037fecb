"""Bind a row of a database to what it stands for, so that one that was changed, or that stands in
the place of another, is noticed.

A seal is a digest over all that belongs together (a key, and what it gave). With the user's own
secret there is a second part, which nobody else can make: a store that came along
with a folder from elsewhere is believed only as far as this user wrote it.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

__all__ = ["Seals", "read_secret"]

_SIZE = 16


@dataclass(frozen=True, slots=True)
class Seals:
    """How rows are sealed, and which seals hold.

    Params:
        secret: the user's own; empty makes seals that only find damage.
        only_own: believe nothing but what was sealed with this secret.
    """

    secret: bytes = field(default=b"", repr=False)
    only_own: bool = False

    def make(self, *parts: str | bytes) -> bytes:
        """Seal parts that belong together."""
        seal = _digest(parts)
        return (
            seal + blake2b(seal, key=self.secret, digest_size=_SIZE).digest()
            if self.secret
            else seal
        )

    def holds(self, seal: object, *parts: object) -> bool:
        """Tell whether parts, of whatever type they are, belong together as they did when they were
        sealed.
        """
        return self.is_whole(seal, *parts) and (not self.only_own or self.is_own(seal))

    def is_whole(self, seal: object, *parts: object) -> bool:
        """Tell whether a seal, anybody's, is over these parts."""
        for part in parts:
            if type(part) is not str and type(part) is not bytes:
                return False
        return type(seal) is bytes and seal[:_SIZE] == _digest(parts)  # type: ignore[arg-type]

    def is_own(self, seal: object) -> bool:
        """Tell whether a seal was made with this secret."""
        return (
            bool(self.secret)
            and type(seal) is bytes
            and hmac.compare_digest(
                seal[_SIZE:], blake2b(seal[:_SIZE], key=self.secret, digest_size=_SIZE).digest()
            )
        )


def _digest(parts: tuple[str | bytes, ...]) -> bytes:
    # At one stroke: this is done for every step that is looked up.
    text = "".join(
        [
            f"b{len(part)}:{part.decode('latin-1')}"
            if isinstance(part, bytes)
            else f"{len(part)}:{part}"
            for part in parts
        ]
    )
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest()


def read_secret(path: Path) -> bytes:
    """Give the secret that lies in a file that is the user's alone; it is drawn when there is none.
    Empty if that cannot be.
    """
    for _ in range(2):
        try:
            handle = os.open(
                path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            )
        except FileNotFoundError:
            _draw(path)
            continue
        except OSError:
            return b""
        with open(handle, "rb") as stream:
            found = os.fstat(handle)
            # One that others could have read or put there is nobody's secret.
            if os.name == "posix" and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
                return b""
            secret = stream.read(33)
        return secret if len(secret) == 32 else b""
    return b""


def _draw(path: Path) -> None:
    aside = path.with_name(f".{path.name}-{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600
        )
        with open(handle, "wb") as stream:
            stream.write(os.urandom(32))
        try:
            os.link(aside, path)  # the first that gets there wins
        except OSError:
            if not os.path.lexists(path):
                os.replace(aside, path)
        aside.unlink(missing_ok=True)
    except OSError:
        return
