"""The model card of an adapter, and the Python that loads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from autopeft.records import (
    IN_MEMORY,
    QUANTISED,
    SearchFacts,
    SearchResult,
    TrainedPlan,
    shortened,
)
from autopeft.report.formatting import PartWords
from autopeft.report.plan_names import is_untrained, no_adapters, plan_words
from autopeft.report.rendering import render
from autopeft.report.rows import error_over, examples, full_rows, record_of

# In the order of `peft`'s own cards, which end with these lines.
_LIBRARIES = {"PEFT": "peft", "Transformers": "transformers", "Pytorch": "torch", "Datasets": "datasets"}
_ON_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")  # an owner and a name, or a name alone
_MOST_LABELS, _LONGEST_LABEL = 20, 60  # labels that a card lists, characters of each; chosen by hand
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".zip", ".gguf", ".txt")
BEST_WEIGHTS = "best/weights"  # in the folder of a run
_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the card says and a result does not know.

    `base_model` and `dataset` are ids on the hub; None where there is none. `peft_types` are `peft`'s words,
    such as `lora`. `folder` is where a reader loads the adapter from. `seed` is that of the weights.
    `own_class` names the class of the base model that the adapter does not fit; empty if there is none.
    `schedule` is that of the learning rate.
    """

    base_model: str | None
    dataset: str | None
    peft_types: tuple[str, ...]
    seed: int
    folder: str = BEST_WEIGHTS
    own_class: str = ""
    schedule: str = ""


def model_card(result: SearchResult, facts: CardFacts, words: PartWords) -> str:
    """The README.md of an adapter's folder, with metadata in front.

    `peft` keeps text, results and pipeline of the card when it saves an adapter into the same folder. It sets
    the tags and the base model anew.
    """
    metadata = _metadata(result, facts, _eval_results(result, facts))
    return f"---\n{metadata.to_yaml()}\n---\n\n{_body(result, facts, words)}"


def trained_card(trained: TrainedPlan, facts: CardFacts, words: PartWords) -> str:
    """The README.md of an adapter that `train` wrote, with its score on the confirm split."""
    setting, measured = trained.setting, trained.measurement
    assert measured.metric is not None, "the plan was trained and evaluated"
    value = _eval_result(setting, facts, split=measured.fidelity.split, value=measured.metric)
    context = {
        **_common(trained, facts, words),
        "plan": trained.best,
        "words": plan_words(trained.best, (), words.labels),
        "measured": measured,
    }
    metadata = _metadata(trained, facts, (value,)).to_yaml()
    return f"---\n{metadata}\n---\n\n{render('trained_card.md', **context)}"


def _metadata(
    result: SearchResult | TrainedPlan, facts: CardFacts, results: Iterable[EvalResult]
) -> ModelCardData:
    setting = result.setting
    tags = [*facts.peft_types, "autopeft", "transformers"]
    tags += [f"base_model:adapter:{facts.base_model}"] if facts.base_model else []
    return ModelCardData(
        base_model=facts.base_model,
        base_model_relation="adapter" if facts.base_model else None,
        library_name="peft",
        pipeline_tag=setting.task,
        tags=sorted(tags),
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=[setting.metric],
        model_name=_title(result, facts),
        eval_results=list(results),
    )


def _eval_results(result: SearchResult, facts: CardFacts) -> Iterator[EvalResult]:
    """The metric of the weights themselves on the test split, else on the confirm split."""
    record = record_of(result.test, result.best) or record_of(result.full_runs, result.best)
    assert record is not None, "the best plan has a full run"
    value = dict(zip(record.seeds, record.metrics, strict=True)).get(facts.seed, record.metric_mean)
    seen = examples(result, record.split)
    rows = f" ({seen} examples of {record.split})" if " of " in seen else ""
    yield _eval_result(result.setting, facts, split=record.split, value=value, rows=rows)


def _eval_result(
    setting: SearchFacts, facts: CardFacts, *, split: str, value: float, rows: str = ""
) -> EvalResult:
    """`rows` says in words which examples of the split gave the value; empty for all of them."""
    return EvalResult(
        task_type=setting.task,
        task_name=setting.task.replace("-", " ").capitalize(),
        dataset_type=facts.dataset or "custom",
        dataset_name=f"{_last(setting.data)}{rows}",
        dataset_split=split,
        metric_type=setting.metric,
        metric_name=setting.metric,
        metric_value=value,
    )


def _body(result: SearchResult, facts: CardFacts, words: PartWords) -> str:
    context: dict[str, Any] = {
        **_common(result, facts, words),
        "result": result,
        "rows": full_rows(result),
        "plan_words": partial(plan_words, sites=result.sites, labels=words.labels, head=no_adapters(result)),
        "over": error_over(result),
        "examples": partial(examples, result),
        "is_untrained": partial(is_untrained, result),
    }
    return render("model_card.md", **context)


