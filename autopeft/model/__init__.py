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
