"""Keep what the benchmarks measured in RESULTS.md: a section for each, replaced when it is measured
again, with the machine it was measured on.
"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["machine", "record"]

RESULTS = Path(__file__).parent / "RESULTS.md"

_HEAD = """\
# Measurements

Written by the scripts beside this file, each its own section (`make bench` runs all). Figures are what they are; what they are wanted to be stands beside them.
"""


def record(section: str, text: str) -> None:
    """Write a section, in place of what an earlier measurement wrote there; the others stay."""
    whole = RESULTS.read_text("utf-8") if RESULTS.exists() else _HEAD
    head, *others = re.split(r"^(?=## )", whole, flags=re.MULTILINE)
    sections = {
        other.partition("\n")[0].removeprefix("## ").strip(): other.rstrip() for other in others
    }
    sections[section] = f"## {section}\n\nMeasured on {machine()}.\n\n{text.strip()}"
    aside = RESULTS.with_suffix(".tmp")
    aside.write_text("\n\n".join([head.rstrip(), *sections.values()]) + "\n", "utf-8")
    os.replace(aside, RESULTS)


def machine() -> str:
    """Name the machine, as far as it matters for figures, and how busy others kept it."""
    processor = (
        next(iter(re.findall(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)), "")
        or platform.processor()
        or platform.machine()
    )
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    busy = ""
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > cores / 2:
        busy = f"; **the machine was busy with other work** (load {os.getloadavg()[0]:.1f} on {cores} cores), so times of the clock are too long"
    return f"{' '.join(processor.split())}, {cores} cores, {platform.system()}, Python {platform.python_version()}, torch {torch}{busy}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
