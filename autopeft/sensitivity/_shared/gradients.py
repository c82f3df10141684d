"""One batch through a frozen model: inputs and output gradients of target modules, by hooks, and norms."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from autopeft.model import Precision
from autopeft.model.training_pass import quick_attention
from autopeft.plugins import IGNORED, Batch, Task
from autopeft.types import Target

Receive = Callable[[Target, nn.Module, Tensor, Tensor], None]  # target, module, inputs, gradient
# Of gradients during the pass, as float16 loses those below 6e-8; a power of two changes no other format.
_SCALE = 2.0**10


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model with the target modules to score, and the task that gives the loss.

    The loss is the mean over a batch's examples, or over its tokens that have a label. A batch of more than
    `max_tokens`, padding included, goes through the model in parts; None: no limit is known.
    """

    model: nn.Module
    targets: tuple[Target, ...]
    task: Task
    precision: Precision = field(default_factory=Precision)  # of the forward pass
    max_tokens: int | None = None


def holder_of(model: nn.Module, target: Target) -> nn.Module:
    """Return a target module; for experts in one parameter, the module that holds the parameter."""
    is_parameter = target.kind == "parameter"
    return model.get_submodule(target.name.rpartition(".")[0] if is_parameter else target.name)


def backward(scored: ScoredModel, batch: Batch, receive: Receive) -> float:
    """Run a forward and a backward pass and return the mean loss; no backward pass if it is not finite.

    Weights are frozen: only gradients of activations are computed, and the backward pass ends at the first
    target modules. `receive` gets each target module that a gradient reaches, once, with tensors as
    `plugins.Score` describes them. If the model calls a target module several times (ALBERT's), the calls are
    joined along T.
    """
    hooks = _Hooks(scored, batch, receive)
    with hooks.attached():
        with scored.precision.autocast(batch["labels"].device), quick_attention():
            loss = scored.task.loss(scored.model, batch)
        if loss.requires_grad and torch.isfinite(loss):
            (loss * (_SCALE * len(batch["labels"]))).backward()  # type: ignore[no-untyped-call]
            hooks.finish()
    return float(loss.detach())


