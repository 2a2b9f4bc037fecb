"""Models that stay loaded between runs: for programs that run many graphs.

::

    from imagen_flow.models import ModelPool

    with ModelPool() as pool:
        for prompt in prompts:
            flow.run("graphs/imagen.yaml", prompt=prompt, pool=pool)
"""

from __future__ import annotations

from ._models import ModelPool

__all__ = ["ModelPool"]
