"""Passes of a run without training: the sensitivity of its target modules, and the routing to experts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autopeft.errors import SpecError
from autopeft.model import components, is_out_of_memory, release_memory
from autopeft.model.attaching import note_state
from autopeft.model.devices import exact_products
from autopeft.plugins import Batch, Score, discover
from autopeft.sensitivity import ScoredModel, measure
from autopeft.setup.build import Prepared
from autopeft.setup.resources import memory_needed
from autopeft.types import SIZE_SCORE, Sensitivity, TargetScores

MAX_EXAMPLES = 512  # of the sensitivity pass, unless the user asks for more
_SHARE = 0.05  # of a full run's cost: the project's promise
# Cost of the pass over one example relative to one example of LoRA training at all linear layers, and what
# each score adds. Upper bounds, measured at 32 and 128 tokens, and on the demo, by `sensitivity_cost.py` of
# commit a7a790e4.
_PASS_COST, _SCORE_COST = 1.2, 0.7
_BATCH = 16  # examples; heuristic: few examples must also make several batches
_ROUTED_EXAMPLES = 128  # whose routing is counted by default; heuristic
_SORTED_BATCHES = 4  # batches whose examples are sorted by length together; heuristic

log = logging.getLogger(__name__)


def sensitivity(prepared: Prepared, names: Sequence[str], *, max_examples: int | None = None) -> Sensitivity:
    """Score every target module on a seeded sample of the train split.

    Without `max_examples`, the pass may cost 5 % of a full run, with at least one batch and at most 512
    examples. It ends early, and a note says so, once two halves of the examples rank the target modules alike
    (see `measure`).

    Raises:
        SpecError: A score is not finite, or one example does not fit into memory.
        DataError: A loss is not finite.
    """
    installed = discover("autopeft.sensitivity")
    scores: list[Score] = [installed[name] for name in dict.fromkeys(names)]
    n_train = prepared.bench.splits["train"].n_early
    n_requested = max_examples or default_examples(
        scores, full_run_examples=prepared.full_steps * prepared.bench.batch_size
    )
    batches = _batches(prepared, n_examples=min(n_requested, n_train))
    with memory_needed("the sensitivity pass", prepared.spec), exact_products():
        scored = measure(scores, _scored_model(prepared), batches)
    notes = scored.notes
    if 0 < scored.n_examples < n_requested:
        is_whole = scored.n_examples >= n_train
        reason = (
            "the train split has no more" if is_whole else "two halves of them rank the target modules alike"
        )
        notes += (f"Stopped after {scored.n_examples} of {n_requested} examples: {reason}.",)
    return replace(scored, n_asked=n_requested, notes=notes)


def routing(prepared: Prepared, *, max_examples: int | None = None) -> dict[str, tuple[int, ...]]:
    """Count the tokens that each expert gets from train examples; empty without routed experts."""
    base, task = prepared.base, prepared.task
    if "routed_experts" not in components(base.module).values():
        return {}
    n_examples = min(max_examples or _ROUTED_EXAMPLES, prepared.bench.splits["train"].n_early)
    restore = note_state(base.module)
    base.module.eval()
    try:
        with torch.no_grad(), base.precision.autocast(base.device), memory_needed("routing", prepared.spec):
            batches = _batches(prepared, n_examples=n_examples, n_rows=1)  # so that memory suffices
            return count_routing(base.module, batches, lambda batch: task.loss(base.module, batch))
    finally:
        restore()


def count_routing(
    model: nn.Module, batches: Iterable[Batch], forward: Callable[[Batch], object]
) -> dict[str, tuple[int, ...]]:
    """Return the tokens of each expert, without padding, by the module that holds a layer's experts.

    The module gets the chosen experts of each token from the router, as whole numbers (tokens, experts per
    token). Llama 4, JetMoe and models with a module for each expert pass something else; their layers are
    left out.
    """
    counts: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def count(name: str, n_experts: int, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        inputs = [*args, *kwargs.values()]
        for chosen in inputs:
            if isinstance(chosen, Tensor) and chosen.dtype == torch.long and chosen.ndim == 2:
                kept = chosen if mask is None else chosen[mask.flatten().bool().to(chosen.device)]
                # LongCat numbers experts without weights after the others
                found = kept.flatten().bincount(minlength=n_experts)[:n_experts].cpu()
                counts[name] = counts[name] + found if name in counts else found

    with contextlib.ExitStack() as stack:
        for name, component in components(model).items():
            stacked = [each for each in model.get_submodule(name).parameters() if each.ndim == 3]
            if component == "routed_experts" and stacked:
                hook = partial(count, name, len(stacked[0]))
                experts = model.get_submodule(name)
                stack.callback(experts.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for batch in batches:
            mask = batch.get("attention_mask")
            forward(batch)
    return {name: tuple(found.tolist()) for name, found in counts.items()}


def _scored_model(prepared: Prepared) -> ScoredModel:
    return ScoredModel(
        model=prepared.base.module,
        targets=prepared.base.chosen,
        task=prepared.task,
        precision=prepared.base.precision,
        max_tokens=prepared.bench.compute.plain_tokens,  # layers are not checkpointed there
    )


def logged_scores(prepared: Prepared, names: Sequence[str]) -> tuple[TargetScores, ...]:
    """Score the target modules for a search, and log the notes that `analyze` would print.

    If one example does not fit into memory, log a warning and compute `parameters` instead.
    """
    try:
        scored = sensitivity(prepared, names)
    except SpecError as error:
        if error.__cause__ is None or not is_out_of_memory(error.__cause__):
            raise
        log.warning("%s Target modules are ordered by their number of weights instead.", error)
        scored = None
    if scored is None:  # not inside the handler: its error keeps the tensors in memory
        release_memory(prepared.base.device)
        scored = sensitivity(prepared, [SIZE_SCORE])
    for note in scored.notes:
        log.info("Sensitivity: %s", note)
    if scored.unreachable:
        log.warning("No gradient reaches these modules, which score 0: %s", ", ".join(scored.unreachable))
    return scored.scores


def default_examples(scores: Sequence[Score], *, full_run_examples: int) -> int:
    """Count the examples that 5 % of a full run covers, in [16, 512]; 512 if no score reads examples."""
    n_scores = sum(score.reads_examples for score in scores)
    if not n_scores:
        return MAX_EXAMPLES
    n_examples = int(_SHARE * full_run_examples / (_PASS_COST + _SCORE_COST * n_scores))
    return max(_BATCH, min(MAX_EXAMPLES, n_examples))


def _batches(prepared: Prepared, *, n_examples: int, n_rows: int = _BATCH) -> Iterator[Batch]:
    """Draw a seeded sample in batches of similar length; the batches come in random order."""
    split = prepared.bench.splits["train"]
    lengths = split.lengths
    rng = np.random.default_rng(prepared.spec.search.seed)
    sample = rng.permutation(split.n_early)[:n_examples].tolist()
    n_sorted = n_rows * _SORTED_BATCHES
    for start in range(0, n_examples, n_sorted):
        rows = sorted(sample[start : start + n_sorted], key=lambda i: (lengths[i], i))
        batches = [rows[i : i + n_rows] for i in range(0, len(rows), n_rows)]
        for index in rng.permutation(len(batches)):
            batch = prepared.task.collate(
                [split.examples[i] for i in batches[index]],
                [split.labels[i] for i in batches[index]],
                prepared.base.pad_token_id,
            )
            yield {name: tensor.to(prepared.base.device) for name, tensor in batch.items()}
