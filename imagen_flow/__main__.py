"""The command ``imagen-flow``, and ``python -m imagen_flow``."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]

#: Libraries that nodes use, whose warnings are about their own insides: what of them matters to a
# user, a node says in a note.
_CHATTY = (
    "accelerate",
    "bitsandbytes",
    "diffusers",
    "huggingface_hub",
    "peft",
    "torch",
    "torchao",
    "torchvision",
    "transformers",
)


def quiet_libraries() -> None:
    """Have libraries log errors only, and not warn; whatever the environment says of that goes
    first. They read it when they are imported.
    """
    for library in ("DIFFUSERS", "TRANSFORMERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    if not sys.warnoptions:
        import warnings

        warnings.filterwarnings("ignore", module=rf"({'|'.join(_CHATTY)})(\.|$)")


def open_streams() -> None:
    """Lead standard streams that are closed to nowhere: else the next file that is opened, of the
    store perhaps, would take what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115  # it lasts as long as the process


def leave_threads(exit_codes: list[int]) -> None:
    """Exit at once if a thread is still in a call that nobody can interrupt. When such a call
    returns while the interpreter is being finalised, Python ends the thread, at which libraries in
    C++ abort the process.
    """
    if exit_codes and any(thread.daemon for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_codes[0])


def main() -> NoReturn:
    """Call the command line. An interrupt while it is still being imported is one like any other."""
    open_streams()
    quiet_libraries()
    exit_codes: list[int] = []
    # Registered first, it is called last: after what removes temporary files.
    atexit.register(leave_threads, exit_codes)
    gc.disable()  # what is imported stays, and looking through it would find nothing to free
    try:
        from ._cli import main

        gc.enable()
        main(prog_name="imagen-flow")
    except SystemExit as leaving:
        exit_codes.append(leaving.code if isinstance(leaving.code, int) else 1)
        raise
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(130)  # what was being imported is half there, and its finalisers may stumble


if __name__ == "__main__":
    if sys.path[:1] == [os.getcwd()]:
        # `python -m` looks for modules in the working directory first, which may be a folder that
        # was fetched.
        del sys.path[0]
    main()
