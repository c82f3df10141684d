"""A frozen base model, to which adapters are attached and detached without a trace.

Inside the folder each file imports only from those before it:
devices → checkpoint_source, linear_layers, training_pass → components, light_layers, quantization,
weight_comparison → attaching → targets, placement → base → checks → pretrained, user_model.
"""

from __future__ import annotations

from autopeft.model.attaching import (
    adapter_names,
    attach,
    for_task,
    load_weights,
    merge,
    save_weights,
    task_type_of,
)
from autopeft.model.base import BaseModel
from autopeft.model.checkpoint_source import DEMO_HUB_ID, commit_of, config_of, resolve
from autopeft.model.components import components, head_names, topology
from autopeft.model.devices import (
    Precision,
    choose_precision,
    find_device,
    free_bytes,
    is_out_of_memory,
    overflows_in_float16,
    release_memory,
)
from autopeft.model.pretrained import load, load_processor, load_skeleton, quiet_libraries, require_packages
from autopeft.model.quantization import dequantize
from autopeft.model.training_pass import set_attention
from autopeft.model.user_model import from_memory, require_plain, restoring
