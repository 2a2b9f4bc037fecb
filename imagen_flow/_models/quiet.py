"""Keep the libraries from drawing progress bars of their own ("Loading weights", "Writing model
shards") over the display of a run, and from saying which of their kernels they have not.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ["quiet_libraries"]

_LIBRARIES = ("diffusers.utils.logging", "transformers.utils.logging")

#: What tells, when libraries are first imported and at each model, of what nobody asked for:
# kernels and torchvision that are not here, weights of a checkpoint that are not used, tokens that
# SigLIP's configuration has by default and its vocabulary has not. (Missing weights are refused; that
# int8 wants bfloat16 no longer holds.) And Whisper calls its own library in a way
# that this takes for outdated.
_TELLTALES = (
    "bitsandbytes",
    "diffusers.quantizers",
    "torch.utils._pytree",
    "torchao",
    "transformers.configuration_utils",
    "transformers.distributed.tensor_parallel",
    "transformers.generation.utils",
    "transformers.modeling_utils",
    "transformers.utils.import_utils",
)


class _Silence:
    """Whether a library's bars are off, and for how many. The switch is the library's, one for the
    process, so this is too: of several threads, the last one that leaves puts it back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.shown: list[Any] = []
        self.levels: dict[logging.Logger, int] = {}


_SILENCE = _Silence()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the bars of those libraries that are imported by now, and what others tell, for as
    long as the context lasts. A user's own choice to have them off is kept.
    """
    import logging

    with _SILENCE.lock:
        _SILENCE.inside += 1
        for logger in map(logging.getLogger, _TELLTALES):
            _SILENCE.levels.setdefault(logger, logger.level)
            logger.setLevel(logging.ERROR)
        for name in _LIBRARIES:
            library = sys.modules.get(name)
            if library is not None and getattr(library, "is_progress_bar_enabled", lambda: False)():
                library.disable_progress_bar()
                _SILENCE.shown.append(library)
    try:
        yield
    finally:
        with _SILENCE.lock:
            _SILENCE.inside -= 1
            if not _SILENCE.inside:
                for library in _SILENCE.shown:
                    library.enable_progress_bar()
                _SILENCE.shown.clear()
                for logger, level in _SILENCE.levels.items():
                    logger.setLevel(level)
                _SILENCE.levels.clear()
