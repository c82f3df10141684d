"""One batch through a frozen model: what every site sees is handed to reducers, and dropped."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from autopeft.extension import Batch, Reducer, Task
from autopeft.model import SavedBytes
from autopeft.records import Site
from autopeft.sensitivity._draws import example_weights
from autopeft.sensitivity._layout import Layout, halves, n_rows

Key = tuple[int, str, int]  # which reducer, which site, which of its calls


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A model with the sites that are looked at, and the task that gives the loss.

    `tokens_first` names the sites whose layers see (T, B, features); None: not known yet.
    """

    model: nn.Module
    modules: Mapping[str, nn.Module]
    sites: tuple[Site, ...]
    task: Task
    tokens_first: frozenset[str] | None = None


class Visit:
    """One batch's way through the model.

    `inputs_only` get each site's input, `others` the gradient too. What is in `done` is not
    counted again: a batch that ran out of memory is repeated in halves. Sites that a model calls more than
    once in a forward pass (ALBERT's) are handed over once, their calls after each other along T.
    """

    def __init__(
        self,
        watched: Watched,
        batch: Batch,
        *,
        inputs_only: Sequence[Reducer] = (),
        others: Sequence[Reducer] = (),
        done: frozenset[Key] = frozenset(),
        counter: SavedBytes | None = None,
    ) -> None:
        self._watched = watched
        self._batch = batch
        self._inputs_only = inputs_only
        self._others = others
        self._counter = counter
        self._layout = Layout(
            watched.model,
            batch,
            weights=example_weights(batch, watched.task),
            tokens_first=watched.tokens_first,
        )
        self._n_calls: Counter[str] = Counter()
        self._waiting: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        self._listening = True  # a reducer may call a norm itself
        self._done = done
        self.done: set[Key] = set(done)
        self.reached: set[str] = set()
        self.held_bytes = 0

    @property
    def model(self) -> nn.Module:
        """The model that is gone through."""
        return self._watched.model

    def run(self) -> float:
        """Forward and, where there are others than `inputs_only`, backward; gives the mean loss.

        Raises:
            UnclearShapeError: It must be known which sites' tokens come first.
        """
        with contextlib.ExitStack() as watching:
            for site in self._watched.sites:
                self._watch(site, watching)
            if not self._others:
                with torch.no_grad():
                    return float(self._watched.task.loss(self._watched.model, self._batch))
            with self._counter.counting() if self._counter else contextlib.nullcontext():
                loss = self._watched.task.loss(self._watched.model, self._batch)
            self.held_bytes = self._counter.total if self._counter else 0
            value = float(loss.detach())
            if loss.requires_grad and torch.isfinite(loss):
                (loss * len(self._batch["labels"])).backward()  # type: ignore[no-untyped-call]
                self._hand_over_rest()
        return value

    def sites_with_tokens_first(self) -> frozenset[str]:
        """Of which sites the layers see (T, B, features), as XLNet's do: told by one example alone."""
        one = self._batch
        while len(one["labels"]) > 1:
            one = halves(one)[0]
        rows, found = n_rows(one), set[str]()

        def look(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *, site: Site
        ) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            is_clear = _fits(site, inputs, output) and inputs.ndim > 2
            if is_clear and inputs.shape[1] == rows != len(inputs):
                found.add(site.name)

        with contextlib.ExitStack() as watching, torch.no_grad():
            for site in self._watched.sites:
                if site.kind != "parameter":
                    module = self._watched.modules[site.name]
                    hook = module.register_forward_hook(partial(look, site=site), with_kwargs=True)
                    watching.callback(hook.remove)
            self._watched.task.loss(self._watched.model, one)
        return frozenset(found)

    def _watch(self, site: Site, watching: contextlib.ExitStack) -> None:
        if site.kind != "parameter":
            hook = partial(self._called, site=site)
            module = self._watched.modules[site.name]
            watching.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        elif self._others:
            holder, _, own = site.name.rpartition(".")
            module = self._watched.modules[holder]
            parameter = cast(nn.Parameter, getattr(module, own))
            watching.enter_context(_gradient_of(parameter, partial(self._reduce, site, module)))

    def _called(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, *, site: Site
    ) -> torch.Tensor | None:
        """See this call's input; have its output's gradient sent, and let gradients begin here if need be."""
        inputs = args[0] if args else next(iter(kwargs.values()))
        if not self._listening or not _fits(site, inputs, output):
            return None
        self._layout.require_clear(inputs)
        n_before = self._n_calls[site.name]
        self._n_calls[site.name] += 1
        if self._inputs_only:
            if not self._others:
                self.reached.add(site.name)
            rows = self._layout.inputs(inputs, site)
            self._give(self._inputs_only, site, module, (rows, rows.new_empty(0)), call=n_before)
        if not self._others:
            return None
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()  # a leaf could not be changed in place
        if self._counter:
            self._counter.count(inputs)
        held = [inputs]
        output.register_hook(partial(self._arrived, site, module, held))
        return cast(torch.Tensor, output)

    def _arrived(
        self, site: Site, module: nn.Module, held: list[torch.Tensor], gradient: torch.Tensor
    ) -> None:
        pair = self._layout.inputs(held.pop(), site), self._layout.gradient(gradient, site)
        if self._n_calls[site.name] == 1:
            self._reduce(site, module, *pair)
            return
        waiting = self._waiting[site.name]
        waiting.append(pair)
        if len(waiting) == self._n_calls[site.name]:
            self._hand_over(site, self._waiting.pop(site.name))

    def _hand_over_rest(self) -> None:
        """Sites of which some calls got no gradient."""
        sites = {site.name: site for site in self._watched.sites}
        for name, pairs in self._waiting.items():
            self._hand_over(sites[name], pairs)

    def _hand_over(self, site: Site, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        inputs, gradients = zip(*pairs, strict=True)
        along = 1 if len({len(rows) for rows in inputs}) == 1 else 0
        if along == 0:  # routed tokens, each by itself
            inputs = tuple(rows.reshape(-1, 1, rows.shape[-1]) for rows in inputs)
            gradients = tuple(rows.reshape(-1, 1, rows.shape[-1]) for rows in gradients)
        self._reduce(
            site, self._watched.modules[site.name], torch.cat(inputs, along), torch.cat(gradients, along)
        )

    def _reduce(self, site: Site, module: nn.Module, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        self.reached.add(site.name)
        self._give(self._others, site, module, (inputs, gradient))

    def _give(
        self,
        reducers: Sequence[Reducer],
        site: Site,
        module: nn.Module,
        tensors: tuple[torch.Tensor, torch.Tensor],
        *,
        call: int = 0,
    ) -> None:
        self._listening = False
        with torch.no_grad():
            for reducer in reducers:
                key = (id(reducer), site.name, call)
                if key not in self._done:
                    reducer.see(site, module, *tensors)
                    self.done.add(key)
        self._listening = True


def _fits(site: Site, inputs: Any, output: Any) -> bool:
    """Whether a call is one that the site's numbers speak of, features last."""
    if not isinstance(inputs, torch.Tensor) or not isinstance(output, torch.Tensor):
        return False
    shapes = inputs.shape[-1] == site.in_features and output.shape[-1] == site.out_features
    return inputs.ndim > 1 and shapes and output.is_floating_point()


@contextlib.contextmanager
def _gradient_of(
    parameter: nn.Parameter, see: Callable[[torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Let one parameter have a gradient, which is handed over and dropped at once."""
    if not parameter.is_floating_point():
        yield
        return

    def take(own: torch.Tensor) -> None:
        gradient, own.grad = own.grad, None
        assert gradient is not None
        see(own.detach(), gradient.detach().float())

    before, parameter.grad = parameter.grad, None
    parameter.requires_grad_(True)
    hook = parameter.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
        parameter.requires_grad_(False)
        parameter.grad = before
