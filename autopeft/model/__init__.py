"""The base model: loaded once, frozen, its sites listed, adapters attached and detached without a trace.

Inside the folder each file imports only from those before it:
finding, inputs, memory, shapes, roles, tree, attaching → sites, quantising, weights → virtual → base →
loading → given.
"""

from __future__ import annotations

from autopeft.model.attaching import (
    adapter_names,
    attach,
    attached_names,
    head_only_config,
    holder_of,
    spell_out,
)
from autopeft.model.base import BaseModel, check_sites
from autopeft.model.finding import DEMO_NAME, commit_of, resolve
from autopeft.model.given import from_memory, lent, name_of, noted, require_plain, source_of
from autopeft.model.inputs import input_directions, input_rms, point
from autopeft.model.loading import load, load_skeleton
from autopeft.model.memory import SavedBytes
from autopeft.model.quantising import as_quantised, dequantised, kept_plain
from autopeft.model.roles import FAMILIES, ROLE_GROUPS, known_role
from autopeft.model.shapes import plain_weight
from autopeft.model.sites import list_sites
from autopeft.model.virtual import n_virtual_tokens
from autopeft.model.weights import load_weights, merge, modules_kept_whole, save_weights

__all__ = [
    "DEMO_NAME",
    "FAMILIES",
    "ROLE_GROUPS",
    "BaseModel",
    "SavedBytes",
    "adapter_names",
    "as_quantised",
    "attach",
    "attached_names",
    "check_sites",
    "commit_of",
    "dequantised",
    "from_memory",
    "head_only_config",
    "holder_of",
    "input_directions",
    "input_rms",
    "kept_plain",
    "known_role",
    "lent",
    "list_sites",
    "load",
    "load_skeleton",
    "load_weights",
    "merge",
    "modules_kept_whole",
    "n_virtual_tokens",
    "name_of",
    "noted",
    "plain_weight",
    "point",
    "require_plain",
    "resolve",
    "save_weights",
    "source_of",
    "spell_out",
]
