"""What `import autopeft` offers to Python: search, tune, analyze, suggest, load_result, apply and the rest.

A setting is a keyword with the name of its flag (`max_steps=50` is `--max-steps 50`); docs/settings.md lists
all. Environment variables are not read.

Inside the folder each file imports only from those before it: result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from torch import nn

from autopeft import commands
from autopeft.api.result import Result, training_modes, with_path
from autopeft.client import Score, Trial
from autopeft.commands import Analysis, Preview, Suggestion, apply, save
from autopeft.errors import ModelError, SpecError
from autopeft.model import require_plain, restoring
from autopeft.report.progress import progress_display
from autopeft.setup.look import InMemory
from autopeft.setup.resources import one_at_a_time
from autopeft.store import RunDir, by_dotted_name, resolve_settings
from autopeft.store import read_plan as load_plan
from autopeft.types import IN_MEMORY, RunSpec

_YAML = (".yaml", ".yml")
_Model: TypeAlias = RunSpec | nn.Module | str | Path | None


@overload
def search(
    model: _Model = ...,
    data: Any = ...,
    /,
    budget: str | None = ...,
    *,
    dry_run: Literal[True],
    **settings: Any,
) -> Preview: ...
@overload
def search(model: _Model = ..., data: Any = ..., /, budget: str | None = ..., **settings: Any) -> Result: ...
@one_at_a_time()
def search(
    model_or_settings: _Model = None,
    dataset: Any = None,
    /,
    budget: str | None = None,
    *,
    tokenizer: Any = None,
    resume: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> Result | Preview:
    """Search as `autopeft search` does, write the same run directory, and return its result as a record.

    `search(model, data, "0.5%", label="team", effort="quick")` is the usual call. Without model and data, the
    demo runs on its small model and sample dataset.

    Args:
        model_or_settings: Hub id, directory, or a transformers model with the task's head, which is unchanged
            afterwards (also as `model=`). Or settings as a record, or the YAML file that holds them
            (`run.yaml`), over which arguments win.
        dataset: A dataset as `--data` takes it, a `datasets.Dataset` or `DatasetDict`, a `DataFrame` of
            pandas or Polars, or a dictionary of these by split (also as `data=`).
        budget: Such as "0.5%", "300k" or "r16".
        tokenizer: The tokenizer of a model object; for a vision model its image processor.
        resume: Resume the run in `out`. Pass model and data again if they were objects.
        dry_run: Only check everything, and predict size, time and memory: a `Preview`.
        **settings: Any other setting of a search by the name of its flag, such as `max_steps=50` or
            `out="folder"`; `label` and `text` are short for `label_column` and `text_column`. None means not
            set. `quiet=True` shows no progress.

    Raises:
        AutopeftError: See the tree of errors in `autopeft.errors`.
    """
    quiet = bool(settings.pop("quiet", False))
    settings = {"budget": budget, **settings}
    request, memory = _resolve(model_or_settings, dataset, settings, tokenizer=tokenizer)
    with _lent(memory):
        if dry_run:
            return commands.preview(request, resume=resume, memory=memory)
        with closing(progress_display(quiet=quiet)) as progress:
            result, path = commands.run_search(request, resume=resume, progress=progress, memory=memory)
    return with_path(result, path)


class Study(commands.Study):
    """A search over trials that your code trains: `ask` for one, `tell` its score, `finish` at the end."""

    def finish(self) -> Result:
        """Write the best adapter, its plan and the report of a finished study.

        Raises:
            TrainingError: The study is not finished, or can have no answer.
        """
        return with_path(commands.finish(self), self.path)


@one_at_a_time()
def tune(train: Callable[[Trial], Score | float], **about: Any) -> Result:
    """Search with your own training function instead of autopeft's loop.

    `train` gets a `Trial`, attaches `trial.peft_config` to the model with `peft.get_peft_model`, trains it
    for `trial.steps` steps at `trial.learning_rate`, writes it to `trial.folder`, evaluates it on the rows of
    `trial.split`, and returns a `Score` or a number. If `train` raises an error, the trial has failed, and
    the search continues. The same call with its `out` resumes the study; several processes may share the
    work.

    `about` are the arguments of `Study`: model, budget, full_steps, out, metric …

    Raises:
        AutopeftError: As for `Study`; a TrainingError if no baseline could be trained.
    """
    study = Study(**about)
    return with_path(commands.tune(train, study), study.path)


@one_at_a_time()
def analyze(
    model_or_settings: _Model = None,
    dataset: Any = None,
    /,
    budget: str | None = None,
    *,
    tokenizer: Any = None,
    scores: Sequence[str] = ("gradient", "fisher"),
    max_examples: int | None = None,
    **settings: Any,
) -> Analysis:
    """Score the sensitivity of every target module, without training.

    The arguments and errors are those of `search`, with three differences. `scores` names the sensitivity
    scores. `max_examples` is the number of examples to score, at most. `out` is a folder for
    sensitivity.csv; without it nothing is written.
    """
    settings.pop("quiet", None)  # as for `search`; there is no progress here
    settings = {"budget": budget, **settings}
    request, memory = _resolve(model_or_settings, dataset, settings, tokenizer=tokenizer)
    with _lent(memory):
        return commands.analyze(
            request,
            scores=[scores] if isinstance(scores, str) else list(scores or ()),
            max_examples=max_examples,
            memory=memory,
        )


@one_at_a_time()
def suggest(
    model: str | Path | None = None, data: str | Path | None = None, budget: str = "r16", **about: Any
) -> Suggestion:
    """Make a `peft` config for a model and a budget, and predict batch, memory, time and price.

    In seconds: LoRA of one round rank on all linear layers, at the rate that a search tries first for this
    width. Neither weights nor, without `data`, a tokenizer are read; nothing is trained.

    Args:
        model: Hub id or directory.
        data: A dataset as `--data` takes it, for the length of its rows and the number of steps.
        budget: Such as "r16", "0.5%" or "300k".
        **about: Further flags of `autopeft suggest`: text_column, label_column, task, revision, quantize,
            device (such as "a100-80gb"), memory, gpu_price, components; and `trainer` for --for, which also
            decides the memory.

    Raises:
        BudgetError: The budget is too small for rank 1 on all linear layers.
        AutopeftError: As for `search`.

    Example:
        suggestion = autopeft.suggest("meta-llama/Llama-3.1-8B", budget="r16")
        peft_model = peft.get_peft_model(model, suggestion.config)  # train it at suggestion.learning_rate
    """
    for word, value in (("model", model), ("dataset", data)):
        if not isinstance(value, str | Path | None):
            raise SpecError(f"autopeft.suggest takes the name of a {word}, not a {type(value).__name__}.")
    trainer = about.pop("trainer", "peft")
    flags = by_dotted_name({"model": model, "data": data, "budget": budget, **about})
    return commands.suggest(resolve_settings(flags=flags), trainer=trainer)


def load_result(folder: str | Path) -> Result:
    """Read the result of a finished run from its folder.

    Raises:
        RunDirError: The folder is not a run, or the run has not finished.
    """
    return with_path(RunDir.open(folder).load_result(), Path(folder))


def _resolve(
    model_or_settings: _Model, dataset: Any, settings: Mapping[str, Any], *, tokenizer: Any
) -> tuple[RunSpec, InMemory]:
    """Return the settings of a call, and objects in memory.

    Raises:
        SpecError: Model or data are passed twice, or a setting is wrong.
        ModelError: A tokenizer without a model object.
    """
    by_name, memory = dict(settings), InMemory(tokenizer=tokenizer)
    config: Path | None = None
    values: dict[str, Any] = {}
    if isinstance(model_or_settings, RunSpec):
        topics = model_or_settings.model_dump(exclude_unset=True)
        values = {f"{topic}.{name}": value for topic in topics for name, value in topics[topic].items()}
        model_or_settings = None
    elif isinstance(model_or_settings, str | Path) and Path(model_or_settings).suffix in _YAML:
        config, model_or_settings = Path(model_or_settings), None
    for word, by_position in (("model", model_or_settings), ("data", dataset)):
        if by_position is not None:
            if by_name.get(word) is not None:
                raise SpecError(f"{word} is passed twice, by position and by name; pass it once.")
            by_name[word] = by_position
        if not isinstance(by_name.get(word), str | Path | None):
            memory = replace(memory, **{word: by_name[word]})
            by_name[word] = IN_MEMORY
    if tokenizer is not None and memory.model is None:
        raise ModelError("tokenizer= needs a model object; a model that is named has its tokenizer.")
    values |= {name: value for name, value in by_dotted_name(by_name).items() if value is not None}
    return resolve_settings(config=config, flags=values), memory


@contextmanager
def _lent(memory: InMemory) -> Iterator[None]:
    """Set torch's modes for training within the context, and restore a model object at its end."""
    if memory.model is not None:
        require_plain(memory.model)
    with training_modes(), nullcontext() if memory.model is None else restoring(memory.model):
        yield
