"""The base model: loaded once, frozen, its sites listed, adapters attached and detached without a trace.

Inside the folder each file imports only from those before it:
classes, locating, stored, devices, checkpointing → precision, known_masks, input_statistics, prefix,
shapes, roles → lightening, origin, unchanged → attaching → sites, quantising, weights → base → checks →
reaching → loading, in_memory.
"""

from __future__ import annotations

from autopeft.model.attaching import (
    adapter_names,
    attach,
    for_task,
    head_only_config,
    put_on,
)
from autopeft.model.base import BaseModel, check_sites
from autopeft.model.checkpointing import can_checkpoint, checkpointed, without_cache
from autopeft.model.checks import PASS_ERRORS, pad_with, text_configs
from autopeft.model.classes import is_built_by, loading_class, loading_class_of_type, own_class
from autopeft.model.devices import (
    FreedMemory,
    SavedBytes,
    forked_rng,
    free_bytes,
    has_own_generator,
    has_used_gpus,
    is_out_of_memory,
    limit_memory,
    random_state,
    release_memory,
    set_random_state,
    taken_bytes,
    to_float64,
)
from autopeft.model.in_memory import (
    from_memory,
    is_narrow,
    loaded_from,
    note_flags,
    require_plain,
    restoring,
)
from autopeft.model.input_statistics import input_directions, input_rms, set_initial_directions
from autopeft.model.known_masks import heeding_known_masks, heeds_known_masks, known_mask
from autopeft.model.lightening import lighten
from autopeft.model.loading import load, load_processor, load_skeleton, quiet_libraries, require_packages
from autopeft.model.locating import DEMO_HUB_ID, DEMO_NAME, commit_of, config_of, resolve
from autopeft.model.precision import (
    Precision,
    choose_precision,
    computes_in_bfloat16,
    device_names,
    find_device,
    like_gpus,
)
from autopeft.model.prefix import FrozenPrefix, KnownOutput, frozen_prefix, skips_exactly
from autopeft.model.quantising import (
    conv1d_to_linear,
    dequantise,
    expert_weights,
    left_by_bitsandbytes,
    output_layer_names,
    unquantised_modules,
)
from autopeft.model.roles import known_role
from autopeft.model.shapes import hidden_size, map_shape, plain_weight
from autopeft.model.sites import head_names, list_sites
from autopeft.model.stored import BYTES_PER_WEIGHT, StoredWeights, require_plain_weights, stored_weights
from autopeft.model.unchanged import digest_of, sample_digest
from autopeft.model.weights import load_weights, merge, modules_kept_whole, save_weights

__all__ = [
    "BYTES_PER_WEIGHT",
    "DEMO_HUB_ID",
    "DEMO_NAME",
    "PASS_ERRORS",
    "BaseModel",
    "FreedMemory",
    "FrozenPrefix",
    "KnownOutput",
    "Precision",
    "SavedBytes",
    "StoredWeights",
    "adapter_names",
    "attach",
    "can_checkpoint",
    "check_sites",
    "checkpointed",
    "choose_precision",
    "commit_of",
    "computes_in_bfloat16",
    "config_of",
    "conv1d_to_linear",
    "dequantise",
    "device_names",
    "digest_of",
    "expert_weights",
    "find_device",
    "for_task",
    "forked_rng",
    "free_bytes",
    "from_memory",
    "frozen_prefix",
    "has_own_generator",
    "has_used_gpus",
    "head_names",
    "head_only_config",
    "heeding_known_masks",
    "heeds_known_masks",
    "hidden_size",
    "input_directions",
    "input_rms",
    "is_built_by",
    "is_narrow",
    "is_out_of_memory",
    "known_mask",
    "known_role",
    "left_by_bitsandbytes",
    "lighten",
    "like_gpus",
    "limit_memory",
    "list_sites",
    "load",
    "load_processor",
    "load_skeleton",
    "load_weights",
    "loaded_from",
    "loading_class",
    "loading_class_of_type",
    "map_shape",
    "merge",
    "modules_kept_whole",
    "note_flags",
    "output_layer_names",
    "own_class",
    "pad_with",
    "plain_weight",
    "put_on",
    "quiet_libraries",
    "random_state",
    "release_memory",
    "require_packages",
    "require_plain",
    "require_plain_weights",
    "resolve",
    "restoring",
    "sample_digest",
    "save_weights",
    "set_initial_directions",
    "set_random_state",
    "skips_exactly",
    "stored_weights",
    "taken_bytes",
    "text_configs",
    "to_float64",
    "unquantised_modules",
    "without_cache",
]
