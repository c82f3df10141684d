"""What a report needs next to the outcome of a search: facts of the run, and names of methods and classes."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from autopeft import adapters, exports, model, report
from autopeft.errors import AutopeftError, ModelError
from autopeft.model import BaseModel
from autopeft.model.attaching import head_only_config
from autopeft.model.checkpoint_source import loading_class_of_type, own_class
from autopeft.model.quantization import unquantized_modules
from autopeft.model.user_model import loaded_from
from autopeft.plugins import discover, metric_facts, text_form
from autopeft.report import CardFacts, PartWords, WeightFolders, hub_id
from autopeft.run.prepare import Prepared
from autopeft.run.resources import n_workers
from autopeft.store import RunDir, read_record, write_text
from autopeft.types import (
    IN_MEMORY,
    VERSION,
    ExecutionSpec,
    Plan,
    SearchFacts,
    SearchResult,
    SearchSoFar,
    SplitSizes,
    TrainedPlan,
)

TRAINED = "trained.json"  # next to an adapter of `train`: what its card needs; not for the hub

log = logging.getLogger(__name__)


def render(path: Path, out: Path | None = None) -> SearchResult:
    """Write the report of a finished run again, to the folder `out` or to that of the run."""
    result = RunDir.open(path).load_result()
    report.write(result, out or path, words=part_words(result))
    return result


def part_words(result: SearchResult | SearchSoFar | TrainedPlan) -> PartWords:
    """Return the names of the installed methods, and how the weights of the best plan are loaded."""
    setting, methods = result.setting, discover("autopeft.methods").values()
    # A report may be written where a plug-in of the run is no longer installed.
    task = dict(discover("autopeft.tasks")).get(setting.task)
    labels = {method.name: method.label for method in methods}
    for method in methods:
        choice_labels: Mapping[str, str] = getattr(
            method, "choice_labels", {}
        )  # other packages may not have it
        for option, values in method.choices.items():
            for value in values[1:]:  # the first choice is the usual one
                default = f"{option.replace('_', ' ')} {value}"
                label = choice_labels.get(f"{option}={value}", default)
                labels[report.choice_key(method.name, option, value)] = label
    return PartWords(
        labels=labels,
        short_labels={method.name: method.short_label for method in methods},
        auto_class=loading_class_of_type(setting.model_type, task.auto_class) if task else "AutoModel",
        weights=WeightFolders() if result.best is None else _weight_folders(result.best),
    )


def _weight_folders(plan: Plan) -> WeightFolders:
    """Describe how a plan's weights are loaded; as those of one config if a method is not installed."""
    try:
        stack = adapters.compile_plan(plan, discover("autopeft.methods"))
    except AutopeftError:
        return WeightFolders()
    modules = dict.fromkeys(type(config).__module__ for config in stack.configs)
    return WeightFolders(
        order=stack.names if len(stack.configs) > 1 else (),
        imports=tuple(name for name in modules if not name.startswith("peft.")),
        servers=exports.servers_of(stack.configs),
    )


def write_card(
    folder: Path,
    result: SearchResult,
    *,
    seed: int,
    repo: str = report.BEST_WEIGHTS,
    base_model: str | None = None,
) -> None:
    """Write the model card of the weights of a seed into their folder.

    The card loads the adapter from `repo`, a repository of the hub or a folder of the run. `base_model` is by
    default the hub id of the run's model, if it has one.
    """
    words = part_words(result)
    facts = _card_facts(result, words, seed=seed, folder=repo, base_model=base_model)
    write_text(folder / "README.md", report.model_card(result, facts, words))


def write_trained_card(folder: Path, trained: TrainedPlan, *, at: str, base_model: str | None = None) -> None:
    """Write the model card of an adapter that `train` wrote; the card loads it from `at`, a folder or id."""
    words, seed = part_words(trained), trained.measurement.fidelity.seed
    facts = _card_facts(trained, words, seed=seed, folder=at, base_model=base_model)
    write_text(folder / "README.md", report.trained_card(trained, facts, words))


def read_trained(folder: Path) -> TrainedPlan | None:
    """Read the record that `train` wrote into a folder; None without one, RunDirError for a damaged one."""
    try:
        return read_record(folder / TRAINED, TrainedPlan, remedy="train the plan again")
    except FileNotFoundError:
        return None


def _card_facts(
    result: SearchResult | TrainedPlan, words: PartWords, *, seed: int, folder: str, base_model: str | None
) -> CardFacts:
    configs = adapters.compile_plan(result.best, discover("autopeft.methods")).configs
    spec, loading_class = result.spec.model, ""
    if spec.id != IN_MEMORY:
        try:
            loading_class = own_class(model.config_of(spec), words.auto_class) or ""
        except ModelError as error:  # the base model may have been moved before its run is pushed
            log.debug("The card names no class of the base model: %s", error)
    return CardFacts(
        base_model=base_model or hub_base(result.setting),
        dataset=_hub_id_unless_here((result.spec.data.source or "").partition(":")[0] or None),
        peft_types=tuple(
            dict.fromkeys(adapters.type_name(config).lower() for config in configs or (head_only_config(),))
        ),
        seed=seed,
        folder=folder,
        own_class=loading_class,
    )


def hub_base(setting: SearchFacts) -> str | None:
    """Return the base model's id on the hub; None if it is in a folder or was only in memory."""
    return _hub_id_unless_here(setting.base_model_source)


def _hub_id_unless_here(name: str | None) -> str | None:
    """Return a name as an id on the hub; None if it is not an id, or if a file or folder has this name."""
    return None if name is None or os.path.exists(name) else hub_id(name)  # noqa: PTH110 - see model.checkpoint_source


def setting_of(prepared: Prepared, learning_rate_ranges: dict[str, tuple[float, float]]) -> SearchFacts:
    """Collect model, data, task, budget and splits of the run for its report."""
    metric = metric_facts(prepared.task)
    loaded, module = prepared.data, prepared.base.module
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
        text_form=text_form(prepared.task) or prepared.bench.splits["train"].text_form,
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
    is_hit_rate = prepared.task.is_share and prepared.task.score_span == 1
    if not is_hit_rate or not isinstance(labels[0], int | str):
        chance = getattr(prepared.task, "chance", None)
        return 0.0 if chance is None and prepared.task.is_share else chance
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
