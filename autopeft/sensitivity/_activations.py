"""One backward pass over a frozen model; each site's input and output gradient are handed over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.extension import Batch, Task
from autopeft.records import Site

Reduce = Callable[[Site, nn.Module, torch.Tensor, torch.Tensor], None]


def backward_over(
    model: nn.Module, batches: Sequence[Batch], sites: Sequence[Site], *, task: Task, reduce: Reduce
) -> None:
    """Call `reduce(site, module, inputs, output_gradient)` for every site and batch.

    Inputs (B, T, in) and output gradients (B, T, out) are those of the summed loss of the
    batch, so that row b is the gradient of example b alone; a module that sees (B, in) is
    given as T = 1, one that sees (B T, in) as what it is. The model's weights get no gradient;
    mode and hooks are left as found.

    Args:
        model: Frozen, any mode; run in eval mode.
        batches: Each with `labels` (B,) and features (B, T).
        sites: Where to look; names must exist in `model`.
        task: Gives the loss.
        reduce: Must not keep the tensors.
    """
    modules = dict(model.named_modules())
    was_training = model.training
    model.eval()
    with contextlib.ExitStack() as hooks:
        hooks.callback(model.train, was_training)
        hooks.enter_context(_inputs_with_gradient(model))
        for batch in batches:
            n_examples = len(batch["labels"])
            with contextlib.ExitStack() as watching:
                for site in sites:
                    watch = partial(_watch, site=site, reduce=reduce, n_examples=n_examples)
                    watching.callback(modules[site.name].register_forward_hook(watch).remove)
                loss = task.loss(model, batch)
            (loss * n_examples).backward()  # type: ignore[no-untyped-call]


def _watch(
    module: nn.Module,
    args: tuple[Any, ...],
    output: torch.Tensor,
    *,
    site: Site,
    reduce: Reduce,
    n_examples: int,
) -> None:
    """Hand the gradient of this call's output over, beside the input that made it."""
    inputs = args[0].detach()
    if output.requires_grad:
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: reduce(site, module, *_with_tokens(inputs, gradient, n_examples))
        )


def _with_tokens(
    inputs: torch.Tensor, gradient: torch.Tensor, n_examples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    gradient = gradient.detach()
    if inputs.ndim == 2:
        # OPT's feed-forward maps see (B T, in); rows that are routed to experts stay each by itself.
        n_tokens = len(inputs) // n_examples if len(inputs) % n_examples == 0 else 1
        shape = (-1, n_tokens)
        return inputs.reshape(*shape, inputs.shape[-1]), gradient.reshape(*shape, gradient.shape[-1])
    return inputs.flatten(1, -2), gradient.flatten(1, -2)


@contextlib.contextmanager
def _inputs_with_gradient(model: nn.Module) -> Iterator[None]:
    """Make the embedded inputs require a gradient, so that one flows through frozen layers."""
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            # T5 looks its words up in tied copies of the module that it names.
            if getattr(module, "weight", None) is weight and isinstance(module, nn.Embedding):
                hook = module.register_forward_hook(lambda _m, _a, output: output.requires_grad_(True))
                hooks.callback(hook.remove)
        yield


def normalised(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a norm layer multiplies its weight with: its output at weight 1, bias 0; shaped as `inputs`."""
    state = {
        name: torch.zeros_like(p) if name == "bias" else torch.ones_like(p)
        for name, p in module.named_parameters()
    }
    with torch.no_grad():
        result: torch.Tensor = torch.func.functional_call(module, state, (inputs,))
    return result


def weight_gradient(
    site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Gradient of the batch's summed loss for the weight, in the weight's own shape."""
    if site.kind == "norm":
        return (normalised(module, inputs) * gradient).sum(dim=(0, 1))
    product = gradient.flatten(0, 1).T @ inputs.flatten(0, 1)
    return product.T if isinstance(module, Conv1D) else product
