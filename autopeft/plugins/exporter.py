"""The protocol of an export format, and the record of the plan to export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

NeededBase = Literal["none", "shapes", "weights"]


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """How a plan is trained in full; a field is None if it is not known."""

    learning_rate: float | None = None
    micro_batch_size: int | None = None  # rows
    accumulation_steps: int | None = None  # micro-batches of a step
    epochs: float | None = None
    max_steps: int | None = None  # overrides `epochs`
    warmup_steps: int | None = None  # over which the rate rises
    max_length: int | None = None  # tokens per example
    seed: int | None = None
    dtype: str | None = None  # the number format of the base model, such as bfloat16
    checkpointing: bool | None = None
    quantize: str = "none"  # or 4bit or 8bit
    packs: bool = False  # whether rows are blocks of joined texts


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A base model's checkpoint, other than its name."""

    revision: str | None = None  # commit on the hub
    # The class of the checkpoint's config, if the plan is for the text model inside of a larger model, where
    # the same modules have longer names; and a model of that class on the meta device.
    own_class: str = ""
    dequantizes: bool = False  # its weights pass no gradient (MXFP4); a trainer has to dequantize them
    skeleton: nn.Module | None = None


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A plan to export; None means not known."""

    configs: tuple[PeftConfig, ...]  # in the order in which they are attached; () for the head alone
    base_model: str  # name or folder
    task_type: str | None  # `peft`'s word for the task
    head: tuple[str, ...] = ()  # names of the modules that are trained whole
    # Tensors of one `adapter_model.safetensors` per config; () before training.
    weights: tuple[Mapping[str, torch.Tensor], ...] = ()
    # The base model, if the exporter's `needs_base` is not `none`. An exporter that needs the weights may
    # change them.
    base: nn.Module | None = None
    tokenizer: Any = None
    training: TrainingFacts = field(default_factory=TrainingFacts)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    dtype: str | None = None  # of a whole model that is written, such as bfloat16; None is the base's


@runtime_checkable
class Exporter(Protocol):
    """A format that other tools read."""

    name: str  # on the command line, such as `native`
    summary: str  # what is written and who reads it, in one phrase
    needs_base: NeededBase  # of the base model; for `shapes` meta tensors suffice

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """List, as phrases, what of a plan the format cannot express."""

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write the plan into an empty or new folder, whole or not at all; return notes for the user.

        Raises:
            SpecError: The format cannot express the plan; nothing is written.
            RunDirError: `out` holds files already.
        """
