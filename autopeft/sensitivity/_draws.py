"""Seeded draws: matrices of a site's own, and labels from the model's own predictions."""

from __future__ import annotations

import zlib

import torch

from autopeft.errors import SpecError
from autopeft.extension import Batch, DrawsLabels, Task


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A generator on the CPU that a seed and some names decide."""
    text = "/".join(str(part) for part in (seed, *names))
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def with_drawn_labels(batch: Batch, logits: torch.Tensor, *, task: Task, seed: int, index: int) -> Batch:
    """The batch with labels drawn from the model's predictions, the same for a seed and place in the stream.

    Args:
        batch: `labels` (B,), or (B, T) with -100 where nothing is predicted; or as the task draws them.
        logits: Shape (B, C), or (B, T, V); those of a causal language model predict the next label.
        task: Draws labels that are no classes, where it can (`DrawsLabels`); says by its `peft_task_type`
            whether the model is a causal language model.
        seed: Decides the draws.
        index: Which batch it is, from 0.

    Raises:
        SpecError: The labels are no classes, and the task draws none.
    """
    labels, own = batch["labels"], generator(seed, "labels", index)
    if isinstance(task, DrawsLabels):
        made = task.draw_labels(logits.float().cpu(), own)
        if made is not None:
            return {**batch, "labels": made.to(labels)}
    if labels.is_floating_point() or logits.shape[:-1] != labels.shape:
        raise SpecError(
            f"fisher_sampled draws a class per label, but labels {tuple(labels.shape)} of {labels.dtype} "
            f"and predictions {tuple(logits.shape)} are no such pair, and the task has no `draw_labels`; "
            "use the score fisher instead."
        )
    drawn = labels.clone()
    if task.peft_task_type == "CAUSAL_LM":
        target, logits = drawn[:, 1:], logits[:, :-1]
    else:
        target = drawn
    counts = target != -100
    chances = logits[counts].float().softmax(dim=-1).cpu()
    if len(chances):
        target[counts] = torch.multinomial(chances, 1, generator=own)[:, 0].to(target)
    return {**batch, "labels": drawn}


def example_weights(batch: Batch, task: Task) -> torch.Tensor | None:
    """Factors on examples' gradients where the loss is a mean over tokens, shape (B,); None: no need.

    A loss over tokens is the mean over all tokens of the batch that have a label; an example alone
    would have the mean over its own, which these factors make of its part.
    """
    labels = batch["labels"]
    if labels.ndim != 2 or labels.is_floating_point():
        return None
    counted = labels[:, 1:] if task.peft_task_type == "CAUSAL_LM" else labels
    n_tokens = (counted != -100).sum(dim=1)
    if bool((n_tokens == n_tokens[0]).all()):
        return None
    mean = n_tokens.sum() / len(labels)
    return torch.where(n_tokens > 0, mean / n_tokens.clamp(min=1), 0.0)
