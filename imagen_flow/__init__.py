"""imagen_flow: the build system for generative pictures.

This is the public API: what a script or a plugin imports. For users: `load`, `plan`, `run`,
`sweep`, `execute`, `watch`. For plugin authors: `node`, `hookimpl` and the types of ports; what loaders of
models need is in `imagen_flow.loaders`. `imagen_flow.errors`, `imagen_flow.events` and
`imagen_flow.models` are public too. Modules whose names start with an underscore are private.

Names are imported when they are first used, so ``import imagen_flow`` takes a few milliseconds and
never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._system.lazy_names import lazy_names

# Each public name is declared once, here, and imported when it is first used (see `lazy_names`). So
# ``import imagen_flow`` takes milliseconds, and a plugin that uses `node` imports neither the
# watcher nor the planner.
if TYPE_CHECKING:
    from ._plugins.hookspecs import hookimpl as hookimpl
    from ._types.codec import Codec as Codec
    from ._types.image_files import encode_image as encode_image
    from ._types.lettering import Lettering as Lettering
    from ._types.models import Model as Model
    from ._types.node import node as node
    from ._types.records import record as record
    from ._types.values import Absent as Absent
    from ._types.values import Audio as Audio
    from ._types.values import Bool as Bool
    from ._types.values import Device as Device
    from ._types.values import File as File
    from ._types.values import Folder as Folder
    from ._types.values import Image as Image
    from ._types.values import Json as Json
    from ._types.values import List as List
    from ._types.values import Mask as Mask
    from ._types.values import NamedFile as NamedFile
    from ._types.values import Number as Number
    from ._types.values import Progress as Progress
    from ._types.values import Range as Range
    from ._types.values import Scratch as Scratch
    from ._types.values import Seed as Seed
    from ._types.values import Steps as Steps
    from ._types.values import Tensor as Tensor
    from ._types.values import Text as Text
    from ._types.values import Value as Value
    from ._watch import watch as watch
    from .api import execute as execute
    from .api import load as load
    from .api import plan as plan
    from .api import run as run
    from .api import sweep as sweep
    from .errors import Cancelled as Cancelled
    from .errors import GraphError as GraphError
    from .errors import ImagenFlowError as ImagenFlowError
    from .errors import ModelError as ModelError
    from .errors import NodeError as NodeError
    from .errors import OutputError as OutputError
    from .errors import Problem as Problem
    from .errors import ProvenanceError as ProvenanceError
    from .errors import StoreError as StoreError

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_names(__name__, "__version__")
