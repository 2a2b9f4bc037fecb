"""Find models, compute their fingerprints, and keep them loaded as long as they are needed.

`resolve` turns a reference into files on this machine and a fingerprint, without torch and without
the network. `ModelPool` holds what is loaded: each model once, leased to whoever runs, and evicted
in the order in which the plan needs it last.

The modules, from the bottom up: `references` (parsed), `files` (which of them affect results),
`weights` (headers), `cache` (the hub's own), `lock` (what is pinned), `policy` (what the user allows) and `pickles` (scanned before
they are loaded); `contents` (each file read once) and `mapped` (weights copied out of their files);
`pointers` (files that files refer to), `read_ahead` (of the next model), `signs` (noticing changes); `locate` (from a reference to a
`Model`), `hub` (the only module that uses the network), `estimates` (sizes), `oom` (when memory
runs out), `quiet`, `derived` (folders that loaders keep), `placement` (where a module runs, and where it waits), `attention` (which
kernels it runs with) and `tensors`; `pool`; `leasing` (what a step is given, and what happens when
memory runs out under it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._system.lazy_names import lazy_names

# Imported when they are first used: a graph without models needs none of it.
if TYPE_CHECKING:
    from .cache import cached as cached
    from .cache import commit_of as commit_of
    from .cache import hub_cache as hub_cache
    from .derived import keeping as keeping
    from .estimates import Estimate as Estimate
    from .estimates import estimate as estimate
    from .estimates import size_of as size_of
    from .hub import Hub as Hub
    from .leasing import lend_and_call as lend_and_call
    from .locate import base_reference as base_reference
    from .locate import is_tiny as is_tiny
    from .locate import resolve as resolve
    from .lock import Lock as Lock
    from .lock import LockedFile as LockedFile
    from .lock import LockedModel as LockedModel
    from .lock import find_lock as find_lock
    from .lock import read_lock as read_lock
    from .oom import give_back as give_back
    from .oom import is_out_of_memory as is_out_of_memory
    from .oom import with_memory_fallback as with_memory_fallback
    from .placement import place_module as place_module
    from .policy import STRICT as STRICT
    from .policy import ModelPolicy as ModelPolicy
    from .pool import Identity as Identity
    from .pool import ModelPool as ModelPool
    from .pool import check_support as check_support
    from .pool import default_budget as default_budget
    from .pool import effective_settings as effective_settings
    from .pool import identities_of as identities_of
    from .pool import identity_of as identity_of
    from .pool import leaves as leaves
    from .pool import weight_of as weight_of
    from .pool import with_replaced_parts as with_replaced_parts
    from .pool import with_significant_name as with_significant_name
    from .quiet import quiet_libraries as quiet_libraries
    from .references import BadReference as BadReference
    from .references import Reference as Reference
    from .references import UnresolvedModel as UnresolvedModel
    from .references import UnusableModel as UnusableModel
    from .references import parse_reference as parse_reference
    from .signs import is_unchanged as is_unchanged
    from .tensors import read_weights as read_weights
    from .weights import tensors_in as tensors_in

__getattr__, __dir__ = lazy_names(__name__)