def _common(result: SearchResult | TrainedPlan, facts: CardFacts, words: PartWords) -> dict[str, Any]:
    """What the cards of a run and of a trained plan both say."""
    base, setting, environment = facts.base_model, result.setting, result.environment
    return {
        "title": _title(result, facts),
        "base_link": _hub_link(base) if base else _last(setting.base_model),
        "setting": setting,
        "is_share": words.metric_is_share,
        "labels": _first_labels(setting.label_names),
        "seed": facts.seed,
        "lines": python_lines(result, words, folder=facts.folder, source=facts.base_model),
        "auto_class": words.auto_class,
        "own_class": facts.own_class,
        "training": _training(result, facts),
        "versions": [(name, environment[key]) for name, key in _LIBRARIES.items() if key in environment],
    }


def _first_labels(names: Sequence[str]) -> str:
    """The first labels, and how many more there are; all of them stand in result.json."""
    n_more = len(names) - _MOST_LABELS
    shown = ", ".join(shortened(name, _LONGEST_LABEL) for name in names[:_MOST_LABELS])
    return f"{shown} and {n_more:,} more" if n_more > 0 else shown


def _training(result: SearchResult | TrainedPlan, facts: CardFacts) -> str:
    """How the weights were trained: batch, length of texts, schedule and number format."""
    task = result.spec.task
    size = f"{task.batch_size} examples a step" if task.batch_size else ""
    length = f"texts of at most {task.max_length} tokens" if task.max_length else ""
    return ", ".join(filter(None, (size, length, facts.schedule, result.spec.execution.dtype)))


def _title(result: SearchResult | TrainedPlan, facts: CardFacts) -> str:
    """Base model and data, without the folders of a path."""
    return f"{_last(facts.base_model or result.setting.base_model)} adapted to {_last(result.setting.data)}"


def _hub_link(name: str) -> str:
    """A link to an id on the hub; another name is text that the template escapes."""
    return Markup(f"[{name}](https://huggingface.co/{name})") if _ON_HUB.fullmatch(name) else name


def _last(path: str) -> str:
    return PureWindowsPath(path).name  # which knows both kinds of slashes


def hub_id(name: str | None) -> str | None:
    """A name where it can be an id on the hub; None for paths, files and empty names.

    Example:
        >>> hub_id("org/model"), hub_id("/tmp/model"), hub_id("reviews.csv")
        ('org/model', None, None)
    """
    is_id = name is not None and _ON_HUB.fullmatch(name) and not name.endswith(_FILES)
    return name if is_id else None


def python_lines(
    result: SearchResult | TrainedPlan,
    words: PartWords,
    *,
    folder: str = BEST_WEIGHTS,
    source: str | None = None,
) -> str:
    """Lines to paste that load the trained adapter, by default in the folder of the run.

    Args:
        result: A search, or a plan that was trained.
        words: The class that loads the task's base model, and how the weights lie in their folder.
        folder: Where the adapter lies (`best/weights`, or from `./` on), or its id on the hub.
        source: Where to load the base model from; None is where the run did.
    """
    auto_class, weights = words.auto_class, words.weights
    setting, revision = result.setting, result.spec.model.revision
    source = source or setting.base_model_source
    path = PurePath(source)
    is_gguf = path.suffix == ".gguf"
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_on_hub=folder != BEST_WEIGHTS and not folder.startswith("./"),
        is_stacked=weights.n_unmerged > 1,
        is_in_memory=source == IN_MEMORY,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(str(path.parent) if is_gguf else source, ensure_ascii=False),
        gguf_file=json.dumps(path.name, ensure_ascii=False) if is_gguf else "",
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        quantised=_quantisation(result),
        folder=folder,
        sub_folders=list(weights.order),
        imports=list(weights.imports),
    )


def load_sentence(result: SearchResult | TrainedPlan, words: PartWords) -> str:
    """What the lines of `python_lines` load, and the packages that they need."""
    weights, head = words.weights, ", head included" if result.setting.head_params else ""
    others = {name.partition(".")[0] for name in weights.imports}
    others |= {"autopeft"} if weights.n_unmerged > 1 else set()
    packages = ["transformers", "peft", *sorted(others)]
    alone = "" if others else " alone"
    return (
        f"These lines load the trained adapter{head}, with "
        f"{', '.join(packages[:-1])} and {packages[-1]}{alone}:"
    )


def _quantisation(result: SearchResult | TrainedPlan) -> dict[str, str]:
    """Arguments of the quantisation that the adapter was trained on, as code; empty if there was none."""
    bits = result.spec.model.quantize
    if bits == "none":
        return {}
    fields: dict[str, Any] = {**QUANTISED[bits], "llm_int8_skip_modules": list(result.setting.unquantised)}
    if bits == "4bit":
        fields["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    return {name: repr(value) for name, value in fields.items()}
