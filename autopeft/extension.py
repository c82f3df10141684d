"""The protocols that a part must meet, and `discover`, which finds the parts.

To add a PEFT method, a task type, a score, an executor or an exporter, write one file
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

from autopeft.errors import UnknownNameError
from autopeft.records import Adapter, OptionValue, Site

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

Batch = dict[str, Any]
Example = dict[str, list[int]]
Part = TypeVar("Part")
Result = TypeVar("Result")


@runtime_checkable
class Method(Protocol):
    """A PEFT method: where it fits, what it costs, and its `peft` config."""

    name: str
    summary: str
    ranked: bool
    identity_at_start: bool
    merges: bool
    learning_rate_range: tuple[float, float]
    learning_rate_source: str

    def fits(self, site: Site) -> bool:
        """Whether the method can be put at a site."""

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """The options of an adapter at a site, derived from the policy's choices."""

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Trainable parameters at a site, exact; 0 at rank 0 for a ranked method."""

    def max_rank(self, site: Site) -> int:
        """The largest useful rank at a site (1 where the method has no rank)."""

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """The `peft` configs that say the same as the adapters, all of this method."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a task says of a model on some batches; scores stand in the order of the batches."""

    metric: float
    loss: float
    example_scores: tuple[float, ...]


@runtime_checkable
class Task(Protocol):
    """A task type: how rows become batches, the loss, and the metric."""

    name: str
    metric: str
    greater_is_better: bool
    peft_task_type: str
    auto_class: str

    def encode(self, texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> list[Example]:
        """Features per example (`input_ids` and its like), truncated to `max_length` tokens."""

    def collate(self, examples: Sequence[Example], labels: Sequence[int], pad_token_id: int) -> Batch:
        """One batch padded on the right: `input_ids`, `attention_mask` (B, T), `labels` (B,)."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss of a batch, shape ()."""

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Metric, mean loss and per-example scores, without gradients."""


@runtime_checkable
class Score(Protocol):
    """An importance score of sites."""

    name: str
    summary: str
    needs_gradients: bool

    def score(
        self, model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site], *, task: Task, seed: int
    ) -> dict[str, float]:
        """Site name -> value >= 0, finite; the model is left as found."""


@runtime_checkable
class Executor(Protocol):
    """A way to run measurements; speaks `concurrent.futures`."""

    name: str

    def submit(self, fn: Callable[..., Result], /, *args: Any) -> Future[Result]:
        """A future of `fn(*args)`."""

    def shutdown(self) -> None:
        """Release what the executor holds."""


@runtime_checkable
class Exporter(Protocol):
    """A format that other tools read."""

    name: str
    summary: str

    def export(
        self,
        configs: Sequence[PeftConfig],
        *,
        base_model: str,
        task_type: str,
        out: Path,
        head: Sequence[str] = (),
    ) -> None:
        """Write a plan, given as its `peft` configs, to the folder `out`; `head` is trained with it."""


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

    def __iter__(self) -> Iterator[str]:
        """Names, sorted."""
        return iter(self._parts)

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._parts)


@cache
def discover(package: str) -> Catalogue[Any]:
    """Every part of a folder of autopeft, and of the entry points of the same name.

    Args:
        package: Dotted name of the folder, such as `autopeft.methods`. Files whose
            name starts with an underscore are not parts.

    Returns:
        The parts by their `name`.

    Raises:
        UnknownNameError: Later, when a name that is not there is asked for.
    """
    folder = importlib.import_module(package)
    files = sorted(info.name for info in pkgutil.iter_modules(folder.__path__))
    modules = [importlib.import_module(f"{package}.{name}") for name in files if name[0] != "_"]
    found = [module.PART for module in modules]
    found += [entry.load() for entry in metadata.entry_points(group=package)]
    kind = package.rpartition(".")[2].removesuffix("s").replace("sensitivity", "score")
    return Catalogue(kind, {part.name: part for part in found})
