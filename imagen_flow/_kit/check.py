"""Check a plugin by trying it in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._plugins.registry import discover
from .._system.dataclass import dataclass
from ..errors import ImagenFlowError, nearest
from .findings import Finding

__all__ = ["Report", "check", "plugins_named"]

#: How long a trial may take, in seconds.
LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found: the node types that were tried, and the findings."""

    plugin: str
    nodes: tuple[str, ...]
    findings: tuple[Finding, ...]


def check(plugin: str, *, files: Sequence[Path] = (), limit_s: float = LIMIT_S) -> Report:
    """Check a plugin: try it in two processes that hash differently, and compare what they give.

    Params:
        plugin: its name as ``imagen-flow nodes`` shows it, or its distribution if that has one
            plugin; that of a local file is its path.
        files: local plugin files to load.
        limit_s: how long each process may take.
    Raises:
        ImagenFlowError: no plugin or several have this name.
    """
    if not files:
        plugin, *others = plugins_named(plugin)
        if others:
            raise ImagenFlowError(f"name one of the plugins: {', '.join([plugin, *others])}")
    with tempfile.TemporaryDirectory(prefix="imagen-flow-") as folder:
        trials = [_start(Path(folder) / seed, plugin, files, seed) for seed in ("1", "2")]
        until = time.monotonic() + limit_s
        told = [
            _told(process, at, max(0.0, until - time.monotonic())) or _late(limit_s)
            for process, at in trials
        ]
    findings = {Finding(*found) for result in told for found in result["findings"]}
    first, second = (result["digests"] for result in told)
    broken = {f.node for f in findings}
    for node in sorted(first.keys() & second.keys()):
        if first[node] != second[node] and node not in broken:
            findings.add(
                Finding(
                    node,
                    "stable",
                    "in another process it gives other outputs for the same inputs",
                    "sort what comes from sets; let nothing depend on hash() or id()",
                )
            )
    return Report(plugin, tuple(told[0]["nodes"]), tuple(sorted(findings)))


def plugins_named(name: str) -> list[str]:
    """Find the installed plugins that a name means: that of a plugin or of its distribution.

    Raises:
        ImagenFlowError: there is none.
    """
    known = list(discover().plugins)
    found = [p for p in known if name in (p, *p.split(":"))]
    if not found:
        hint = nearest(name, {*known, *(p.partition(":")[0] for p in known)}, what="plugins are")
        raise ImagenFlowError(f"no plugin '{name}' is installed; {hint}")
    return found


def _start(
    at: Path, plugin: str, files: Sequence[Path], seed: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a trial whose home, temporary and working folders are its own."""
    for name in ("home", "tmp", "cache", "config", "work"):
        (at / name).mkdir(parents=True)
    asked = {
        "folder": str(at / "work"),
        "plugin": plugin,
        "files": [os.path.abspath(file) for file in files],
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "imagen_flow._kit.trial", json.dumps(asked)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=at / "work",
        env={
            **os.environ,
            "HOME": str(at / "home"),
            "TMPDIR": str(at / "tmp"),
            "XDG_CACHE_HOME": str(at / "cache"),
            "XDG_CONFIG_HOME": str(at / "config"),
            "PYTHONHASHSEED": seed,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    return process, at / "work"


def _told(process: subprocess.Popen[bytes], at: Path, within_s: float) -> dict[str, Any] | None:
    """Wait for what a trial tells; None if that takes too long."""
    try:
        printed, _ = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    try:
        # Where the trial was is nobody's concern, and differs between the two.
        text = (at / "told.json").read_text("utf-8").replace(f"{at.parent}{os.sep}", "")
    except FileNotFoundError:
        last = printed.decode("utf-8", "replace").strip().splitlines()[-1:]
        return _failed(
            f"its process ended with status {process.returncode}{f': {last[0]}' if last else ''}"
        )
    told: dict[str, Any] = json.loads(text)
    return told


def _late(limit_s: float) -> dict[str, Any]:
    return _failed(f"it was not done after {limit_s:g} s")


def _failed(why: str) -> dict[str, Any]:
    return {"findings": [["", "loads", why, ""]], "nodes": [], "digests": {}}
