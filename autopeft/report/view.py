"""What the report's sections show, as plain values that both templates lay out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from autopeft.records import IN_MEMORY, QUANTISED, Confirmation, Measurement, Plan, SearchResult, Status

NO_ARM = "confirm"  # as in trials.csv: a plan that no trial proposed
MAX_ROWS = 40  # chosen by hand: what a reader scrolls through; trials.csv has the rest
_AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of the budget's picture; `share` is percent of the budget, in [0, 100]."""

    name: str
    params: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The verdict's picture: positions in percent of an axis whose middle is no difference."""

    low: float
    middle: float
    high: float
    band_low: float
    band_high: float


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One confirmed plan. `marks` says which answers it is; `seconds` is one confirming run."""

    record: Confirmation
    marks: tuple[str, ...]
    arm: str
    percent: float
    worst: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Proxied:
    """One plan at the furthest rung that it finished, or the run of it that failed."""

    arm: str
    measurement: Measurement


def bars(result: SearchResult) -> tuple[Bar, ...]:
    """The budget and what each answer spends of it; the head is in only if the budget counts it."""
    budget = result.setting.budget.max_trainable_params
    head = result.setting.head_params if result.spec.budget.count_head else 0
    spent = {"budget": budget} | {name: plan.trainable_params + head for name, plan in _answers(result)}
    return tuple(
        Bar(name=name, params=params, share=min(100.0, 100 * params / budget))
        for name, params in spent.items()
    )


def interval(result: SearchResult) -> Interval | None:
    """Where the interval, its middle and the band of equivalence stand; None without an interval."""
    verdict = result.verdict
    if verdict.interval_95 is None or verdict.mean_difference is None:
        return None
    low, high = verdict.interval_95
    reach = 1.15 * max(abs(low), abs(high), verdict.margin)

    def position(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    return Interval(
        low=position(low),
        middle=position(verdict.mean_difference),
        high=position(high),
        band_low=position(-verdict.margin),
        band_high=position(verdict.margin),
    )


def confirmed(result: SearchResult, arms: Mapping[Plan, str]) -> tuple[Confirmed, ...]:
    """The confirmed plans, best metric first; a plan with two names stands once."""
    sign = -1 if result.setting.greater_is_better else 1
    worst = min if result.setting.greater_is_better else max
    rows = [
        Confirmed(
            record=record,
            marks=tuple(name for name, plan in _answers(result) if plan == record.plan),
            arm=arms.get(record.plan, record.name),
            percent=100 * record.plan.trainable_params / result.setting.budget.base_params,
            worst=worst(record.metrics, default=record.metric_mean),
            seconds=_run_seconds(result, record),
        )
        for record in {record.plan: record for record in reversed(result.confirmations)}.values()
    ]
    return tuple(sorted(rows, key=lambda row: sign * row.record.metric_mean))


def proxies(result: SearchResult, arms: Mapping[Plan, str]) -> tuple[Proxied, ...]:
    """Every plan at the furthest rung that it finished: furthest first, then lowest loss."""
    furthest: dict[Plan, Measurement] = {}
    for run in result.measurements:
        if run.fidelity.split != "search" or run.status is not Status.COMPLETE:
            continue
        known = furthest.get(run.plan)
        if known is None or run.fidelity.train_steps > known.fidelity.train_steps:
            furthest[run.plan] = run
    ordered = sorted(furthest.values(), key=lambda run: (-run.fidelity.train_steps, _or_last(run.loss)))
    return tuple(Proxied(arm=arms.get(run.plan, NO_ARM), measurement=run) for run in ordered)


def failures(result: SearchResult, arms: Mapping[Plan, str]) -> tuple[Proxied, ...]:
    """The runs that failed, in their order."""
    failed = (run for run in result.measurements if run.status is not Status.COMPLETE)
    return tuple(Proxied(arm=arms.get(run.plan, NO_ARM), measurement=run) for run in failed)


def first_line(error: str | None) -> str:
    """The first line of an error, shortened."""
    line = next(iter((error or "").strip().splitlines()), "no message")
    return line if len(line) <= 200 else line[:199] + "…"


def smallest_words(result: SearchResult) -> tuple[str, str]:
    """A title for the smallest plan, and how it stands: only a confirmation can prove it."""
    if result.smallest == result.best:
        return "Smallest equivalent plan", "the best plan itself"
    if result.verdict.label != "none" and result.verdict.smallest_equivalent == "proven":
        return "Smallest equivalent plan", "proven"
    return "Candidate for the smallest", "unproven"


def costs(result: SearchResult) -> tuple[tuple[str, float, float | None], ...]:
    """Stage, seconds, and the same in R (None where no full run was timed)."""
    cost = result.cost
    stages = (
        ("sensitivity", cost.sensitivity_seconds),
        ("search", cost.search_seconds),
        ("confirmation", cost.confirm_seconds),
    )
    full = cost.full_run_seconds
    return tuple((name, seconds, seconds / full if full > 0 else None) for name, seconds in stages)


def scoring(result: SearchResult) -> str:
    """What the sensitivity cost, against one full run."""
    cost = result.cost
    in_r = f", {cost.sensitivity_seconds / cost.full_run_seconds:.3f} R" if cost.full_run_seconds > 0 else ""
    return f"Scoring took {cost.sensitivity_seconds:.1f} s{in_r}."


def tests(result: SearchResult, answer: Mapping[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    """Name, test numbers and confirmation numbers of each answer that was tested."""
    read: Mapping[str, Any] = answer["test"] or {}
    return tuple((name, read[name], answer[name]) for name in read if read[name]["metric_mean"] is not None)


def settings(result: SearchResult) -> tuple[tuple[str, str], ...]:
    """The settings that decide most; run.yaml has them all."""
    spec = result.spec
    return (
        ("model", spec.model.id or f"default ({result.setting.base_model})"),
        *([("quantised", f"{spec.model.quantize} by bitsandbytes")] if spec.model.quantize != "none" else []),
        ("data", spec.data.source or f"default ({result.setting.data})"),
        ("task", spec.task.name),
        ("budget", spec.budget.requested + (", head counted in" if spec.budget.count_head else "")),
        ("full run", _full_run_words(result)),
        ("batch size", str(spec.task.batch_size)),
        ("max length", f"{spec.task.max_length} tokens"),
        ("search space", spec.search.space),
        ("methods", ", ".join(spec.search.methods) or "all of the space"),
        ("trials", str(spec.search.trials)),
        ("score", spec.search.score),
        ("search seed", str(spec.search.seed)),
        ("confirmation", f"{spec.confirm.fidelity}, up to {spec.confirm.seeds} seeds"),
        *((("forgetting", spec.forgetting.source),) if spec.forgetting.source else ()),
        ("executor", f"{spec.execution.executor}, {spec.execution.workers} at a time"),
    )


def python_lines(result: SearchResult) -> str:
    """Python that loads the trained adapter with transformers and peft alone."""
    setting = result.setting
    auto = _AUTO_CLASSES.get(setting.task, "AutoModel")
    is_image = setting.task == "image-classification"
    processor = "AutoImageProcessor" if is_image else "AutoTokenizer"
    made = "processor" if is_image else "tokenizer"
    revision = result.spec.model.revision
    pinned = f", revision={json.dumps(revision)}" if revision else ""
    labels = f", num_labels={len(setting.label_names)}" if setting.label_names else ""
    methods = sorted({adapter.method for adapter in result.best.adapters})
    mixed = "# This plan mixes methods: load one sub-folder after the other, by the README's lines.\n"
    quantised = _quantised_lines(result)
    with_config = ", quantization_config=in_few_bits" if quantised else ""
    if setting.base_model_source == IN_MEMORY:
        return (
            (mixed if len(methods) > 1 else "")
            + "from peft import PeftModel\n\n"
            + "# base_model: the one that was in memory, as it was given to the search\n"
            + 'model = PeftModel.from_pretrained(base_model, "best/weights").eval()\n'
        )
    return (
        (mixed if len(methods) > 1 else "")
        + "from peft import PeftModel\n"
        + f"from transformers import {auto}, {processor}{quantised and ', BitsAndBytesConfig'}\n\n"
        + f"name = {json.dumps(setting.base_model_source, ensure_ascii=False)}\n"
        + f"{made} = {processor}.from_pretrained(name{pinned})\n"
        + quantised
        + f"base_model = {auto}.from_pretrained(name{pinned}{labels}{with_config})\n"
        + 'model = PeftModel.from_pretrained(base_model, "best/weights").eval()\n'
    )


def _quantised_lines(result: SearchResult) -> str:
    """Python that asks for the base model in few bits, as it was trained on; nothing where it was not."""
    asked = result.spec.model.quantize
    if asked == "none":
        return ""
    fields = {**QUANTISED[asked], "llm_int8_skip_modules": list(result.setting.unquantised)}
    if asked == "4bit":
        fields["bnb_4bit_compute_dtype"] = result.spec.execution.dtype
    lines = "".join(f"    {name}={value!r},\n" for name, value in fields.items())
    return f"in_few_bits = BitsAndBytesConfig(\n{lines})\n"


def steps_confirmed(result: SearchResult) -> int | None:
    """Steps of a confirming run, None where there was none."""
    steps = [run.fidelity.train_steps for run in result.measurements if run.fidelity.split == "confirm"]
    return max(steps, default=None)


def _answers(result: SearchResult) -> Sequence[tuple[str, Plan]]:
    return (("best", result.best), ("smallest", result.smallest), ("baseline", result.baseline))


def _run_seconds(result: SearchResult, record: Confirmation) -> float:
    """Mean over the confirming runs that finished; a record alone gives its own mean."""
    runs = [
        run.train_seconds
        for run in result.measurements
        if run.plan == record.plan and run.fidelity.split == record.split and run.status is Status.COMPLETE
    ]
    return fmean(runs) if runs else record.train_seconds


def _full_run_words(result: SearchResult) -> str:
    task = result.spec.task
    asked = f"--max-steps {task.max_steps}" if task.max_steps else f"--epochs {task.epochs:g}"
    return f"{result.setting.full_run_steps:,} steps ({asked})"


def _or_last(loss: float | None) -> float:
    return float("inf") if loss is None or loss != loss else loss
