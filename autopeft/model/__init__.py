"""The base model: loaded once, frozen, its sites listed, adapters attached and detached without a trace.

Inside the folder each file imports only from those before it: sites → base → loading, weights.
"""

from __future__ import annotations

from autopeft.model.base import BaseModel, adapter_names, check_sites, head_only_config
from autopeft.model.loading import DEMO_NAME, load, load_skeleton, resolve
from autopeft.model.sites import ROLE_GROUPS, list_sites
from autopeft.model.weights import load_weights, save_weights

__all__ = [
    "DEMO_NAME",
    "ROLE_GROUPS",
    "BaseModel",
    "adapter_names",
    "check_sites",
    "head_only_config",
    "list_sites",
    "load",
    "load_skeleton",
    "load_weights",
    "resolve",
    "save_weights",
]
