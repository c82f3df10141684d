"""What to type to go on: a command, or Python where model or data were in memory and have no name."""

from __future__ import annotations

import shlex
from pathlib import Path

from autopeft.records.asked import IN_MEMORY, DataSpec, ModelSpec, RunSpec, TaskSpec


def search_words(spec: RunSpec) -> str:
    """What searches with the same model, data, task, budget and seed.

    Example:
        >>> from autopeft.records.asked import BudgetSpec
        >>> search_words(RunSpec(model=ModelSpec(id="m"), budget=BudgetSpec(requested="1%")))
        'autopeft search --model m --budget 1%'
        >>> search_words(RunSpec(model=ModelSpec(id=IN_MEMORY), budget=BudgetSpec(requested="1%")))
        "autopeft.search(model=model, tokenizer=tokenizer, budget='1%')"
    """
    columns = spec.data.text_columns
    if _is_in_memory(spec.model, spec.data):
        asked = {
            "text_column": list(columns) or None,
            "label_column": spec.data.label_column,
            "task": _unusual_task(spec),
            "budget": spec.budget.requested,
            "seed": spec.search.seed or None,
        }
        own = [f"{name}={value!r}" for name, value in asked.items() if value is not None]
        return f"autopeft.search({', '.join([*_things(spec.model, spec.data), *own])})"
    values = [
        ("--model", spec.model.id),
        ("--quantize", spec.model.quantize if spec.model.quantize != "none" else None),
        ("--data", spec.data.source),
        *(("--text-column", column) for column in columns),
        ("--label-column", spec.data.label_column),
        ("--task", _unusual_task(spec)),
        ("--budget", spec.budget.requested),
        ("--seed", str(spec.search.seed) if spec.search.seed else None),
    ]
    words = [word for flag, value in values if value is not None for word in (flag, shlex.quote(value))]
    return " ".join(["autopeft search", *words])


def repeat_words(spec: RunSpec) -> str:
    """What repeats a run by its `run.yaml`, elsewhere."""
    if _is_in_memory(spec.model, spec.data):
        return f"autopeft.search('run.yaml', {', '.join(_things(spec.model, spec.data, named=False))})"
    return "autopeft search --config run.yaml"


def resume_words(spec: RunSpec, out: Path) -> str:
    """What goes on with the run in a folder."""
    if _is_in_memory(spec.model, spec.data):
        things = ", ".join(_things(spec.model, spec.data, named=False))
        return f"autopeft.search({things}, out={str(out)!r}, resume=True)"
    return f"autopeft search --resume --out {shlex.quote(str(out))}"


def train_words(plan: Path, model: ModelSpec, data: DataSpec) -> str:
    """What trains the plan in a file; what was in memory by the user's own loop, with adapters attached."""
    if _is_in_memory(model, data):
        return f"autopeft.apply(autopeft.load_plan({str(plan)!r}), model)"
    return f"autopeft train --plan {shlex.quote(str(plan))}"


def _is_in_memory(model: ModelSpec, data: DataSpec) -> bool:
    return IN_MEMORY in (model.id, data.source)


def _things(model: ModelSpec, data: DataSpec, *, named: bool = True) -> list[str]:
    """Arguments for model and data; those that have names only where `named`."""
    pairs = [("model", model.id), ("data", data.source)]
    things = []
    for argument, name in pairs:
        if name == IN_MEMORY:
            things += [f"{argument}={argument}"] + (["tokenizer=tokenizer"] if argument == "model" else [])
        elif named and name is not None:
            things.append(f"{argument}={name!r}")
    return things


def _unusual_task(spec: RunSpec) -> str | None:
    return spec.task.name if spec.task.name != TaskSpec().name else None
