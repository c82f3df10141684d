"""The model card of an adapter, and the Python that loads it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from autopeft.report.answer import answer_of
from autopeft.report.formatting import render
from autopeft.report.plan_names import PartWords, name_of, plan_words
from autopeft.report.table_rows import examples, full_rows, scored_record
from autopeft.types import IN_MEMORY, QUANTIZED, SearchFacts, SearchResult, TrainedPlan, listed

# In the order of `peft`'s own cards, which end with these lines.
_LIBRARIES = {"PEFT": "peft", "Transformers": "transformers", "Pytorch": "torch", "Datasets": "datasets"}
_ON_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")  # an owner and a name, or a name alone
_MOST_LABELS = 20  # that a card lists; heuristic
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".zip", ".gguf", ".txt")
BEST_WEIGHTS = "best/weights"  # in the folder of a run
_IMAGE_CLASS = "AutoModelForImageClassification"  # its base models come with an image processor, no tokenizer


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Facts on a model card that are not in the result of a search.

    `base_model` and `dataset` are ids on the hub; None if they have none. `peft_types` are `peft`'s words,
    such as `lora`. `folder` is where a reader loads the adapter from. `seed` is that of the weights.
    `own_class` is the class in the base model's config if the adapter does not fit it, else empty.
    """

    base_model: str | None
    dataset: str | None
    peft_types: tuple[str, ...]
    seed: int
    folder: str = BEST_WEIGHTS
    own_class: str = ""


def model_card(result: SearchResult, facts: CardFacts, words: PartWords) -> str:
    """Write the README.md of an adapter's folder: metadata, the answer of a search, and its table.

    The score in the metadata is that of the card's seed, on the test split if it was read, else on the
    confirm split.
    """
    record = scored_record(result, result.best)
    if result.refit is not None and result.refit.test is not None:
        record = result.refit.test
    value = dict(zip(record.seeds, record.metrics, strict=True)).get(facts.seed, record.metric_mean)
    evaluated = examples(result, record.split)
    rows = f" ({evaluated} examples of {record.split})" if " of " in evaluated else ""
    return _card(
        "model_card.md",
        result,
        facts,
        words,
        score=None if record.split == "confirm" and result.refit is not None else (record.split, value, rows),
        context={
            "answer": answer_of(result, words),
            "plan": name_of(result.best, result, words.labels),
            "rows": full_rows(result, words),
            "confirm": examples(result, "confirm"),
            "test": examples(result, "test") if result.test else "",
            "seconds": result.cost.total_seconds,
            "refit": result.refit,
        },
    )


def trained_card(trained: TrainedPlan, facts: CardFacts, words: PartWords) -> str:
    """Write the README.md of an adapter that `train` wrote, with its score if it has one."""
    measured = trained.measurement
    return _card(
        "trained_card.md",
        trained,
        facts,
        words,
        score=None if measured.metric is None else (measured.fidelity.split, measured.metric, ""),
        context={
            "plan": trained.best,
            "words": plan_words(trained.best, (), words.labels),
            "measured": measured,
        },
    )


def _card(
    template: str,
    result: SearchResult | TrainedPlan,
    facts: CardFacts,
    words: PartWords,
    *,
    score: tuple[str, float, str] | None,
    context: dict[str, Any],
) -> str:
    """Fill in a card; `score` has split, metric, and a phrase on the rows, "" if all were evaluated."""
    base, setting, environment = facts.base_model, result.setting, result.environment
    base_name = PureWindowsPath(base or setting.base_model).name  # it splits at / and at \
    title = f"{base_name} adapted to {PureWindowsPath(setting.data).name}"
    metadata = _metadata(setting, facts, title, score)
    # A trainer of the user did not name the labels.
    names = () if result.spec.has_own_trainer else setting.label_names
    body = render(
        template,
        title=title,
        # An id on the hub is a link; another name is text that the template escapes.
        base=Markup(f"[{base}](https://huggingface.co/{base})") if hub_id(base) else base_name,
        spec=result.spec,
        setting=setting,
        is_share=setting.metric_is_share,
        labels=listed(names, _MOST_LABELS) if names else "",
        facts=facts,
        lines=python_lines(result, words, folder=facts.folder, source=base),
        auto_class=words.auto_class,
        versions=[(name, environment[key]) for name, key in _LIBRARIES.items() if key in environment],
        **context,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def _metadata(
    setting: SearchFacts, facts: CardFacts, title: str, score: tuple[str, float, str] | None
) -> ModelCardData:
    """Gather what the hub reads from a card."""
    evaluated = None
    if score is not None:
        split, value, rows = score
        evaluated = EvalResult(
            task_type=setting.task,
            task_name=setting.task.replace("-", " ").capitalize(),
            dataset_type=facts.dataset or "custom",
            dataset_name=f"{PureWindowsPath(setting.data).name}{rows}",
            dataset_split=split,
            metric_type=setting.metric,
            metric_name=setting.metric,
            metric_value=value,
        )
    tags = [*facts.peft_types, "autopeft", "transformers"]
    if facts.base_model:
        tags.append(f"base_model:adapter:{facts.base_model}")
    return ModelCardData(
        base_model=facts.base_model,
        base_model_relation="adapter" if facts.base_model else None,
        library_name="peft",
        pipeline_tag=setting.task,
        tags=sorted(tags),
        datasets=[facts.dataset] if facts.dataset else None,
        metrics=[setting.metric],
        model_name=title,
        eval_results=[evaluated] if evaluated else None,
    )


def hub_id(name: str | None) -> str | None:
    """Return a name that can be an id on the hub; None for paths, files and empty names.

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
    """Return Python lines that load the trained adapter, by default for use in the folder of the run.

    `folder` is the adapter's (`best/weights`, or a path that begins with `./`), or its id on the hub.
    `source` is where to load the base model from; None takes the source of the run.
    """
    auto_class, weights = result.setting.auto_class or words.auto_class, words.weights
    setting, revision, bits = result.setting, result.spec.model.revision, result.spec.model.quantize
    quantized: dict[str, Any] = {}
    if bits != "none":
        quantized = {**QUANTIZED[bits], "llm_int8_skip_modules": list(setting.unquantized)}
        if bits == "4bit":
            quantized["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    source = source or setting.base_model_source
    path = PurePath(source)
    is_gguf = path.suffix == ".gguf"
    reads_images = auto_class == _IMAGE_CLASS
    return render(
        "load_adapter.py",
        is_in_memory=source == IN_MEMORY,
        auto_class=auto_class,
        reads_images=reads_images,
        loader="AutoImageProcessor" if reads_images else "AutoTokenizer",
        source=json.dumps(str(path.parent) if is_gguf else source, ensure_ascii=False),
        gguf_file=json.dumps(path.name, ensure_ascii=False) if is_gguf else "",
        pinned=f", revision={json.dumps(revision)}" if revision else "",
        n_labels=len(setting.label_names),
        has_config=not result.spec.has_own_trainer,
        quantized={name: repr(value) for name, value in quantized.items()},
        folder=folder,
        tokenizer="name" if result.spec.has_own_trainer else json.dumps(folder),
        sub_folders=list(weights.order),
        imports=list(weights.imports),
    )
