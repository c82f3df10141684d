"""Forgetting: how much adaptation raises the loss on general text (`--forgetting`).

Follows PEFT's method comparison (huggingface/peft, method_comparison/MetaMathQA), which reports the change of
the cross-entropy on some Wikipedia text. The reference is the base model itself rather than a fresh adapter,
because virtual tokens change the loss before any training (peft pull request 3419).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autopeft import train
from autopeft.data import LabelledData, Split, read_general
from autopeft.engine import Ledger, Schedule
from autopeft.errors import DataError, ModelError, SpecError
from autopeft.extension import Target, Task, discover
from autopeft.pipeline.prepare import Prepared
from autopeft.records import (
    Arm,
    Fidelity,
    Forgetting,
    GeneralLoss,
    GeneralText,
    Measurement,
    Outcome,
    Plan,
    RunSpec,
    Status,
    TaskSpec,
)
from autopeft.train import EncodedSplit

MAX_BLOCKS = 64  # of --max-length tokens each; chosen by hand
BASE = Plan(adapters=(), learning_rate=0.0, trainable_params=0)  # the base model itself
_CHARACTERS_PER_TOKEN = 16  # upper limit on what is read: four times that of English; chosen by hand

log = logging.getLogger(__name__)


def check_forgetting(spec: RunSpec) -> None:
    """Raise SpecError, before anything is loaded, where forgetting is requested and cannot be measured."""
    if spec.forgetting.source is None:
        return
    task: Task = discover("autopeft.tasks")[spec.task.name]
    if task.auto_class != "AutoModelForCausalLM":
        raise SpecError(
            "--forgetting measures the next-token loss of causal language models, and a model for "
            f"{task.name} predicts no next token; use --task text-generation, or leave --forgetting out."
        )
    if spec.confirm.fidelity == "none":
        raise SpecError(
            "--forgetting evaluates confirmed weights, and --confirm none confirms nothing; "
            "use --confirm full or half, or leave --forgetting out."
        )


def with_general_text(prepared: Prepared) -> Prepared:
    """The run with the general text as one more split of its bench; the run itself without `--forgetting`.

    Raises:
        DataError: The text cannot be read, or is too short for two blocks.
        UnknownNameError: The text's file lacks the named column.
        ModelError: The checkpoint has no trained language-model head.
    """
    spec, base = prepared.spec, prepared.base
    if spec.forgetting.source is None:
        return prepared
    if base.head_names:
        raise ModelError(
            f"The checkpoint of {base.name} lacks {', '.join(base.head_names)} and cannot predict text; "
            "use a checkpoint with its language-model head, or leave --forgetting out."
        )
    max_length = spec.task.max_length
    assert max_length is not None, "a language model reads tokens"
    max_characters = MAX_BLOCKS * max_length * _CHARACTERS_PER_TOKEN
    rows = read_general(spec.forgetting, known=_texts_of(prepared.data), max_characters=max_characters)
    plain = prepared.task.fitted(TaskSpec(name=prepared.task.name), Target(kind=rows.kind), base.tokenizer)
    split = Split(
        name="general", inputs=tuple((text,) for text in rows.texts), labels=("",) * len(rows.texts)
    )
    try:
        encoded = train.encode_split(split, base=base, task=plain, max_length=max_length)
    except DataError as error:
        raise DataError(f"The general text {spec.forgetting.source} is too short: {error}") from error
    blocks = EncodedSplit(examples=encoded.examples[:MAX_BLOCKS], labels=encoded.labels[:MAX_BLOCKS])
    general = GeneralText(
        name=rows.name,
        n_texts=rows.n_texts,
        n_blocks=len(blocks.labels),
        block_tokens=blocks.longest,
        n_tokens=int(blocks.lengths[:].sum()) - len(blocks.labels),
        duplicates_removed=rows.n_duplicates,
        fingerprint=hashlib.sha256(json.dumps([row.tolist() for row in blocks.labels]).encode()).hexdigest()[
            :16
        ],
    )
    log.info(
        "Forgetting is measured on %d blocks of %s; %d of its texts are dropped since the data has them.",
        general.n_blocks,
        general.name,
        general.duplicates_removed,
    )
    bench = replace(prepared.bench, splits={**prepared.bench.splits, "general": blocks}, general=plain)
    return replace(prepared, bench=bench, general=general)


def _texts_of(data: LabelledData) -> list[str]:
    """Prompts, completions and documents of all splits."""
    splits = (data.train, data.search, data.confirm, data.test)
    cells = [cell for split in splits for row in split.inputs for cell in row]
    labels = [label for split in splits for label in split.labels]
    return [cell for cell in [*cells, *labels] if isinstance(cell, str)]


def measure_forgetting(
    prepared: Prepared, schedule: Schedule, ledger: Ledger, outcome: Outcome
) -> Forgetting | None:
    """Loss of the base model and of the confirmed weights of best, smallest and baseline on general text.

    Nothing is trained, and the ledger reuses measurements of a stopped run. Returns None without
    `--forgetting`, or (after a warning) where the base model's loss is not finite or the time is short.
    """
    if prepared.general is None:
        return None
    confirmed = {confirmation.plan for confirmation in outcome.confirmations}
    named = {"best": outcome.best, "smallest": outcome.smallest, "baseline": outcome.baseline}
    named = {name: plan for name, plan in named.items() if plan in confirmed}
    requests = [
        (run.plan, schedule.fidelity("general", seed=run.fidelity.seed))
        for run in outcome.measurements
        if run.plan in named.values() and run.fidelity.split == "confirm" and run.status is Status.COMPLETE
    ]
    ledger.progress.phase("forgetting", 1 + len(requests))
    ledger.plan_ahead(schedule.fidelity("general", seed=0), n_measurements=len(requests))
    ledger.arms[BASE] = Arm(kind="head", label="base model")
    requests.insert(0, (BASE, _untrained(prepared.general)))
    runs = ledger.measure_in_time(requests, reserve=ledger.report_seconds())
    if len(runs) < len(requests):
        log.warning(
            "Time is short: forgetting is not measured; continue with --resume and a larger --max-time."
        )
        return None
    return _forgetting_from(prepared.general, runs[0], runs[1:], named)


def forgetting_of(prepared: Prepared, plan: Plan, fidelity: Fidelity) -> Forgetting | None:
    """Forgetting of one plan that was just trained at a fidelity and whose weights the bench kept."""
    if prepared.general is None:
        return None
    bench, text = prepared.bench, prepared.general
    base = bench.measure(BASE, _untrained(text))
    run = bench.measure(plan, replace(fidelity, split="general", eval_examples=text.n_blocks))
    return _forgetting_from(text, base, [run], {"plan": plan})


def _untrained(text: GeneralText) -> Fidelity:
    return Fidelity(split="general", train_steps=0, train_examples=0, eval_examples=text.n_blocks, seed=0)


def _forgetting_from(
    text: GeneralText, base: Measurement, runs: Sequence[Measurement], named: Mapping[str, Plan]
) -> Forgetting | None:
    for failed in (run for run in (base, *runs) if run.loss is None):
        log.warning("Forgetting of plan %s was not measured: %s.", failed.plan.digest, failed.reason)
    if base.loss is None:
        return None
    return Forgetting(
        text=text,
        base_loss=base.loss,
        plans=tuple(_losses(name, plan, runs) for name, plan in named.items()),
        seconds=math.fsum(run.total_seconds for run in (base, *runs)),
    )


def _losses(name: str, plan: Plan, runs: Sequence[Measurement]) -> GeneralLoss:
    losses = {run.fidelity.seed: run.loss for run in runs if run.plan == plan and run.loss is not None}
    return GeneralLoss(name=name, plan=plan, seeds=tuple(losses), losses=tuple(losses.values()))
