"""Everything that `peft` configs mean: read, checked against a base model, counted, made of and into plans.

Inside the folder each file imports only from those before it:
configs, stack, checking, skeleton → reading → quick_patterns → matching → fitting → counting, planning.
"""

from __future__ import annotations

from autopeft.adapters.checking import check_plan, other_base_note
from autopeft.adapters.configs import (
    adapts_modules,
    auto_class_of,
    base_model_of,
    changed_fields,
    reads_weights,
    stays_beside_weights,
    task_name,
    type_counts,
    type_name,
)
from autopeft.adapters.counting import Count, count_configs, count_plan
from autopeft.adapters.fitting import attach_fitting, refuse_weights
from autopeft.adapters.matching import TargetMatch, target_matches
from autopeft.adapters.planning import check_user_file, read_user_plan
from autopeft.adapters.quick_patterns import are_quick
from autopeft.adapters.reading import ConfigFile, is_adapter, read_configs, unknown_keys
from autopeft.adapters.skeleton import add_shira_indices, forgo_initial_values
from autopeft.adapters.stack import common_learning_rate, compile_plan