class _Hooks:
    def __init__(self, scored: ScoredModel, batch: Batch, receive: Receive) -> None:
        self._scored, self._receive = scored, receive
        self._layout = _Layout(batch, scored.task)
        self._n_calls: Counter[Target] = Counter()
        self._calls: defaultdict[Target, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for target in self._scored.targets:
                module = holder_of(self._scored.model, target)
                if target.kind != "parameter":
                    hook = partial(self._on_forward, target=target)
                    stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
                    continue
                parameter = cast(nn.Parameter, getattr(module, target.name.rpartition(".")[2]))
                if parameter.is_floating_point():
                    on_gradient = partial(self._on_parameter_gradient, target, module)
                    stack.callback(parameter.requires_grad_, False)
                    parameter.requires_grad_(True)
                    handle = parameter.register_post_accumulate_grad_hook(on_gradient)  # type: ignore[no-untyped-call]
                    stack.callback(handle.remove)
            yield

    def finish(self) -> None:
        """Deliver the target modules of which some calls got no gradient."""
        for target in list(self._calls):
            self._deliver(target)

    def _on_forward(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *, target: Target
    ) -> Tensor | None:
        """Return an output that reports its gradient; None leaves the output as it is."""
        if not torch.is_grad_enabled():
            return None  # a score calls a norm within the backward pass
        if target.kind == "norm" and sum(isinstance(x, Tensor) for x in (*args, *kwargs.values())) > 1:
            return None  # a gate next to the input changes the output in a way that no score models
        inputs = args[0] if args else next(iter(kwargs.values()))
        if not (isinstance(inputs, Tensor) and isinstance(output, Tensor)) or inputs.ndim < 2:
            return None
        if (inputs.shape[-1], output.shape[-1]) != (target.in_features, target.out_features):
            return None
        self._n_calls[target] += 1
        # Gradients begin at the first target modules. A clone, as a leaf must not be changed in place.
        traced: Tensor = output if output.requires_grad else output.detach().requires_grad_().clone()
        traced.register_hook(partial(self._on_gradient, target, [inputs]))  # type: ignore[no-untyped-call]
        return traced

    def _on_gradient(self, target: Target, held: list[Tensor], gradient: Tensor) -> None:
        # `held` is emptied, so that the input is freed although the hook lives on.
        pair = self._layout.inputs(held.pop()), self._layout.gradient(gradient) / _SCALE
        self._calls[target].append(pair)
        if len(self._calls[target]) == self._n_calls[target]:
            self._deliver(target)

    def _deliver(self, target: Target) -> None:
        inputs, gradient = (_joined(calls) for calls in zip(*self._calls.pop(target), strict=True))
        self._compute(target, holder_of(self._scored.model, target), inputs, gradient)

    def _on_parameter_gradient(self, target: Target, module: nn.Module, parameter: Tensor) -> None:
        gradient, parameter.grad = cast(Tensor, parameter.grad), None
        self._compute(target, module, parameter.detach(), gradient.float() / _SCALE)

    def _compute(self, target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        # Scores compute in float32, whatever the model computes in.
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            self._receive(target, module, inputs, gradient)


def _joined(calls: Sequence[Tensor]) -> Tensor:
    """Join the calls of a module along T; if their examples differ, each token is an example of its own."""
    if len(calls) == 1:
        return calls[0]
    if len({len(tensor) for tensor in calls}) == 1:
        return torch.cat(list(calls), dim=1)
    return torch.cat([tensor.reshape(-1, 1, tensor.shape[-1]) for tensor in calls])


class _Layout:
    """Reshapes the inputs and output gradients of layers to (B, T, features), in float32.

    An example may be several rows of the batch, such as windows of an image: layers see (B C, T, features),
    which become (B, C T, features). Rows that belong to no example (tokens routed to an expert) become one
    example each, shape (N, 1, features).

    Padding needs no mask: the loss does not depend on it, so its gradients are 0.
    """

    def __init__(self, batch: Batch, task: Task) -> None:
        self._n_examples = n = len(batch["labels"])
        values = [value for value in batch.values() if isinstance(value, Tensor)]
        # Lengths of a layer's input (N, features) that holds every example: some layers see (B T, features).
        self._whole_lengths = {n, *(v.numel() for v in values if v.ndim in (2, 3))}
        self._weights = _example_weights(batch, task)

    def inputs(self, tensor: Tensor) -> Tensor:
        """Reshape a layer's input to (B, T, in)."""
        n_rows = len(tensor)
        is_whole = n_rows in self._whole_lengths if tensor.ndim == 2 else n_rows % self._n_examples == 0
        shape = (self._n_examples, -1) if is_whole else (-1, 1)
        return tensor.detach().reshape(*shape, tensor.shape[-1]).float()

    def gradient(self, tensor: Tensor) -> Tensor:
        """Reshape the gradient of a layer's output to (B, T, out), as of the examples' own mean losses."""
        rows = self.inputs(tensor)
        if self._weights is not None and len(rows) == self._n_examples:
            return rows * self._weights.to(rows.device)[:, None, None]
        return rows


def _example_weights(batch: Batch, task: Task) -> Tensor | None:
    """Return factors (B,) on the examples' gradients if the loss is a mean over tokens; None if all are 1.

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


def split_in_half(batch: Mapping[str, Any]) -> tuple[Batch, Batch]:
    """Split a batch's examples into halves; values that are not one per example are in both."""
    n_examples = len(batch["labels"])
    middle = (n_examples + 1) // 2

    def half(rows: slice) -> Batch:
        return {
            name: value[rows] if isinstance(value, Tensor) and len(value) == n_examples else value
            for name, value in batch.items()
        }

    return half(slice(0, middle)), half(slice(middle, None))


def normalized(module: nn.Module, inputs: Tensor) -> Tensor:
    """Compute what a norm layer multiplies by its weight, in the shape of `inputs`."""
    with torch.no_grad():
        if type(module) is nn.LayerNorm:
            return nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
        # Gemma multiplies by 1 + weight, so the output at weight 0 is subtracted.
        return _output(module, inputs, weight=1.0) - _output(module, inputs, weight=0.0)


def _output(module: nn.Module, inputs: Tensor, *, weight: float) -> Tensor:
    """Compute a norm layer's output with one value in all of its weight and 0 in its other parameters."""
    state = {name: torch.zeros_like(p, dtype=inputs.dtype) for name, p in module.named_parameters()}
    state["weight"].fill_(weight)
    output: Tensor = torch.func.functional_call(module, state, (inputs,))
    return output.float()
