"""A client of yaml-language-server, the server behind the YAML support of most editors, for tests."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Editor:
    """An editor with one file open."""

    def __init__(self, server: subprocess.Popen[bytes], file: Path) -> None:
        self.server = server
        self.uri = file.as_uri()
        self.numbers = itertools.count(1)
        self.versions = itertools.count(2)
        #: What the server said without being asked, in its order.
        self.notified: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.server.stdin is not None
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.server.stdin.flush()

    def receive(self) -> dict[str, Any]:
        stream = self.server.stdout
        assert stream is not None
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise EOFError("the language server has ended")
        found: dict[str, Any] = json.loads(stream.read(length))
        return found

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        number = next(self.numbers)
        self.send({"id": number, "method": method, "params": params})
        while True:
            message = self.receive()
            if "method" in message and "id" in message:  # the server asks; it gets defaults
                wanted = message.get("params", {}).get("items", [])
                self.send({"id": message["id"], "result": [None] * len(wanted) or None})
            elif "method" in message:
                self.notified.append(message)
            elif message.get("id") == number:
                assert "error" not in message, message
                return message.get("result")

    def write(self, text: str) -> None:
        """Replace the content of the file."""
        self.send(
            {
                "method": "textDocument/didChange",
                "params": {
                    "textDocument": {"uri": self.uri, "version": next(self.versions)},
                    "contentChanges": [{"text": text}],
                },
            }
        )

    def completed(self, text: str) -> dict[str, str]:
        """What is offered at the cursor, which stands where ``|`` is: labels with their help."""
        found = self.ask("textDocument/completion", self._at(text))
        items = found["items"] if isinstance(found, dict) else found or []
        return {item["label"]: _text(item.get("documentation")) for item in items}

    def hover(self, text: str) -> str:
        """What is shown for the word at ``|``."""
        found = self.ask("textDocument/hover", self._at(text))
        return _text(found["contents"]) if found else ""

    def marked(self, text: str) -> list[tuple[int, str]]:
        """What is wrong in a text: the line, from 1, and what the server says."""
        self.write(text)
        self.notified.clear()
        # Asked for nothing, it still answers in order, so what it found is known by then.
        while True:
            self.ask("textDocument/documentSymbol", {"textDocument": {"uri": self.uri}})
            for message in self.notified:
                if message["method"] == "textDocument/publishDiagnostics":
                    return [
                        (d["range"]["start"]["line"] + 1, d["message"])
                        for d in message["params"]["diagnostics"]
                    ]

    def _at(self, text: str) -> dict[str, Any]:
        before, _, after = text.partition("|")
        self.write(before + after)
        lines = before.split("\n")
        return {
            "textDocument": {"uri": self.uri},
            "position": {"line": len(lines) - 1, "character": len(lines[-1])},
        }


def _text(told: Any) -> str:
    return str(told.get("value", "")) if isinstance(told, dict) else str(told or "")


@contextmanager
def editing(program: Path, file: Path) -> Iterator[Editor]:
    """Run the server for a file, whose first line names its schema."""
    server = subprocess.Popen(
        [str(program), "--stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        editor = Editor(server, file)
        editor.ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        editor.send({"method": "initialized", "params": {}})
        editor.send(
            {
                "method": "textDocument/didOpen",
                "params": {
                    "textDocument": {
                        "uri": editor.uri,
                        "languageId": "yaml",
                        "version": 1,
                        "text": "",
                    }
                },
            }
        )
        yield editor
    finally:
        server.kill()
        server.wait()
        for stream in (server.stdin, server.stdout):
            if stream is not None:
                stream.close()
