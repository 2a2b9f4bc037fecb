"""The command ``imagen-flow``, and ``python -m imagen_flow``."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Call the command line. An interrupt while it is still being imported is one like any other."""
    try:
        from .cli import main

        main(prog_name="imagen-flow")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(130)  # what was being imported is half there, and its finalisers may stumble


if __name__ == "__main__":
    main()
