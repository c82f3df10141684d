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
