"""Labels of a batch: drawn from the model's own predictions, and how many tokens of an example have one."""

from __future__ import annotations

import torch
from torch import Tensor

from autopeft.errors import SpecError
from autopeft.extension import Batch, DrawsLabels, Task
from autopeft.sensitivity.parts.sketches import generator


def with_drawn_labels(batch: Batch, logits: Tensor, *, task: Task, seed: int, index: int) -> Batch:
    """Batch number `index` with labels drawn from the model's logits (B, C) or (B, T, V).

    The labels are classes (B,), or (B, T) with -100 where nothing is predicted. Others are drawn by the task;
    SpecError is raised where it draws none. Logits of a causal language model predict the next label.
    """
    labels, draw = batch["labels"], generator(seed, "labels", index)
    if isinstance(task, DrawsLabels):
        drawn_by_task = task.draw_labels(logits.float().cpu(), draw)
        if drawn_by_task is not None:
            return {**batch, "labels": drawn_by_task.to(labels)}
    if labels.is_floating_point() or logits.shape[:-1] != labels.shape:
        raise SpecError(
            f"fisher_sampled draws a class per label, but the labels {tuple(labels.shape)} of {labels.dtype} "
            f"do not fit the predictions {tuple(logits.shape)}, and the task has no `draw_labels`; "
            "use the score fisher instead."
        )
    drawn = labels.clone()
    is_causal = task.peft_task_type == "CAUSAL_LM"
    target, predictions = (drawn[:, 1:], logits[:, :-1]) if is_causal else (drawn, logits)
    is_labelled = target != -100
    chances = predictions[is_labelled].float().softmax(dim=-1).cpu()
    if len(chances):
        target[is_labelled] = torch.multinomial(chances, 1, generator=draw)[:, 0].to(target)
    return {**batch, "labels": drawn}


def example_weights(batch: Batch, task: Task) -> Tensor | None:
    """Factors on the examples' gradients where the loss is a mean over tokens, shape (B,); None: all are 1.

    Such a loss is the mean over all labelled tokens of the batch. Each factor turns an example's share of it
    into the loss that the example would have alone: the mean over its own labelled tokens.
    """
    labels = batch["labels"]
    if labels.ndim != 2 or labels.is_floating_point():
        return None
    predicted = labels[:, 1:] if task.peft_task_type == "CAUSAL_LM" else labels
    n_tokens = (predicted != -100).sum(dim=1)
    if bool((n_tokens == n_tokens[0]).all()):
        return None
    mean = n_tokens.sum() / len(labels)
    return torch.where(n_tokens > 0, mean / n_tokens.clamp(min=1), 0.0)
