"""The facts of a run that its report shows."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib import metadata

import torch

from autopeft import model
from autopeft.model import BaseModel
from autopeft.model.quantization import unquantized_modules
from autopeft.model.user_model import loaded_from
from autopeft.setup.build import Prepared
from autopeft.setup.resources import n_workers
from autopeft.types import IN_MEMORY, VERSION, ExecutionSpec, SearchFacts, SplitSizes


def setting_of(prepared: Prepared, learning_rate_ranges: dict[str, tuple[float, float]]) -> SearchFacts:
    """Collect model, data, task, budget and splits of the run for its report."""
    metric, loaded, module = prepared.task.metric, prepared.data, prepared.base.module
    if prepared.spec.model.id != IN_MEMORY:
        source = (prepared.spec.model.id and model.resolve(prepared.spec.model)[0]) or model.DEMO_HUB_ID
    else:
        source = "" if prepared.base.differs_from_checkpoint else loaded_from(module)
        source = source or IN_MEMORY
    sizes = {name: split.n_early for name, split in prepared.bench.splits.items()}
    n_groups = {name: len(set(groups)) for name, groups in prepared.groups.items()}
    return SearchFacts(
        base_model=prepared.base.name,
        base_model_source=source,
        model_type=prepared.base.model_type,
        data=loaded.name,
        task=prepared.task.name,
        metric=metric.name,
        greater_is_better=metric.greater_is_better,
        metric_is_share=metric.is_share,
        metric_label=metric.label,
        budget=prepared.budget,
        head_params=prepared.base.head_params,
        splits=SplitSizes(
            train=sizes["train"],
            search=sizes["search"],
            confirm=sizes["confirm"],
            test=sizes.get("test", 0),
            duplicates_removed=loaded.duplicates_removed,
            confirm_groups=n_groups.get("confirm", 0),
            test_groups=n_groups.get("test", 0),
        ),
        full_run_steps=prepared.full_steps,
        label_names=loaded.label_names,
        data_fingerprint=loaded.fingerprint,
        learning_rate_ranges=learning_rate_ranges,
        unquantized=unquantized_modules(module),
        decisions=prepared.decisions,
        chance=chance_of(prepared),
        lacking=prepared.base.lacking,
        label_kind=loaded.label_space.kind,
        input_columns=loaded.text_columns,
    )


def chance_of(prepared: Prepared) -> float | None:
    """Return the value of the metric that a model reaches without learning.

    1. If an example is right or wrong: the share of the most frequent label in the confirm split.
    2. Else the `chance` of the metric, such as 0 for a correlation.
    3. Else 0 for a share in [0, 1], such as the F1 of entities if none is found.
    4. Else None.
    """
    labels = prepared.bench.splits["confirm"].labels
    metric = prepared.task.metric
    is_hit_rate = metric.is_share and metric.score_span == 1
    if not is_hit_rate or not isinstance(labels[0], int | str):
        return 0.0 if metric.chance is None and metric.is_share else metric.chance
    (_, n_most), *_ = Counter(labels).most_common(1)
    return n_most / len(labels)


def environment(base: BaseModel, execution: ExecutionSpec) -> dict[str, str]:
    """Collect the versions of libraries, the machine, and how the run used it."""
    libraries = ("torch", "transformers", "peft", "optuna", "datasets")
    return {
        "autopeft": VERSION,
        "python": platform.python_version(),
        **{library: metadata.version(library) for library in libraries},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": str(os.cpu_count()),
        "workers": str(n_workers(execution)),
        "threads": str(torch.get_num_threads()),
        "device": ", ".join(
            torch.cuda.get_device_name(each) if each.type == "cuda" else each.type for each in base.devices
        ),
        "dtype": base.precision.dtype,
        "micro_batch_tokens": str(execution.micro_batch_tokens),
        "checkpointing": execution.checkpointing,
        **({"bitsandbytes": metadata.version("bitsandbytes")} if base.n_bits else {}),
    }
