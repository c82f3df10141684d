"""The protocol of a format that other tools read, and the plan that it exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A plan to export, and what is known of it; None means not known.

    Attributes:
        configs: In the order in which they are attached; () for the head alone.
        base_model: Name or folder of the base model.
        task_type: `peft`'s word for the task.
        head: Names of the modules that are trained whole.
        weights: Tensors of one `adapter_model.safetensors` per config; () before training.
        base: The base model, where the exporter's `needs_base` asks for it. An exporter that asks for its
            weights may change them.
        tokenizer: Of the base model.
        learning_rate: Of the plan.
        rank: Upper bound on the ranks of a conversion.
        energy: Share of the update's squared norm that a conversion keeps, in (0, 1].
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

    Attributes:
        name: What the command line calls it, such as `native`.
        summary: What is written and who reads it, in one phrase.
        needs_base: What it needs of the base model: `none`, `shapes` (meta tensors suffice) or `weights`.
        bounds: Which of the source's `rank` and `energy` it obeys.
    """

    name: str
    summary: str
    needs_base: str
    bounds: tuple[str, ...]

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """What the format cannot say of a plan, as phrases; () where it can say all of it."""

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write the plan into a folder, whole or not at all; sentences that its reader has to know.

        Args:
            source: The plan.
            out: A folder that is empty or does not exist.

        Raises:
            SpecError: The format cannot say it; nothing is written.
            RunDirError: `out` holds files already.
        """
