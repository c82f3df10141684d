"""Every score at every site, from one pass over some batches that ends when two halves of them agree."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from autopeft.extension import Batch, Score
from autopeft.model import note_flags
from autopeft.records import SEEN_ENOUGH, Sensitivity
from autopeft.sensitivity.parts.batches import BatchRunner
from autopeft.sensitivity.parts.halves import SplitHalves
from autopeft.sensitivity.parts.layout import split_in_half
from autopeft.sensitivity.parts.visit import ScoredModel

MEASURED_KINDS = ("linear", "conv1d", "norm", "parameter")
_FIRST_LOOK = 64  # examples after which halves are first compared; chosen by hand


def measure(
    scores: Sequence[Score],
    scored: ScoredModel,
    batches: Iterable[Batch],
    *,
    enough: float = SEEN_ENOUGH,
) -> Sensitivity:
    """Every score at every site, from one forward and one backward pass for each batch.

    Weights are frozen: only gradients of activations are computed, and the backward pass ends at the first
    sites. Batches go to two reducers in turn (one batch alone is halved). Their rankings of the sites are
    compared after 64 examples and whenever the number of examples has doubled; the pass ends where all scores
    agree by `enough`.

    Args:
        scores: Which scores.
        scored: The model, its sites and the task. The model may be in any mode and is run in eval mode; mode,
            hooks, gradients, flags and weights are left as found. Sites of the kind `model` score 0.
        batches: Each with `labels` (B,) or (B, T); read one at a time. Each should be a fair sample.
        enough: Spearman's rho in [0, 1] between the halves; more than 1 never ends early.

    Returns:
        Values in the order of the sites; `n_asked` is the number of examples seen.

    Raises:
        DataError: A loss that is not finite.
        SpecError: A score that is not finite, or one example that does not fit into memory.
    """
    started = time.perf_counter()
    model, sites = scored.model, scored.sites
    measured = tuple(site for site in sites if site.kind in MEASURED_KINDS)
    scored = replace(scored, sites=measured)
    halves = SplitHalves(scores, measured)
    runner = BatchRunner(scored, halves)
    peak_bytes = 0
    needs_examples = any(score.reads_examples for score in scores)
    if needs_examples:
        put_back = note_flags(model)
        model.eval().requires_grad_(False).zero_grad()
        try:
            peak_bytes = _run_until_agreement(runner, halves, batches, model, enough=enough)
        finally:
            put_back()
    reached = runner.reached - runner.dropped
    results = halves.result(sites, dropped=runner.dropped, reached=reached, notes=runner.notes)
    names = [site.name for site in measured] if needs_examples else []
    return Sensitivity(
        scores=results,
        n_examples=halves.n_seen,
        n_asked=halves.n_seen,
        seconds=time.perf_counter() - started,
        peak_bytes=peak_bytes,
        unreachable=tuple(name for name in names if name not in reached),
        notes=tuple(runner.notes),
    )


def _run_until_agreement(
    runner: BatchRunner, halves: SplitHalves, batches: Iterable[Batch], model: nn.Module, *, enough: float
) -> int:
    """Run batch after batch until the halves agree; gives the peak of memory in bytes."""
    device = next(model.parameters()).device  # which need not be the current one
    is_on_gpu = device.type == "cuda"
    if is_on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    next_look = _FIRST_LOOK
    for index, batch in enumerate(_at_least_two(batches)):
        runner.run(batch, index=index)
        if index % 2 and halves.n_seen >= next_look:
            next_look = 2 * halves.n_seen
            if all((rho or 0.0) >= enough for rho in halves.agreements().values()):
                break
    return torch.cuda.max_memory_allocated(device) if is_on_gpu else runner.peak_bytes + halves.kept_bytes


def _at_least_two(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; a single batch of more than one example comes in two halves."""
    stream = iter(batches)
    first = list(itertools.islice(stream, 2))
    if len(first) == 1 and len(first[0]["labels"]) > 1:
        first = [*split_in_half(first[0])]
    return itertools.chain(first, stream)
