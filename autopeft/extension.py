"""The protocols that a part must meet, and `discover`, which finds the parts.

To add a PEFT method, a task type, a metric, a score, an executor or an exporter, write one file
in the folder of that name with a module-level `PART`, or publish an entry point of
another package in the group `autopeft.methods`, `autopeft.tasks` and so on.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from autopeft.errors import SpecError, UnknownNameError
from autopeft.records import Adapter, DataSpec, OptionValue, Site, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from peft import PeftConfig
    from torch import nn

Batch = dict[str, Any]
Example = dict[str, Any]
Part = TypeVar("Part")
Result = TypeVar("Result")


@runtime_checkable
class Method(Protocol):
    """A PEFT method: where it fits, what it costs, and its `peft` config.

    `label` is the name as people write it ("LoRA"), `short_label` one word of it that fits a map's cell.
    `formula` says for people what a map of n inputs and m outputs costs. `ranked` methods get a
    rank at each site from the allocator; the adapters of a `shared` one hold a common state, so
    that a plan has one config of it, which is attached first. `step_time` is that of a training
    step relative to plain LoRA at the same sites. `choices` maps each option to the values that a
    policy may choose; the first is the default.
    """

    name: str
    label: str
    short_label: str
    summary: str
    formula: str
    ranked: bool
    shared: bool
    identity_at_start: bool
    merges: bool
    learning_rate_range: tuple[float, float]
    learning_rate_source: str
    step_time: float
    step_time_source: str
    choices: Mapping[str, tuple[OptionValue, ...]]

    def refusal(self, site: Site) -> str | None:
        """Why the method cannot be put at a site, as a phrase; None where it can."""

    def servers(self, options: Mapping[str, OptionValue]) -> tuple[str, ...]:
        """Of vllm, tgi and llama.cpp those that read an exact export of such an adapter."""

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """The options of an adapter at a site, derived from the policy's choices."""

    def scale(self, rank: int, **choices: OptionValue) -> float:
        """Alpha / r of an adapter of a rank under the policy's choices; 1 where the method has no scale."""

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Trainable parameters at a site, exact; strictly increasing over `ranks`."""

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """The ranks that may be given at a site, ascending; (1,) where the method has none."""

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """The `peft` configs that say the same as the adapters, all of this method."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the labels of a dataset are.

    `kind` is `class` (one per row), `classes` (any number of them), `number`, `tags` (one per token),
    `choice` (which of a row's own answers), or says what a language model is to write: `completion` or
    `chat` (the last answer), `documents` or `stream` (all of the text, in rows that stand alone or go on
    from each other).
    `names` are the labels in the order of the model's outputs: of a number its column's name, of
    texts none. `counts` says how often train has each; `mean` and `std` are those of numbers in train.
    """

    kind: str = "class"
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows as features, one entry per example in each; `notes` say what was cut off, in plain words.

    A task may make more or fewer examples than there are rows (blocks of a text).
    """

    examples: tuple[Example, ...]
    labels: tuple[Any, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a task says of a model on some batches; scores stand in the order of the batches.

    The mean of the scores is the metric. Where the metric is no mean (a correlation, an F1) they are
    its jackknife pseudo-values, moved so that their mean is the metric: their spread gives its variance.
    """

    metric: float
    loss: float
    example_scores: tuple[float, ...]


@runtime_checkable
class Task(Protocol):
    """A task type: how rows become batches, the loss, and the metric.

    The part itself stands for the commonest target; `fitted` gives the task for one dataset.
    `read_rows` is a reader of `autopeft.data`, such as `read_texts`, or any function from the settings and a
    list to add notes to, to an `autopeft.data.UncutRows`. `metrics` are those to choose from.
    `is_share` says whether the metric lies in [0, 1] and is read as percent: true for accuracies and F1.
    `score_span` is the width of the range of the scores (1 for an accuracy); None where they have no
    bounds. `peft_task_type` is None where `peft` has no word for the task. `notes` are decisions
    that the user should know, in plain words.
    """

    name: str
    read_rows: Callable[[DataSpec, list[str]], Any]
    metric: str
    metrics: tuple[str, ...]
    greater_is_better: bool
    is_share: bool
    score_span: float | None
    peft_task_type: str | None
    auto_class: str
    notes: tuple[str, ...]

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Task:
        """The task for a dataset's target and the user's settings; `tokenizer` where it is known by now.

        Raises:
            UnknownNameError: No such metric.
            DataError: The target is none that the task can learn.
        """

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int, /
    ) -> Encoded:
        """Features per example (`input_ids` and its like), of at most `max_length` tokens, and labels.

        Args:
            inputs: One tuple per row, as `read_rows` makes them.
            labels: One per row, as the target says.
            tokenizer: Of the base model; of a vision model its image processor.
            max_length: In tokens.
        """

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right: features (B, …) such as `input_ids`, and `labels` (B, …)."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss of a batch, shape ()."""

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Metric, mean loss and per-example scores, without gradients."""


@runtime_checkable
class DrawsLabels(Protocol):
    """What a task whose labels are numbers offers beside: labels from the model's own predictions.

    Without it the score `fisher_sampled` can be had where labels are classes alone, which it draws itself.
    """

    def draw_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Labels drawn from the distribution of which the loss is -log p, up to a factor and a constant.

        Args:
            logits: The model's predictions (B, …), fp32, on the CPU.
            generator: On the CPU; decides the draw.

        Returns:
            Shaped as the labels of a batch; None where they are classes.
        """


@runtime_checkable
class Metric(Protocol):
    """A metric of labels, for the tasks that predict classes or a number.

    Attributes:
        kinds: Those kinds of `Target` that it judges: `class`, `classes`, `number`, `choice`.
        default_for: Those kinds whose default metric it is; beside them `uneven`: one class per row
            with very uneven counts.
        greater_is_better: True for accuracies, False for errors.
        is_share: Whether its values lie in [0, 1] and are read as percent: true for accuracies and F1.
        score_span: Width of the range of its scores, 1 for an accuracy; None where they have no bounds.
    """

    name: str
    kinds: tuple[str, ...]
    default_for: tuple[str, ...]
    greater_is_better: bool
    is_share: bool
    score_span: float | None

    def score(
        self, truth: NDArray[np.float64], guesses: NDArray[np.float64], /
    ) -> tuple[float, tuple[float, ...]]:
        """The metric, and one score per example whose mean is the metric.

        Where the metric is no mean of examples, `autopeft.metrics.jackknife` makes the scores.

        Args:
            truth: Classes (N,) from 0, several classes (N, C) of 0 and 1, or numbers (N,).
            guesses: In the shape of `truth`.
        """


class Reducer(Protocol):
    """Gathers one score over a stream of batches; two of the same kind add up."""

    def see(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Count one batch at one site, whole, or raise and count nothing of it; keep neither tensor.

        Args:
            site: Where.
            module: The module at the site; for experts in one parameter the one that holds it.
            inputs: Shape (B, T, in), fp32 or wider; zero at padding tokens. Sites with the same input
                are given the same tensor, one after the other. For experts: the parameter.
            gradient: That of the outputs, shape (B, T, out), of the sum of the examples' losses, so that
                row b is of example b alone; zero at padding tokens; empty for a score of `inputs`. For
                experts: that of the parameter, in its shape, where the examples cannot be told apart.
        """

    def add(self, other: Any) -> None:
        """Merge another reducer's counts (of the same score, sites and seed) into this one."""

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> value >= 0, finite, averaged over examples; no entry where nothing was seen."""

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """Site name -> what each further rank adds, non-increasing, >= 0; {} where the score has none."""


@runtime_checkable
class Score(Protocol):
    """An importance score of sites.

    `labels` says what the pass has to be: `none` (the score looks at no example), `inputs` (a forward
    pass alone), `true` (backward from the loss) or `sampled` (the same with labels drawn from the
    model's own predictions). `unit` is that of the values, as a phrase.
    """

    name: str
    summary: str
    unit: str
    labels: str

    def reducer(self, sites: Sequence[Site], *, seed: int) -> Reducer:
        """A fresh reducer; the same seed draws the same random matrices."""


@runtime_checkable
class Executor(Protocol):
    """A way to run measurements; speaks `concurrent.futures`."""

    name: str

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`."""

    def shutdown(self) -> None:
        """Release what the executor holds."""


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A plan to export, and what is known of it.

    `configs` stand in the order in which they are attached; none for the head alone. `weights`
    holds the content of one `adapter_model.safetensors` per config, and nothing before training.
    `head` names the modules that are trained whole. `base` is there where the exporter asks for it;
    one that asks for its weights uses it up. `rank` or `energy` (in (0, 1]) bounds a conversion.
    None means: not known.
    """

    configs: tuple[PeftConfig, ...]
    base_model: str
    task_type: str | None
    head: tuple[str, ...] = ()
    weights: tuple[Mapping[str, torch.Tensor], ...] = ()
    base: nn.Module | None = None
    tokenizer: Any = None
    learning_rate: float | None = None
    rank: int | None = None
    energy: float | None = None


@runtime_checkable
class Exporter(Protocol):
    """A format that other tools read.

    `needs_base` says what must be known of the base model: `none`, its `shapes` (meta tensors
    suffice) or its `weights`.
    """

    name: str
    summary: str
    needs_weights: bool
    needs_base: str

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """What the format cannot say of a plan, as phrases; nothing where it can say all of it."""

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write to the folder `out`, whole or not at all; gives what its reader has to know.

        Raises:
            SpecError: The format cannot say it; nothing is written.
            RunDirError: `out` holds files already.
        """


class Catalogue(Mapping[str, Part], Generic[Part]):
    """Parts by name; an unknown name is answered with the known ones and the nearest."""

    def __init__(self, kind: str, parts: Mapping[str, Part]) -> None:
        """Hold `parts`; `kind` is the noun used in the error."""
        self._kind = kind
        self._parts = dict(sorted(parts.items()))

    def __getitem__(self, name: str) -> Part:
        """The part of that name."""
        if name not in self._parts:
            raise UnknownNameError(self._kind, name, self._parts)
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is a part of that name."""
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        """Names, sorted."""
        return iter(self._parts)

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._parts)


@cache
def discover(package: str) -> Catalogue[Any]:
    """Every part of a folder of autopeft, and those that other packages publish as entry points.

    Args:
        package: Dotted name of the folder, such as `autopeft.methods`; also the group of the entry points.
            Sub-folders, and files whose name starts with an underscore, hold no parts.

    Returns:
        The parts by their `name`. Asking for another name raises `UnknownNameError`.

    Raises:
        SpecError: Two parts have the same name.
    """
    folder = importlib.import_module(package)
    files = sorted(file.name for file in pkgutil.iter_modules(folder.__path__) if not file.ispkg)
    modules = [f"{package}.{name}" for name in files if name[0] != "_"]
    parts = [(importlib.import_module(module).PART, module) for module in modules]
    parts += [(entry.load(), entry.value) for entry in metadata.entry_points(group=package)]
    kind = package.rpartition(".")[2].removesuffix("s").replace("sensitivity", "score")
    by_name: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for part, origin in parts:
        if part.name in by_name:
            raise SpecError(
                f"The {kind} of {origin} has the name {part.name!r}, which the {kind} of "
                f"{origins[part.name]} has already; give it another name or uninstall its package."
            )
        by_name[part.name], origins[part.name] = part, origin
    return Catalogue(kind, by_name)
