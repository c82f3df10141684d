"""Runs a language model up to its output layer, so that logits are computed only for some positions.

`logits_to_keep` of `transformers` computes the logits of all these positions at once, and models with code of
their own do not have it. The cut needs the output layer to be a child of the model itself. For other models
all logits are computed, of which some are kept.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from autopeft.plugins import IGNORED, Batch


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
