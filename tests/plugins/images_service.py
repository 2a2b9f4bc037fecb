"""A service on this machine that speaks the protocol of OpenAI's images API, for tests."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import PIL.Image

USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 12},
    "output_tokens": 1056,
    "total_tokens": 1068,
}


def png(color: tuple[int, ...] = (200, 30, 40), size: tuple[int, int] = (8, 6)) -> bytes:
    out = BytesIO()
    PIL.Image.new("RGB" if len(color) == 3 else "RGBA", size, color).save(out, "PNG")
    return out.getvalue()


def drawn(content: bytes, **more: Any) -> dict[str, Any]:
    """The service's answer with a picture."""
    return {"created": 1, "data": [{"b64_json": base64.b64encode(content).decode()}], **more}


@dataclass
class Asked:
    """A request as the service saw it: fields by name; files with their content."""

    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    files: dict[str, list[bytes]] = field(default_factory=dict)


@dataclass
class Answer:
    """What to answer: a status, headers, and a body; an iterator is sent piece by piece, without an
    end stated.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Service:
    """A running service: what it was asked, and its address."""

    asked: list[Asked]
    url: str


@contextmanager
def running(answer: Callable[[int, Asked], Answer]) -> Iterator[Service]:
    """Run a service that answers the k-th request (from 0) as a function says."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Asked(
                self.path,
                {k.lower(): v for k, v in self.headers.items()},
                *_read(self.headers, body),
            )
            asked.append(request)
            given = answer(len(asked) - 1, request)
            content = given.body
            if isinstance(content, dict):
                content = json.dumps(content).encode()
            self.send_response(given.status)
            for name, value in {"Content-Type": "application/json", **given.headers}.items():
                self.send_header(name, value)
            pieces = [content] if isinstance(content, bytes) else content
            if isinstance(content, bytes):
                self.send_header("Content-Length", str(len(content)))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(piece)
            except OSError:  # the client has heard enough
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Service(asked, f"http://127.0.0.1:{server.server_address[1]}/v1")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read(headers: Any, body: bytes) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    kind = headers.get("Content-Type", "")
    if not kind.startswith("multipart/"):
        return json.loads(body), {}
    boundary = kind.partition("boundary=")[2].encode()
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        assert name is not None
        text = name[1].decode()
        if b"filename=" in head:
            files.setdefault(text, []).append(content.removesuffix(b"\r\n"))
        else:
            fields[text] = content.removesuffix(b"\r\n").decode()
    return fields, files
