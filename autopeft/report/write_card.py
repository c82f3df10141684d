"""Write the model cards of finished adapters."""

from __future__ import annotations

import os
import re
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from autopeft import adapters, model
from autopeft.errors import ModelError
from autopeft.model.attaching import head_only_config
from autopeft.model.checkpoint_source import own_class
from autopeft.plugins import discover
from autopeft.report.answer import answer_of
from autopeft.report.formatting import render
from autopeft.report.page import BEST_WEIGHTS, python_lines
from autopeft.report.part_words import part_words
from autopeft.report.plan_names import PartWords, name_of, plan_words
from autopeft.report.table_rows import examples, full_rows, scored_record
from autopeft.store import read_record, write_text
from autopeft.types import IN_MEMORY, ModelSpec, SearchFacts, SearchResult, TrainedPlan, listed

TRAINED = "trained.json"  # next to an adapter of `train`: what its card needs; not for the hub
# In the order of `peft`'s own cards, which end with these lines.
_LIBRARIES = {"PEFT": "peft", "Transformers": "transformers", "Pytorch": "torch", "Datasets": "datasets"}
_ON_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")  # an owner and a name, or a name alone
_MOST_LABELS = 20  # that a card lists; heuristic
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".zip", ".gguf", ".txt")


def write_card(
    folder: Path, result: SearchResult, *, repo: str = BEST_WEIGHTS, base_model: str | None = None
) -> None:
    """Write the model card of the finished weights, which are those of the first seed, into their folder.

    The card loads the adapter from `repo`, a repository of the hub or a folder of the run. `base_model` is by
    default the hub id of the run's model, if it has one. The score in the metadata is that of the seed, on
    the test split if it was read, else on the confirm split.
    """
    record, refit = scored_record(result, result.best), result.refit
    if refit is not None and refit.test is not None:
        record = refit.test
    score = None
    if record.split != "confirm" or refit is None:
        evaluated = examples(result, record.split)
        rows = f" ({evaluated} examples of {record.split})" if " of " in evaluated else ""
        score = (record.split, record.metrics[0], rows)
    words = part_words(result)
    context = {
        "seed": record.seeds[0],
        "answer": answer_of(result, words),
        "plan": name_of(result.best, result, words.labels),
        "rows": full_rows(result, words),
        "confirm": examples(result, "confirm"),
        "test": examples(result, "test") if result.test else "",
        "seconds": result.cost.total_seconds,
        "refit": refit,
    }
    text = _card("model_card.md", result, words, context, at=repo, base_model=base_model, score=score)
    write_text(folder / "README.md", text)


def write_trained_card(folder: Path, trained: TrainedPlan, *, at: str, base_model: str | None = None) -> None:
    """Write the model card of an adapter that `train` wrote; the card loads it from `at`, a folder or id."""
    measured, words = trained.measurement, part_words(trained)
    score = None if measured.metric is None else (measured.fidelity.split, measured.metric, "")
    context = {
        "seed": measured.fidelity.seed,
        "plan": trained.best,
        "words": plan_words(trained.best, (), words.labels),
        "measured": measured,
    }
    text = _card("trained_card.md", trained, words, context, at=at, base_model=base_model, score=score)
    write_text(folder / "README.md", text)


def read_trained(folder: Path) -> TrainedPlan | None:
    """Read the record that `train` wrote into a folder; None without one, RunDirError for a damaged one."""
    try:
        return read_record(folder / TRAINED, TrainedPlan, remedy="train the plan again")
    except FileNotFoundError:
        return None


def hub_base(setting: SearchFacts) -> str | None:
    """Return the base model's id on the hub; None if it is in a folder or was only in memory."""
    return _hub_id(setting.base_model_source)


def _card(
    template: str,
    result: SearchResult | TrainedPlan,
    words: PartWords,
    context: dict[str, Any],
    *,
    at: str,
    base_model: str | None,
    score: tuple[str, float, str] | None,
) -> str:
    """Fill in a template; `score` has split, metric, and a phrase on the rows, "" if all were evaluated."""
    spec, setting, environment = result.spec, result.setting, result.environment
    base = base_model or hub_base(setting)
    base_name = PureWindowsPath(base or setting.base_model).name  # it splits at / and at \
    dataset = _hub_id((spec.data.source or "").partition(":")[0])
    title = f"{base_name} adapted to {PureWindowsPath(setting.data).name}"
    configs = adapters.compile_plan(result.best, discover("autopeft.methods")).configs or (
        head_only_config(),
    )
    tags = ["autopeft", "transformers", *dict.fromkeys(adapters.type_name(c).lower() for c in configs)]
    metadata = ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="peft",
        pipeline_tag=setting.task,
        tags=sorted([*tags, f"base_model:adapter:{base}"] if base else tags),
        datasets=[dataset] if dataset else None,
        metrics=[setting.metric],
        model_name=title,
        eval_results=None if score is None else [_evaluation(setting, dataset, score)],
    )
    # A trainer of the user did not name the labels.
    names = () if spec.has_own_trainer else setting.label_names
    body = render(
        template,
        title=title,
        # An id on the hub is a link; another name is text that the template escapes.
        base=Markup(f"[{base}](https://huggingface.co/{base})") if _hub_id(base) else base_name,
        spec=spec,
        setting=setting,
        is_share=setting.metric_is_share,
        labels=listed(names, _MOST_LABELS) if names else "",
        lines=python_lines(result, words, folder=at, source=base),
        auto_class=words.auto_class,
        own_class=_own_class(spec.model, words.auto_class),
        versions=[(name, environment[key]) for name, key in _LIBRARIES.items() if key in environment],
        **context,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def _evaluation(setting: SearchFacts, dataset: str | None, score: tuple[str, float, str]) -> EvalResult:
    split, value, rows = score
    return EvalResult(
        task_type=setting.task,
        task_name=setting.task.replace("-", " ").capitalize(),
        dataset_type=dataset or "custom",
        dataset_name=f"{PureWindowsPath(setting.data).name}{rows}",
        dataset_split=split,
        metric_type=setting.metric,
        metric_name=setting.metric,
        metric_value=value,
    )


def _own_class(spec: ModelSpec, auto_class: str) -> str | None:
    """Return the class in the base model's config if the adapter does not fit it."""
    if spec.id == IN_MEMORY:
        return None
    try:
        return own_class(model.config_of(spec), auto_class)
    except ModelError:  # the base model may have been moved before its run is pushed
        return None


def _hub_id(name: str | None) -> str | None:
    """Return a name as an id on the hub; None if it cannot be one, or if a file or folder has this name."""
    if name is None or name.endswith(_FILES) or os.path.exists(name):  # noqa: PTH110 - see model.checkpoint_source
        return None
    return name if _ON_HUB.fullmatch(name) else None
