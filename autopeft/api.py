"""What `import autopeft` offers to Python: search, analyze, load_plan, apply and save.

A setting is a keyword with the name of its flag (`max_steps=50` is `--max-steps 50`) or its dotted name
(`**{"data.label_kind": "classes"}`); `docs/settings.md` lists them all. Environment variables are not read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autopeft import pipeline
from autopeft.errors import ModelError
from autopeft.model import require_plain, restoring
from autopeft.pipeline import Analysis, InMemory, apply, save
from autopeft.records import IN_MEMORY, Measurement, RunSpec, SearchResult
from autopeft.store import by_dotted_name, resolve_settings
from autopeft.store import read_plan as load_plan

__all__ = ["Analysis", "analyze", "apply", "load_plan", "save", "search"]

log = logging.getLogger(__name__)


def search(
    spec: RunSpec | str | Path | None = None,
    /,
    *,
    model: nn.Module | str | Path | None = None,
    data: Any = None,
    tokenizer: Any = None,
    resume: bool = False,
    **settings: Any,
) -> SearchResult:
    """Search as `autopeft search` does, write the same run directory, and return its result as a record.

    Without model and data, the demo runs on its small model and sample dataset.

    The README has an example under "From Python".

    Args:
        spec: Settings as a record, or the YAML file that holds them (`run.yaml`). Arguments win over it.
        model: Hub id, directory, or a transformers model with the task's head. A model that is passed as an
            object is unchanged afterwards.
        data: A dataset as `--data` takes it, or a `datasets.Dataset` or `DatasetDict`.
        tokenizer: The tokenizer of a model object; for a vision model its image processor.
        resume: Continue the run in `out`. Model and data that were objects are passed again.
        **settings: Any other setting of a search by the name of its flag, such as `budget="0.5%"` or
            `out="folder"`. None stands for a setting that is not given.

    Returns:
        All plans with their measurements, the best plan, its confirmation (full runs on fresh seeds) and the
        verdict against the baseline. The folder of the run is `result.spec.output.out`.

    Raises:
        UnknownNameError: No setting, method, task or other part has this name.
        DataError, ModelError: The dataset or the model cannot be used.
        SiteError, BudgetError: Nothing can be adapted, or no plan fits the budget.
        AutopeftError: Any other fault; the docstring of `autopeft.errors` has the tree of all errors.
    """
    request, given, memory = _resolve(spec, settings, model=model, data=data, tokenizer=tokenizer)
    progress = _LogProgress()
    with _lent(memory):
        result, path = pipeline.search(request, given=given, resume=resume, progress=progress, memory=memory)
    output = result.spec.output.model_copy(update={"out": str(path)})
    return replace(result, spec=result.spec.model_copy(update={"output": output}))


def analyze(
    spec: RunSpec | str | Path | None = None,
    /,
    *,
    model: nn.Module | str | Path | None = None,
    data: Any = None,
    tokenizer: Any = None,
    scores: Sequence[str] = ("gradient", "fisher"),
    **settings: Any,
) -> Analysis:
    """The sensitivity of every site, and the plan that it suggests; nothing is trained.

    The arguments and errors are those of `search`, with three differences. `scores` names the sensitivity
    scores, of which the first one makes the suggestion. `max_examples` is the number of examples to score, at
    most. `out` is a folder for sensitivity.csv, heat.svg and suggestion.yaml; without it nothing is written.
    """
    max_examples, out = settings.pop("max_examples", None), settings.pop("out", None)
    request, given, memory = _resolve(spec, settings, model=model, data=data, tokenizer=tokenizer)
    with _lent(memory):
        return pipeline.analyze(
            request,
            scores=[scores] if isinstance(scores, str) else list(scores),
            given=given,
            max_examples=max_examples,
            out=None if out is None else Path(out),
            memory=memory,
        )


def _resolve(
    spec: RunSpec | str | Path | None,
    settings: Mapping[str, Any],
    *,
    model: nn.Module | str | Path | None,
    data: Any,
    tokenizer: Any,
) -> tuple[RunSpec, frozenset[str], InMemory]:
    """The settings, the names of those that the user set, and the model and data that are objects."""
    arguments = by_dotted_name(settings)
    model_object = None if isinstance(model, str | Path) else model
    data_object = None if isinstance(data, str | Path) else data
    if tokenizer is not None and model_object is None:
        raise ModelError(
            "tokenizer= goes with a model object; a model that is named has its tokenizer, leave it out."
        )
    if model is not None:
        arguments["model.id"] = model if model_object is None else IN_MEMORY
    if data is not None:
        arguments["data.source"] = data if data_object is None else IN_MEMORY
    memory = InMemory(model=model_object, tokenizer=tokenizer, data=data_object)
    flags, config = {}, None
    if isinstance(spec, RunSpec):
        topics = spec.model_dump(exclude_unset=True)
        flags = {f"{topic}.{name}": value for topic in topics for name, value in topics[topic].items()}
    elif spec is not None:
        config = Path(spec)
    flags |= {name: value for name, value in arguments.items() if value is not None}
    request, given = resolve_settings(config=config, env={}, flags=flags, assignments=(), origin="argument")
    return request, given, memory


def _lent(memory: InMemory) -> AbstractContextManager[None]:
    """A context that restores a model object at its end."""
    if memory.model is None:
        return nullcontext()
    require_plain(memory.model)
    return restoring(memory.model)


class _LogProgress:
    """Progress as messages of the log, at the level INFO."""

    def phase(self, name: str, n_measurements: int) -> None:
        """Log the start of a phase."""
        log.info("%s: %d measurements", name, n_measurements)

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Log a finished measurement."""
        outcome = f"loss {measurement.loss:.4f}" if measurement.loss is not None else measurement.error
        log.info("%s, %d parameters: %s", arm, measurement.plan.trainable_params, outcome)
