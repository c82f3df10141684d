"""Forgetting, on request: the loss of the base model and of confirmed plans on general text.

As PEFT's method comparison has it (huggingface/peft, method_comparison/MetaMathQA: the change of the
cross-entropy on a little of Wikipedia). Before stands the base model itself and not a fresh adapter, as
virtual tokens change its loss before any training (peft pull request 3419).
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
from autopeft.engine import Ledger, Outcome, Schedule
from autopeft.errors import DataError, ModelError, SpecError
from autopeft.extension import Target, Task, discover
from autopeft.pipeline.prepare import Prepared
from autopeft.records import (
    Fidelity,
    Forgetting,
    GeneralLoss,
    GeneralText,
    Measurement,
    Plan,
    RunSpec,
    Status,
    TaskSpec,
)
from autopeft.train import EncodedSplit

MAX_BLOCKS = 64  # of --max-length tokens each; chosen by hand
BASE = Plan(adapters=(), learning_rate=0.0, trainable_params=0)  # nothing is attached and nothing trained
_CHARACTERS_PER_TOKEN = 16  # to read: four times what English has; chosen by hand

log = logging.getLogger(__name__)


def check_forgetting(spec: RunSpec) -> None:
    """Refuse to measure forgetting where it cannot be, before anything is loaded.

    Raises:
        SpecError: The task is not for causal language models, or nothing is confirmed.
    """
    if spec.forgetting.source is None:
        return
    task: Task = discover("autopeft.tasks")[spec.task.name]
    if task.auto_class != "AutoModelForCausalLM":
        raise SpecError(
            "--forgetting measures the next-token loss of causal language models, which a model for "
            f"{task.name} does not have; ask for --task text-generation, or leave --forgetting out."
        )
    if spec.confirm.fidelity == "none":
        raise SpecError(
            "--forgetting measures confirmed weights, and with --confirm none there are none; "
            "ask for --confirm full or half, or leave --forgetting out."
        )


def with_general_text(prepared: Prepared) -> Prepared:
    """With the general text as a split of the bench, `general`; unchanged where it is not asked for.

    Raises:
        DataError: The text cannot be read, or is too short for two blocks.
        UnknownNameError: It has no such column.
        ModelError: The base model was never trained to predict text.
    """
    spec, base = prepared.spec, prepared.base
    if spec.forgetting.source is None:
        return prepared
    if base.head_names:
        raise ModelError(
            f"The checkpoint of {base.name} lacks {', '.join(base.head_names)}, so that it predicts no text "
            "which it could forget; use one with its language-model head, or leave --forgetting out."
        )
    max_characters = MAX_BLOCKS * spec.task.max_length * _CHARACTERS_PER_TOKEN
    rows = read_general(spec.forgetting, known=_own_texts(prepared.data), max_characters=max_characters)
    plain: Task = discover("autopeft.tasks")["text-generation"]
    plain = plain.fitted(TaskSpec(name=plain.name), Target(kind=rows.kind), base.tokenizer)
    split = Split(
        name="general", inputs=tuple((text,) for text in rows.texts), labels=("",) * len(rows.texts)
    )
    try:
        made = train.encode_split(split, base=base, task=plain, max_length=spec.task.max_length)
    except DataError as error:
        raise DataError(f"The general text {spec.forgetting.source} is too short: {error}") from error
    blocks = EncodedSplit(examples=made.examples[:MAX_BLOCKS], labels=made.labels[:MAX_BLOCKS])
    general = GeneralText(
        name=rows.name,
        n_texts=rows.n_texts,
        n_blocks=len(blocks.labels),
        block_tokens=max(blocks.lengths),
        n_tokens=sum(blocks.lengths) - len(blocks.labels),
        duplicates_removed=rows.n_duplicates,
        fingerprint=hashlib.sha256(json.dumps(blocks.labels).encode()).hexdigest()[:16],
    )
    log.info(
        "Forgetting is measured on %d blocks of %s; %d of its texts were left out as rows of the data.",
        general.n_blocks,
        general.name,
        general.duplicates_removed,
    )
    bench = replace(prepared.bench, splits={**prepared.bench.splits, "general": blocks}, general=plain)
    return replace(prepared, bench=bench, general=general)


def _own_texts(data: LabelledData) -> list[str]:
    """Prompts, completions and documents of all splits: the user's train file became more than one."""
    splits = (data.train, data.search, data.confirm, data.test)
    cells = [cell for split in splits for row in split.inputs for cell in row]
    labels = [label for split in splits for label in split.labels]
    return [cell for cell in [*cells, *labels] if isinstance(cell, str)]


def measure_forgetting(
    prepared: Prepared, schedule: Schedule, ledger: Ledger, outcome: Outcome
) -> Forgetting | None:
    """Loss of the base model and of the confirmed weights of best, smallest and baseline on general text.

    Nothing is trained, and what an earlier, stopped run measured is not measured again. None where it is
    not asked for, or where the base model itself has no finite loss; that is said.
    """
    if prepared.general is None:
        return None
    named = {"best": outcome.best, "smallest": outcome.smallest, "baseline": outcome.baseline}
    confirmed = {own.plan for own in outcome.confirmations}
    named = {name: plan for name, plan in named.items() if plan in confirmed}
    asked = [
        (run.plan, schedule.fidelity("general", seed=run.fidelity.seed))
        for run in outcome.measurements
        if run.plan in named.values() and run.fidelity.split == "confirm" and run.status is Status.COMPLETE
    ]
    ledger.progress.phase("forgetting", 1 + len(asked))
    ledger.plan_ahead(schedule.fidelity("general", seed=0), n_measurements=len(asked))
    ledger.arms[BASE] = "base model"
    base, *runs = ledger.measure_all([(BASE, _untrained(prepared.general)), *asked])
    return _gathered(prepared.general, base, runs, named)


def forgetting_of(prepared: Prepared, plan: Plan, fidelity: Fidelity) -> Forgetting | None:
    """The same of one plan, just trained at a fidelity, whose weights the bench has kept."""
    if prepared.general is None:
        return None
    bench, text = prepared.bench, prepared.general
    base = bench.measure(BASE, _untrained(text))
    run = bench.measure(plan, replace(fidelity, split="general", eval_examples=text.n_blocks))
    return _gathered(text, base, [run], {"plan": plan})


def _untrained(text: GeneralText) -> Fidelity:
    return Fidelity(split="general", train_steps=0, train_examples=0, eval_examples=text.n_blocks, seed=0)


def _gathered(
    text: GeneralText, base: Measurement, runs: Sequence[Measurement], named: Mapping[str, Plan]
) -> Forgetting | None:
    for failed in (run for run in (base, *runs) if run.loss is None):
        log.warning("Forgetting of plan %s was not measured: %s.", failed.plan.digest, failed.error)
    if base.loss is None:
        return None
    return Forgetting(
        text=text,
        base_loss=base.loss,
        plans=tuple(_losses(name, plan, runs) for name, plan in named.items()),
        seconds=math.fsum(run.eval_seconds for run in (base, *runs)),
    )


def _losses(name: str, plan: Plan, runs: Sequence[Measurement]) -> GeneralLoss:
    found = {run.fidelity.seed: run.loss for run in runs if run.plan == plan and run.loss is not None}
    return GeneralLoss(name=name, plan=plan, seeds=tuple(found), losses=tuple(found.values()))
