"""Cross-entropy over labelled tokens, in pieces: only one piece's logits are in memory at a time.

The model runs up to its output layer, which computes logits for labelled positions alone. `logits_to_keep` of
`transformers` computes the logits of all these positions at once, and models with code of their own do not
have it. The cut needs the output layer to be a child of the model itself. For other models all logits are
computed, of which some are kept.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autopeft.plugins import IGNORED, Batch

# Most logits of a piece: 64 MiB in float32, 32 MiB in bfloat16, and both again for the gradient. 2**23 and
# 2**24 were fastest for 49,152 words. Each piece reads the whole output layer: 1 GB of 128,256 words in
# bfloat16. A GPU would wait for it at 131 tokens a piece, so that its pieces are four times as large.
PIECE_LOGITS = 2**24
GPU_PIECE_LOGITS = 2**26

_as_on_gpu = ContextVar("as_on_gpu", default=False)


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """The inputs of a model's output layer at labelled positions, and a function that computes their logits.

    `to_logits` runs the model's forward pass, with recorded outputs instead of all layers before the output
    layer. So the model itself scales or caps the logits, in whatever pieces they are computed.
    """

    states: Tensor  # (N, D)
    labels: Tensor  # (N,)
    to_logits: Callable[[Tensor], Tensor]  # (n, D) -> (n, V), in the model's precision
    n_words: int  # V
    parameters: tuple[nn.Parameter, ...]  # trainable ones of the output layer


def positions_of(targets: Tensor) -> Tensor:
    """List row and column of each target (B, T) that is not -100, shape (2, N), row by row.

    Call it on the CPU if possible: a GPU must finish its work before the number of positions is known.
    """
    return torch.stack((targets != IGNORED).nonzero(as_tuple=True))


def run_to_output(
    model: nn.Module, features: Batch, targets: Tensor, positions: Tensor | None = None
) -> HeadInputs:
    """Run a model up to its output layer, and keep the states at `positions` (2, N).

    None takes all positions whose target (B, T) is not -100. If the model cannot be cut there, the states are
    the logits at the positions.
    """
    rows, columns = positions_of(targets) if positions is None else positions
    labels = targets[rows, columns]

    def at_positions(values: Tensor) -> Tensor:
        return values[rows.to(values.device), columns.to(values.device)].to(labels.device)

    inner = getattr(model, "get_base_model", lambda: model)()
    if "use_cache" in inspect.signature(inner.forward).parameters:
        features = {**features, "use_cache": False}  # no token follows; kept keys and values are copies
    output_layer: Any = getattr(inner, "get_output_embeddings", lambda: None)()
    body = {name: child for name, child in inner.named_children() if child is not output_layer}
    if len(body) == len(list(inner.named_children())):  # the output layer is none of them
        return _from_logits(at_positions(model(**features).logits), labels)
    outputs: dict[str, list[Any]] = defaultdict(list)
    states: list[Tensor] = []

    def record(_: nn.Module, __: Any, output: Any, *, name: str) -> None:
        outputs[name].append(output)

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Record states (B, T or more, D), and pass the output layer none; other shapes pass unchanged."""
        (n_rows, n_tokens), shape = targets.shape, args[0].shape
        if len(shape) != 3 or shape[0] != n_rows or shape[1] < n_tokens:
            return None
        states.append(args[0])
        return args[0][:, :0], *args[1:]

    with contextlib.ExitStack() as hooks:
        for name, child in body.items():
            hooks.callback(child.register_forward_hook(partial(record, name=name)).remove)
        hooks.callback(output_layer.register_forward_pre_hook(stop).remove)
        logits: Tensor = model(**features).logits
    if len(states) != 1:
        return _from_logits(at_positions(logits), labels)

    def to_logits(piece: Tensor) -> Tensor:
        with _replaying(inner, outputs), _fed(output_layer, piece):
            return cast(Tensor, inner.forward(**features).logits[0])

    return HeadInputs(
        states=at_positions(states[0]),
        labels=labels,
        to_logits=to_logits,
        n_words=logits.shape[-1],
        parameters=tuple(p for p in output_layer.parameters() if p.requires_grad),
    )


def _from_logits(logits: Tensor, labels: Tensor) -> HeadInputs:
    """Use logits (N, V) as the states."""
    return HeadInputs(
        states=logits, labels=labels, to_logits=lambda piece: piece, n_words=logits.shape[-1], parameters=()
    )


class _Replay(nn.Module):
    """Replaces a module: returns its recorded outputs in order, and has all its attributes."""

    def __init__(self, original: nn.Module, outputs: Sequence[Any]) -> None:
        super().__init__()
        self.original, self._outputs = original, iter(outputs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return next(self._outputs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


@contextlib.contextmanager
def _replaying(inner: nn.Module, outputs: Mapping[str, Sequence[Any]]) -> Iterator[None]:
    """Replay recorded outputs of a model's children in this context; their hooks are not called."""
    originals = {name: inner.get_submodule(name) for name in outputs}
    try:
        for name, original in originals.items():
            setattr(inner, name, _Replay(original, outputs[name]))
        yield
    finally:
        for name, original in originals.items():
            setattr(inner, name, original)


@contextlib.contextmanager
def _fed(output_layer: nn.Module, states: Tensor) -> Iterator[None]:
    """Feed the output layer these states (n, D) as one row of n positions, instead of its input."""
    hook = output_layer.register_forward_pre_hook(lambda _, args: (states[None], *args[1:]))
    try:
        yield
    finally:
        hook.remove()


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
