"""Find models, compute their fingerprints, and keep them loaded as long as they are needed.

`resolve` turns a reference into files on this machine and a fingerprint, without torch and without
the network. `ModelPool` holds what is loaded: each model once, leased to whoever runs, and evicted
in the order in which the plan needs it last.

The modules, from the bottom up: `references` (parsed), `files` (which of them affect results),
`weights` (headers), `cache` (the hub's own), `lock` (what is pinned) and `pickles` (scanned before
they are loaded); `contents` (each file read once) and `mapped` (weights copied out of their files);
`pointers` (files that files refer to), `signs` (noticing changes); `locate` (from a reference to a
`Model`), `hub` (the only module that uses the network), `estimates` (sizes), `oom` (when memory
runs out), `quiet`, `placement` (where a module runs, and where it waits), `attention` (which
kernels it runs with) and `tensors`; `pool`; `leasing` (what a step is given, and what happens when
memory runs out under it).
"""

from .cache import cached, commit_of, hub_cache
from .estimates import Estimate, estimate, size_of
from .hub import Hub
from .leasing import lend_and_call
from .locate import STRICT, ModelPolicy, base_reference, is_tiny, resolve
from .lock import Lock, LockedFile, LockedModel, find_lock, read_lock
from .oom import give_back, is_out_of_memory, with_memory_fallback
from .placement import place_module
from .pool import (
    Identity,
    ModelPool,
    check_support,
    default_budget,
    effective_settings,
    identities_of,
    identity_of,
    leaves,
    weight_of,
    with_replaced_parts,
    with_significant_name,
)
from .quiet import quiet_libraries
from .references import BadReference, Reference, UnresolvedModel, UnusableModel, parse_reference
from .signs import is_unchanged
from .tensors import read_weights
from .weights import tensors_in

__all__ = [
    "BadReference",
    "Estimate",
    "Hub",
    "Identity",
    "Lock",
    "LockedFile",
    "LockedModel",
    "ModelPool",
    "Reference",
    "STRICT",
    "ModelPolicy",
    "UnresolvedModel",
    "UnusableModel",
    "check_support",
    "base_reference",
    "cached",
    "commit_of",
    "default_budget",
    "estimate",
    "find_lock",
    "effective_settings",
    "hub_cache",
    "identities_of",
    "identity_of",
    "give_back",
    "is_out_of_memory",
    "is_tiny",
    "is_unchanged",
    "leaves",
    "lend_and_call",
    "parse_reference",
    "place_module",
    "read_lock",
    "read_weights",
    "quiet_libraries",
    "resolve",
    "size_of",
    "tensors_in",
    "weight_of",
    "with_memory_fallback",
    "with_replaced_parts",
    "with_significant_name",
]
