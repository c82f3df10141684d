"""Labels of a batch: drawn from the model's own predictions, and how many tokens of an example have one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autopeft.errors import SpecError
from autopeft.extension import IGNORED, Batch, DrawsLabels, Task
from autopeft.sensitivity.parts.sketches import generator


def with_drawn_labels(batch: Batch, model: nn.Module, *, task: Task, seed: int, index: int) -> Batch:
    """Batch number `index` with labels drawn from the model's predictions.

    The task draws them, if it can. Others are drawn from all logits (B, C) or (B, T, V), as classes (B,), or
    (B, T) with -100 where nothing is predicted; SpecError is raised for labels that are no classes. Logits of
    a causal language model predict the next label.
    """
    labels, draw = batch["labels"], generator(seed, "labels", index)
    if isinstance(task, DrawsLabels):
        drawn_by_task = task.draw_labels(model, batch, draw)
        if drawn_by_task is not None:
            return {**batch, "labels": drawn_by_task.to(labels)}
    logits = _predictions(batch, model, task)
    if labels.is_floating_point() or logits.shape[:-1] != labels.shape:
        raise SpecError(
            f"fisher_sampled draws a class per label, but the labels {tuple(labels.shape)} of {labels.dtype} "
            f"do not fit the predictions {tuple(logits.shape)}, and the task has no `draw_labels`; "
            "use the score fisher instead."
        )
    drawn = labels.clone()
    is_causal = task.peft_task_type == "CAUSAL_LM"
    target, predictions = (drawn[:, 1:], logits[:, :-1]) if is_causal else (drawn, logits)
    is_labelled = target != IGNORED
    chances = predictions[is_labelled].float().softmax(dim=-1).cpu()
    if len(chances):
        target[is_labelled] = torch.multinomial(chances, 1, generator=draw)[:, 0].to(target)
    return {**batch, "labels": drawn}


def _predictions(batch: Batch, model: nn.Module, task: Task) -> Tensor:
    """The model's logits in the last call of it that the task's loss makes."""
    logits: list[Tensor] = []

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        logits.append(output.logits if hasattr(output, "logits") else output[0])

    hook = model.register_forward_hook(catch)
    try:
        with torch.no_grad():
            task.loss(model, batch)
    finally:
        hook.remove()
    return logits[-1]


def example_weights(batch: Batch, task: Task) -> Tensor | None:
    """Factors on the examples' gradients where the loss is a mean over tokens, shape (B,); None: all are 1.

    Such a loss is the mean over all labelled tokens of the batch. Each factor turns an example's share of it
    into the loss that the example would have alone: the mean over its own labelled tokens.
    """
    labels = batch["labels"]
    if labels.ndim != 2 or labels.is_floating_point():
        return None
    predicted = labels[:, 1:] if task.peft_task_type == "CAUSAL_LM" else labels
    n_tokens = (predicted != IGNORED).sum(dim=1)
    if bool((n_tokens == n_tokens[0]).all()):
        return None
    mean = n_tokens.sum() / len(labels)
    return torch.where(n_tokens > 0, mean / n_tokens.clamp(min=1), 0.0)
