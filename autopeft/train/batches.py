"""Collates the rows of a split into a batch and puts it on the device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autopeft.model import BaseModel
from autopeft.plugins import Batch, PlacesBatches, Task
from autopeft.train.encoding import EncodedSplit

_WARNING_MODELS = ("gpt2", "openai-gpt")  # that warn of batches without an attention mask


def collate(
    task: Task, split: EncodedSplit, rows: Sequence[int], *, base: BaseModel, omits_mask: bool
) -> tuple[Batch, int]:
    """Return a batch of rows on the model's device, and the number of terms that its loss averages."""
    examples, labels = [split.examples[i] for i in rows], [split.labels[i] for i in rows]
    batch = task.collate(examples, labels, base.pad_token_id)
    n_terms = task.n_terms(batch)  # counted on the CPU, so that nothing waits for the device
    if omits_mask:
        batch.pop("attention_mask", None)

    def place(tensor: Tensor) -> Tensor:
        if base.device.type != "cuda":
            return tensor.to(base.device)
        # The device copies this batch while it computes the step before.
        return tensor.pin_memory().to(base.device, non_blocking=True)

    if isinstance(task, PlacesBatches):
        return task.placed(batch, place), n_terms
    return {name: place(tensor) for name, tensor in batch.items()}, n_terms


def can_omit_masks(base: BaseModel, task: Task) -> bool:
    """Whether batches of a causal model on a GPU need no mask: no token attends to the padding on its right.

    A mask would rule out flash attention by torch's kernels, and transformers waits for the device to look
    for padding in it: at each pass, with FlashAttention 2 in each layer.
    """
    if base.device.type != "cuda" or task.peft_task_type != "CAUSAL_LM" or base.model_type in _WARNING_MODELS:
        return False
    return all(getattr(module, "is_causal", True) for module in base.module.modules())
