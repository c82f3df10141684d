"""Cross-entropy over labelled tokens, in pieces: only one piece's logits are in memory at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autopeft.tasks._shared.output_layer import HeadInputs

# Most logits of a piece: 64 MiB in float32, 32 MiB in bfloat16, and both again for the gradient. 2**23 and
# 2**24 were fastest for 49,152 words. Each piece reads the whole output layer: 1 GB of 128,256 words in
# bfloat16. A GPU would wait for it at 131 tokens a piece, so that its pieces are four times as large.
PIECE_LOGITS = 2**24
GPU_PIECE_LOGITS = 2**26

_as_on_gpu = ContextVar("as_on_gpu", default=False)


def piece_logits(*, on_gpu: bool) -> int:
    """Return how many logits may be in memory at a time."""
    return GPU_PIECE_LOGITS if on_gpu else PIECE_LOGITS


@contextlib.contextmanager
def pieces_of_a_gpu() -> Iterator[None]:
    """Use pieces as large as a GPU's on a CPU in this context, to trace the memory of a GPU's step."""
    token = _as_on_gpu.set(True)
    try:
        yield
    finally:
        _as_on_gpu.reset(token)


def mean_loss(head: HeadInputs) -> Tensor:
    """Compute the mean cross-entropy over labels in nats, shape (); 0 without labels; differentiable."""
    n_labels = max(1, len(head.labels))
    if not torch.is_grad_enabled():
        return over_pieces(head, cross_entropies).sum() / n_labels
    total: Tensor = _SummedLoss.apply(head, head.states, *head.parameters)  # type: ignore[no-untyped-call, unused-ignore]
    return total / n_labels


def over_pieces(head: HeadInputs, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply `function` piece by piece to float32 logits (n, V) and labels (n,); join its rows to (N, …)."""
    return torch.cat([function(head.to_logits(x).float(), labels) for x, labels in _pieces(head)])


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy at each label in nats, shape (N,)."""
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def losses_and_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute for each label its cross-entropy, and 1 if its logit is the largest, else 0; shape (N, 2)."""
    return torch.stack([cross_entropies(logits, labels), (logits.argmax(dim=-1) == labels).float()], dim=1)


def _pieces(head: HeadInputs) -> list[tuple[Tensor, Tensor]]:
    on_gpu = _as_on_gpu.get() or head.states.device.type != "cpu"
    n_tokens = max(1, piece_logits(on_gpu=on_gpu) // head.n_words)
    return list(zip(torch.split(head.states, n_tokens), torch.split(head.labels, n_tokens), strict=True))


class _SummedLoss(torch.autograd.Function):
    """Sums losses; computes gradients in the forward pass already, while each piece's logits are in memory.

    Source: Liger-Kernel's fused linear cross-entropy, arXiv:2410.10989, section 3.2; here for any output
    layer and what a model does to its logits.
    """

    @staticmethod
    def forward(ctx: Any, head: HeadInputs, *inputs: Tensor) -> Tensor:
        states, *parameters = inputs
        needs = ctx.needs_input_grad[1:]
        total = torch.zeros((), device=states.device)
        of_states: list[Tensor] = []
        of_parameters: list[Tensor | None] = [None] * len(parameters)
        for piece, labels in _pieces(head):
            with torch.set_grad_enabled(any(needs)):
                x = piece.detach().requires_grad_(needs[0])
                loss = cross_entropies(head.to_logits(x).float(), labels).sum()
            total += loss.detach()
            if any(needs):
                leaves = [*([x] if needs[0] else []), *parameters]
                gradients = list(torch.autograd.grad(loss, leaves, allow_unused=True))
                of_states += [gradients.pop(0)] if needs[0] else []
                for i, gradient in enumerate(gradients):
                    if gradient is not None:
                        so_far = of_parameters[i]
                        of_parameters[i] = gradient if so_far is None else so_far + gradient
        ctx.gradients = (torch.cat(of_states) if needs[0] else None, *of_parameters)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return None, *(None if g is None else g * gradient.to(g) for g in ctx.gradients)
