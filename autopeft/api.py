"""What `import autopeft` offers to Python: search, analyze, load_plan, apply and save.

Settings have the names of the command line's flags (`max_steps=50` is `--max-steps 50`), or their dotted
ones (`**{"data.label_kind": "classes"}`). Environment variables are not read here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autopeft import pipeline
from autopeft.errors import ModelError
from autopeft.model import require_plain, restoring
from autopeft.pipeline import Analysis, InMemory, apply, save
from autopeft.records import IN_MEMORY, Measurement, PlanDocument, RunSpec, SearchResult
from autopeft.store import by_dotted_name, read_plan, resolve_settings

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
    """The best plan under a budget with its evidence, as `autopeft search` finds it.

    The run's folder is `result.spec.output.out`. A model in memory comes back as it was. The README has an
    example under "From Python".

    Args:
        spec: Settings as a record, or the YAML file that holds them (`run.yaml`); the arguments win over it.
        model: Hub id or directory; or a transformers model in memory, with the task's head.
        data: As `--data`; or a `datasets.Dataset` or `DatasetDict`.
        tokenizer: Of a model in memory; of one for images its image processor.
        resume: Continue the run in `out`; pass what was in memory again.
        **settings: Any other setting of a search, by the name of its flag.

    Raises:
        AutopeftError: See `autopeft.errors`; one sentence each.
    """
    asked, given, memory = _asked(spec, settings, model=model, data=data, tokenizer=tokenizer)
    with _lent(memory):
        result, path = pipeline.search(asked, given=given, resume=resume, progress=_Logged(), memory=memory)
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
    """The sensitivity of every site and the plan that it suggests, as `autopeft analyze`; nothing is trained.

    Args:
        spec: As for `search`.
        model: As for `search`.
        data: As for `search`.
        tokenizer: As for `search`.
        scores: Names of scores; the first one makes the suggestion.
        **settings: As for `search`, and `max_examples`, how many to look at, at most. `out` is a folder for
            sensitivity.csv, heat.svg and suggestion.yaml; without it nothing is written.

    Raises:
        AutopeftError: See `autopeft.errors`.
    """
    max_examples, out = settings.pop("max_examples", None), settings.pop("out", None)
    asked, given, memory = _asked(spec, settings, model=model, data=data, tokenizer=tokenizer)
    with _lent(memory):
        return pipeline.analyze(
            asked,
            scores=[scores] if isinstance(scores, str) else list(scores),
            given=given,
            max_examples=max_examples,
            out=None if out is None else Path(out),
            memory=memory,
        )


def load_plan(path: str | Path) -> PlanDocument:
    """The plan in `plan.yaml`, or in a run's folder, and what it remembers; its `plan` is the plan.

    Raises:
        SpecError: No such file, or no plan in it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from autopeft.records import DataSpec, ModelSpec, Plan, TaskSpec
        >>> from autopeft.store import write_plan
        >>> made = PlanDocument(
        ...     plan=Plan(adapters=(), learning_rate=0.1, trainable_params=0),
        ...     model=ModelSpec(id="bert-base-uncased"),
        ...     data=DataSpec(),
        ...     task=TaskSpec(),
        ...     base_params=109_482_240,
        ...     head_params=1_538,
        ...     schedule="cosine",
        ...     seed=0,
        ... )
        >>> with TemporaryDirectory() as folder:
        ...     write_plan(f"{folder}/plan.yaml", made)
        ...     load_plan(folder) == made
        True
    """
    return read_plan(path)


def _asked(
    spec: RunSpec | str | Path | None,
    settings: Mapping[str, Any],
    *,
    model: nn.Module | str | Path | None,
    data: Any,
    tokenizer: Any,
) -> tuple[RunSpec, frozenset[str], InMemory]:
    """The settings, those of them that were given, and what is in memory."""
    arguments = by_dotted_name(settings)
    is_module, is_name = isinstance(model, nn.Module), data is None or isinstance(data, str | Path)
    if model is not None and not is_module and not isinstance(model, str | Path):
        raise ModelError(
            f"The model is a {type(model).__name__}; pass a transformers model, a hub id or a directory."
        )
    if tokenizer is not None and not is_module:
        raise ModelError(
            "tokenizer= goes with a model in memory; a named model brings its own, leave it out."
        )
    arguments["model.id"] = IN_MEMORY if is_module else model
    arguments["data.source"] = data if is_name else IN_MEMORY
    memory = InMemory(
        model=model if isinstance(model, nn.Module) else None,
        tokenizer=tokenizer,
        data=None if is_name else data,
    )
    asked, given = resolve_settings(
        config=None if spec is None or isinstance(spec, RunSpec) else Path(spec),
        env={},
        flags={**_fields(spec), **{name: value for name, value in arguments.items() if value is not None}},
        assignments=(),
        origin="argument",
    )
    return asked, given, memory


def _fields(spec: RunSpec | str | Path | None) -> dict[str, Any]:
    """Dotted name -> value of what was set in a record."""
    if not isinstance(spec, RunSpec):
        return {}
    topics = spec.model_dump(exclude_unset=True)
    return {f"{topic}.{name}": value for topic, fields in topics.items() for name, value in fields.items()}


@contextlib.contextmanager
def _lent(memory: InMemory) -> Iterator[None]:
    if memory.model is None:
        yield
        return
    require_plain(memory.model)
    with restoring(memory.model):
        yield


class _Logged:
    """Progress as notes of the log, at the level INFO."""

    def phase(self, name: str, n_measurements: int) -> None:
        """Say what begins."""
        log.info("%s: %d measurements", name, n_measurements)

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Say what came of one."""
        said = f"loss {measurement.loss:.4f}" if measurement.loss is not None else measurement.error
        log.info("%s, %d parameters: %s", arm, measurement.plan.trainable_params, said)
