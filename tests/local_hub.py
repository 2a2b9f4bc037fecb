"""A hub on this machine: it speaks as much of the hub's protocol as fetching a model takes, and can
be told to misbehave.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit


@dataclass
class Repository:
    """A repository: files by revision. What ends in one of `large` is kept apart, as with Git LFS,
    and is served by way of a redirect.
    """

    revisions: dict[str, dict[str, bytes]]
    license: str = "apache-2.0"
    #: Whether its owners must have let one in: to see it at all, or as on the real hub only to its
    # ``files``.
    gated: bool | str = False
    token: str = ""
    large: tuple[str, ...] = (".safetensors", ".bin", ".gguf")


@dataclass
class Hub:
    """The server's repositories, its faults, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    #: Transfers of files that end so break off after so many bytes, so many times.
    torn: dict[str, list[int]] = field(default_factory=dict)
    #: Content that is sent in place of a file's.
    swapped: dict[str, bytes] = field(default_factory=dict)
    #: Seconds to wait between two blocks of a transfer.
    slow_s: float = 0.0
    #: Status of every answer of the interface, when set.
    status: int = 0
    #: What such an answer asks to wait, in seconds.
    retry_after: str = ""
    #: Changes what it says of a repository before it is sent; a text is sent as it is.
    saying: Callable[[dict[str, Any]], Any] = lambda said: said
    asked: list[tuple[str, str, str, str]] = field(
        default_factory=list
    )  # method, path, Range, Authorization
    url: str = ""

    def commit(self, repository: str, revision: str) -> str:
        return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()

    def transfers(self) -> list[tuple[str, str]]:
        """Path and Range of what was fetched in earnest, and not for a file's header alone."""
        return [
            (path, range_)
            for method, path, range_, _ in self.asked
            if method == "GET" and path.startswith("/cdn/") and not range_.startswith("bytes=0-")
        ]


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Serve a hub and give its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(
                (
                    self.command,
                    path,
                    self.headers.get("Range", ""),
                    self.headers.get("Authorization", ""),
                )
            )
            if hub.status and not path.startswith("/cdn/"):
                self.send(
                    hub.status,
                    b"{}",
                    {"Retry-After": hub.retry_after} if hub.retry_after else {},
                    body=body,
                )
                return
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                self.about(found[1], found[2], body)
            elif found := re.fullmatch(
                r"(/api/resolve-cache)?/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path
            ):
                self.file(found[2], found[3], found[4], body, redirected=bool(found[1]))
            elif found := re.fullmatch(r"/cdn/([0-9a-f]+)/(.+)", path):
                self.content(found[2], found[1], body)
            else:
                self.send(404, b"", body=body)

        def repository(
            self, name: str, revision: str, body: bool, *, files: bool = True
        ) -> tuple[str, dict[str, bytes]] | None:
            held = hub.repositories.get(name)
            if held is None:
                self.send(401, b"", {"X-Error-Code": "RepoNotFound"}, body=body)
                return None
            if (
                held.token
                and (files or held.gated != "files")
                and self.headers.get("Authorization") != f"Bearer {held.token}"
            ):
                self.send(
                    401 if not self.headers.get("Authorization") else 403,
                    b"",
                    {"X-Error-Code": "GatedRepo" if held.gated else "RepoNotFound"},
                    body=body,
                )
                return None
            for known, files in held.revisions.items():
                if revision in (known, hub.commit(name, known)):
                    return known, files
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)
            return None

        def about(self, name: str, revision: str, body: bool) -> None:
            found = self.repository(name, revision, body, files=False)
            if found is None:
                return
            known, files = found
            held = hub.repositories[name]
            siblings = []
            for file, content in sorted(files.items()):
                entry: dict[str, object] = {
                    "rfilename": file,
                    "size": len(content),
                    "blobId": git_digest(content),
                }
                if file.endswith(held.large):
                    entry["lfs"] = {
                        "size": len(content),
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "pointerSize": 130,
                    }
                siblings.append(entry)
            said = {
                "id": name,
                "sha": hub.commit(name, known),
                "siblings": siblings,
                "tags": [f"license:{held.license}"],
                "gated": bool(held.gated),
                "cardData": {"license": held.license},
            }
            told = hub.saying(said)
            self.send(
                200,
                told.encode() if isinstance(told, str) else json.dumps(told).encode(),
                {"Content-Type": "application/json"},
                body=body,
            )

        def file(
            self, name: str, revision: str, file: str, body: bool, *, redirected: bool
        ) -> None:
            found = self.repository(name, revision, body)
            if found is None:
                return
            known, files = found
            if file not in files:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
                return
            content = files[file]
            more = {"X-Repo-Commit": hub.commit(name, known)}
            if file.endswith(hub.repositories[name].large):
                digest = hashlib.sha256(content).hexdigest()
                where = hub.url.replace(
                    "127.0.0.1", "localhost"
                )  # another host, as the real one has
                self.send(
                    302,
                    b"",
                    {
                        **more,
                        "X-Linked-Etag": f'"{digest}"',
                        "X-Linked-Size": str(len(content)),
                        "Location": f"{where}/cdn/{digest}/{file}",
                    },
                    body=body,
                )
            elif not redirected:
                self.send(
                    307,
                    b"",
                    {
                        **more,
                        "Location": f"/api/resolve-cache/{name}/resolve/{revision}/{quote(file)}",
                    },
                    body=body,
                )
            else:
                self.send(
                    200,
                    hub.swapped.get(file, content),
                    {**more, "ETag": f'"{git_digest(content)}"'},
                    body=body,
                )

        def content(self, file: str, digest: str, body: bool) -> None:
            held = (
                content
                for repository in hub.repositories.values()
                for files in repository.revisions.values()
                for content in files.values()
            )
            content = hub.swapped.get(file) or next(
                c for c in held if hashlib.sha256(c).hexdigest() == digest
            )
            start = (
                int(found[1])
                if (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")))
                else 0
            )
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            if not body:
                return
            rest = content[start:]
            if cuts := hub.torn.get(file):
                rest = rest[: cuts.pop(0)]
                self.close_connection = True
            for at in range(0, len(rest), 4096):
                self.wfile.write(rest[at : at + 4096])
                if hub.slow_s:
                    self.wfile.flush()
                    time.sleep(hub.slow_s)

        def send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str] | None = None,
            *,
            body: bool = True,
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):
                pass  # the other side was killed

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
