"""One batch through a frozen model: inputs and gradients of every target go to reducers and are dropped."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from autopeft.model import Precision
from autopeft.model.devices import SavedBytes
from autopeft.model.training_pass import quick_attention
from autopeft.plugins import Batch, Reducer, Task
from autopeft.sensitivity._shared.layout import Layout, example_weights
from autopeft.types import Target

Pair = tuple[Tensor, Tensor]  # a target module's inputs and the gradient of its outputs
Seen = tuple[int, str]  # which reducer has seen which target module
# Of gradients on their way, as float16 loses those below 6e-8; a power of two, which changes no other format.
_SCALE = 2.0**10


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model with the target modules to score, and the task that gives the loss.

    The loss is the mean over a batch's examples, or over its tokens that have a label. Forward passes compute
    in `precision`; scores are added up in float32. A batch of more than `max_tokens`, padding included, goes
    through the model in parts; None: no limit is known. `interrupt` is called before each part; what it
    raises ends the pass.
    """

    model: nn.Module
    targets: tuple[Target, ...]
    task: Task
    precision: Precision = field(default_factory=Precision)
    max_tokens: int | None = None
    interrupt: Callable[[], None] = lambda: None

    def loss(self, batch: Batch) -> Tensor:
        """The task's loss of a batch, computed as in training."""
        with self.precision.autocast(batch["labels"].device), quick_attention():
            return self.task.loss(self.model, batch)


class Visit:
    """One batch's forward and backward pass.

    Gradients of a target module that the model calls more than once in a forward pass (ALBERT's) are handed
    over once, the calls joined along T. `seen` grows as target modules are handed over: after memory ran out,
    the next visit of the same examples starts from it and counts nothing twice.
    """

    def __init__(
        self,
        scored: ScoredModel,
        batch: Batch,
        *,
        reducers: Sequence[Reducer],
        seen: frozenset[Seen],
        counter: SavedBytes | None,
    ) -> None:
        self._scored, self._batch, self._counter = scored, batch, counter
        self._reducers = reducers
        weights = example_weights(batch, scored.task)
        self._layout = Layout(scored.model.config, batch, weights=weights)
        self._n_calls: Counter[Target] = Counter()
        self._waiting: dict[Target, list[Pair]] = defaultdict(list)
        self._is_listening = True  # False while a reducer runs, as it may call a norm
        self._seen_before = seen
        self.seen: set[Seen] = set(seen)
        self.reached: set[str] = set()
        self.held_bytes = 0

    def run(self) -> float:
        """Run a forward and a backward pass, and return the batch's mean loss; no backward if not finite."""
        model = self._scored.model
        with _watching(self._scored, self._on_call), contextlib.ExitStack() as hooks:
            for target in self._scored.targets:
                if target.kind == "parameter":
                    hooks.enter_context(_gradient_of(model, target, self._reduce))
            with self._counter.counting() if self._counter else contextlib.nullcontext():
                loss = self._scored.loss(self._batch)
            self.held_bytes = self._counter.total if self._counter else 0
            value = float(loss.detach())
            if loss.requires_grad and torch.isfinite(loss):
                (loss * (_SCALE * len(self._batch["labels"]))).backward()  # type: ignore[no-untyped-call]
                for target, pairs in self._waiting.items():  # some of their calls got no gradient
                    self._join_calls(target, pairs)
        return value

    def _on_call(self, target: Target, module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor | None:
        """Return an output that reports its gradient; None leaves the output as it is."""
        if not self._is_listening:
            return None
        self._n_calls[target] += 1
        if not output.requires_grad:
            # Gradients begin here, at the first target modules. A clone, as a leaf must not be changed in
            # place.
            output = output.detach().requires_grad_().clone()
        if self._counter:
            self._counter.count(inputs)
        output.register_hook(partial(self._on_gradient, target, [inputs]))  # type: ignore[no-untyped-call]
        return output

    def _on_gradient(self, target: Target, held: list[Tensor], gradient: Tensor) -> None:
        # `held` is emptied, so that the input is freed although the hook lives on.
        pair = self._layout.inputs(held.pop(), target), self._layout.gradient(gradient, target) / _SCALE
        self._waiting[target].append(pair)
        if len(self._waiting[target]) == self._n_calls[target]:
            self._join_calls(target, self._waiting.pop(target))

    def _join_calls(self, target: Target, pairs: Sequence[Pair]) -> None:
        """Hand over all calls of a target, joined along T; each token routed to an expert is an example."""
        module = self._scored.model.get_submodule(target.name)
        if len(pairs) == 1:
            self._reduce(target, module, *pairs[0])
            return
        is_routed = len({len(inputs) for inputs, _ in pairs}) > 1
        if is_routed:
            pairs = [(x.reshape(-1, 1, x.shape[-1]), g.reshape(-1, 1, g.shape[-1])) for x, g in pairs]
        inputs, gradient = (torch.cat(calls, 0 if is_routed else 1) for calls in zip(*pairs, strict=True))
        self._reduce(target, module, inputs, gradient)

    def _reduce(self, target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        self.reached.add(target.name)
        self._is_listening = False
        # Reducers compute in float32, whatever the model computes in.
        with torch.no_grad(), torch.autocast(inputs.device.type, enabled=False):
            for reducer in self._reducers:
                key = (id(reducer), target.name)
                if key not in self._seen_before:
                    reducer.update(target, module, inputs, gradient)
                    self.seen.add(key)
        self._is_listening = True


@contextlib.contextmanager
def _watching(
    scored: ScoredModel, on_call: Callable[[Target, nn.Module, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `on_call` with the input and output of each call of a target; it may give another output."""

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *, target: Target
    ) -> Tensor | None:
        inputs = args[0] if args else next(iter(kwargs.values()))
        if target.kind == "norm" and sum(isinstance(x, Tensor) for x in (*args, *kwargs.values())) > 1:
            return None  # with a gate beside the input, whose part in the output no score knows
        are_tensors = isinstance(inputs, Tensor) and isinstance(output, Tensor)
        if not are_tensors or inputs.ndim < 2 or not output.is_floating_point():
            return None
        has_features = (inputs.shape[-1], output.shape[-1]) == (target.in_features, target.out_features)
        return on_call(target, module, inputs, output) if has_features else None

    with contextlib.ExitStack() as hooks:
        for target in scored.targets:
            if target.kind != "parameter":
                module = scored.model.get_submodule(target.name)
                handle = module.register_forward_hook(partial(hook, target=target), with_kwargs=True)
                hooks.callback(handle.remove)
        yield


@contextlib.contextmanager
def _gradient_of(
    model: nn.Module, target: Target, reduce: Callable[[Target, nn.Module, Tensor, Tensor], None]
) -> Iterator[None]:
    """Let the parameter of a target module have a gradient, which `reduce` gets and which is then dropped."""
    holder, _, name = target.name.rpartition(".")
    module = model.get_submodule(holder)
    parameter = cast(nn.Parameter, getattr(module, name))
    if not parameter.is_floating_point():
        yield
        return

    def take(weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        reduce(target, module, weight.detach(), gradient.detach().float() / _SCALE)

    parameter.requires_grad_(True)
    hook = parameter.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
        parameter.requires_grad_(False)
