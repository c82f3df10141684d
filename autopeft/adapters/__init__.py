"""Reads `peft` configs, checks and counts them on a base model, and converts them from and to plans.

Inside the folder each file imports only from those before it:
configs, compiling → skeleton → counting, coverage, planning.
"""

from __future__ import annotations

from autopeft.adapters.compiling import check_plan, common_learning_rate, compile_plan, other_base_note
from autopeft.adapters.configs import (
    ConfigFile,
    auto_class_of,
    base_model_of,
    is_adapter,
    is_unmergeable,
    read_configs,
    reads_weights,
    task_name,
    type_name,
    unknown_keys,
    unmatched,
)
from autopeft.adapters.counting import Count, count_configs, count_plan
from autopeft.adapters.coverage import (
    TOWERS,
    Coverage,
    Finding,
    Severity,
    accidents,
    coverage_of,
    tensor_findings,
)
from autopeft.adapters.planning import check_user_file, read_user_plan
from autopeft.adapters.skeleton import Attached, attach_fitting, held_names, refuse_weights
