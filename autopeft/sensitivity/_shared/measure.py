"""Every score at every target, from one pass over some batches that ends when two halves of them agree."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autopeft.errors import DataError, SpecError, reason_of
from autopeft.metrics import spearman
from autopeft.model import is_out_of_memory, release_memory
from autopeft.model.devices import SavedBytes, devices_of
from autopeft.model.user_model import note_flags
from autopeft.plugins import Batch, Score
from autopeft.sensitivity._shared.layout import half_of_row, shortened, split_in_half
from autopeft.sensitivity._shared.visit import ScoredModel, Seen, Visit
from autopeft.types import SEEN_ENOUGH, Sensitivity, Target, TargetScores

_FIRST_LOOK = 64  # examples after which halves are first compared; chosen by hand


def measure(
    scores: Sequence[Score],
    scored: ScoredModel,
    batches: Iterable[Batch],
    *,
    enough: float = SEEN_ENOUGH,
) -> Sensitivity:
    """Compute every score at every target module, from one forward and one backward pass for each batch.

    Weights are frozen: only gradients of activations are computed, and the backward pass ends at the first
    target modules. Batches go to two reducers in turn (one batch alone is halved). Their rankings of the
    target modules are compared after 64 examples and whenever the number of examples has doubled; the pass
    ends when all scores agree by `enough`.

    Args:
        scores: The scores, in the order of the result.
        scored: The model, its target modules and the task. The model may be in any mode and is run in eval
            mode; mode, hooks, gradients, flags and weights are left as found.
        batches: Each with `labels` (B,) or (B, T); read one at a time. Each should be a fair sample.
        enough: Spearman's rho in [0, 1] between the halves; more than 1 never ends early.

    Raises:
        DataError: A loss that is not finite.
        SpecError: A score that is not finite, or one example that does not fit into memory.
    """
    started = time.perf_counter()
    model, targets = scored.model, scored.targets
    halves = _Halves(scores, targets)
    runner = _BatchRunner(scored, halves)
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
    results, notes = halves.result(dropped=runner.dropped, reached=reached)
    return Sensitivity(
        scores=results,
        n_examples=sum(halves.n_examples),
        n_asked=sum(halves.n_examples),
        seconds=time.perf_counter() - started,
        peak_bytes=peak_bytes,
        unreachable=tuple(target.name for target in targets if needs_examples and target.name not in reached),
        notes=(*runner.notes, *notes),
    )


def _run_until_agreement(
    runner: _BatchRunner, halves: _Halves, batches: Iterable[Batch], model: nn.Module, *, enough: float
) -> int:
    """Run batch after batch until the halves agree; returns the peak of memory in bytes."""
    gpus = [device for device in devices_of(model) if device.type == "cuda"]
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    next_look = _FIRST_LOOK
    stream = iter(batches)
    two = list(itertools.islice(stream, 2))
    if len(two) == 1 and len(two[0]["labels"]) > 1:  # a single batch comes in two halves
        two = [*split_in_half(two[0])]
    for index, batch in enumerate(itertools.chain(two, stream)):
        runner.run(batch, index=index)
        if index % 2 and sum(halves.n_examples) >= next_look:
            next_look = 2 * sum(halves.n_examples)
            if all((rho or 0.0) >= enough for rho in halves.agreements().values()):
                break
    return sum(map(torch.cuda.max_memory_allocated, gpus)) if gpus else runner.peak_bytes + halves.kept_bytes


class _Halves:
    """The reducers of all scores, twice: batches go to the first and to the second half in turn."""

    def __init__(self, scores: Sequence[Score], targets: Sequence[Target]) -> None:
        self.scores = scores
        self.reducers = [[score.reducer(targets) for score in scores] for _ in range(2)]
        self.n_examples = [0, 0]  # that each half has seen
        self._target_names = [target.name for target in targets]

    @property
    def kept_bytes(self) -> int:
        """Bytes of the tensors that the reducers have kept."""
        states = [vars(reducer) for half in self.reducers for reducer in half if hasattr(reducer, "__dict__")]
        return sum(leaf.nbytes for leaf in tree_leaves(states) if isinstance(leaf, Tensor))

    def agreements(self) -> dict[str, float | None]:
        """Score name -> Spearman's rho between the halves' values, of the scores that look at examples."""
        agreements = {}
        for score, *reducers in zip(self.scores, *self.reducers, strict=True):
            if score.reads_examples:
                halves = zip(reducers, self.n_examples, strict=True)
                values = [reducer.values(max(1, n_examples)) for reducer, n_examples in halves]
                names = [name for name in self._target_names if name in values[0] or name in values[1]]
                ranked = ([half.get(name, 0.0) for name in names] for half in values)
                agreements[score.name] = rank_correlation(*ranked)
        return agreements

    def result(
        self, *, dropped: frozenset[str], reached: set[str]
    ) -> tuple[tuple[TargetScores, ...], list[str]]:
        """The scores of both halves together, and notes on targets that they miss; call it once, at the end.

        Values are in the order of the target modules. Target modules without a value score 0, as do those
        that were `dropped`, since they do not fit into memory. A score is expected to have a value for all
        `reached` target modules, or for all target modules if it reads no examples.
        """
        agreements, n_examples = self.agreements(), sum(self.n_examples)
        results, notes = [], []
        for score, reducer, other in zip(self.scores, *self.reducers, strict=True):
            if score.reads_examples:
                reducer.add(other)
            values = reducer.values(max(1, n_examples))
            if score.reads_examples:
                values = {name: value for name, value in values.items() if name not in dropped}
            n_missing = len((reached if score.reads_examples else set(self._target_names)) - values.keys())
            if n_missing:
                notes.append(
                    f"{score.name} does not measure {n_missing} of the target modules; they score 0."
                )
            _require_scores(score.name, values)
            results.append(
                TargetScores(
                    name=score.name,
                    values=tuple(values.get(name, 0.0) for name in self._target_names),
                    split_half=agreements.get(score.name),
                    n_examples=n_examples if score.reads_examples else 0,
                )
            )
        return tuple(results), notes


def _require_scores(score: str, values: Mapping[str, float]) -> None:
    """Raise SpecError for a value of a score that is not finite, or below 0."""
    for name, value in values.items():
        remedy = None
        if not math.isfinite(value):
            remedy = "it should be finite and at least 0. Load the model in fp32, or check its weights."
        elif value < 0:
            remedy = "a score gives at least 0. Choose another score, or mend this one."
        if remedy is not None:
            raise SpecError(f"The score {score} is {value} at {name}; {remedy}")


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Compare the order of two lists of equal length: Spearman's rho in [-1, 1]; ties share their mean rank.

    None for fewer than 3 pairs, or if one side is constant and so has no order.
    """
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return spearman(np.asarray(a), np.asarray(b))


class _BatchRunner:
    """Runs batches through the model, in smaller parts where memory runs out; feeds the halves' reducers.

    Limits of memory that one batch shows hold for later batches. `reached` are the target modules that were
    seen, `dropped` those that do not fit into memory; `peak_bytes` is the most that autograd held on the CPU.
    """

    def __init__(self, scored: ScoredModel, halves: _Halves) -> None:
        self._scored, self._halves = scored, halves
        self._largest = 0  # numbers in the largest part whose memory was counted
        self._max_examples: int | None = None  # that fit into memory at once; None: no limit was met
        self._row_tokens: int | None = None  # of a row that does not fit as a whole; None: all did
        self.reached: set[str] = set()
        self.dropped: frozenset[str] = frozenset()
        self.notes: list[str] = []
        self.peak_bytes = 0

    def run(self, batch: Batch, *, index: int) -> None:
        """Run one batch, in parts if it does not fit into memory; `index` decides which half counts it."""
        pairs = zip(self._halves.scores, self._halves.reducers[index % 2], strict=True)
        reducers = [reducer for score, reducer in pairs if score.reads_examples]
        to_do: list[tuple[Batch, frozenset[Seen]]] = [(batch, frozenset())]
        while to_do:
            part, seen = to_do.pop()
            if self._is_too_large(part):
                to_do += [(half, seen) for half in split_in_half(part)[::-1]]
                continue
            if self._row_tokens is not None:
                part = shortened(part, self._row_tokens)
            self._scored.interrupt()
            visit = Visit(self._scored, part, reducers=reducers, seen=seen, counter=self._counter(part))
            if self._succeeds(visit, part, index=index):
                self.reached |= visit.reached
            else:
                to_do.append((part, frozenset(visit.seen)))
        self._halves.n_examples[index % 2] += len(batch["labels"])

    def _is_too_large(self, part: Batch) -> bool:
        """Whether a part has more examples, or more tokens, than go through the model at once."""
        n_examples, max_tokens = len(part["labels"]), self._scored.max_tokens
        if self._max_examples is not None and n_examples > self._max_examples:
            return True
        tokens = part.get("input_ids")
        return (
            max_tokens is not None and tokens is not None and n_examples > 1 and tokens.numel() > max_tokens
        )

    def _succeeds(self, visit: Visit, part: Batch, *, index: int) -> bool:
        """Run a visit; False if memory ran out, limits were lowered, and the part must be visited again."""
        try:
            loss = visit.run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._lower_limit(part, error, index=index)
        else:
            if not math.isfinite(loss):
                weights = self._scored.model.named_parameters()
                broken = next((name for name, p in weights if not bool(torch.isfinite(p).all())), None)
                remedy = "Check the texts and labels of that batch; the weights are finite."
                if broken is not None:
                    remedy = f"{broken} of the base model is not finite; download the weights again."
                raise DataError(
                    f"The loss of batch {index + 1} ({len(part['labels'])} examples) is {loss}; a score "
                    f"needs finite losses. {remedy}"
                )
            self.peak_bytes = max(self.peak_bytes, visit.held_bytes)
            return True
        release_memory(part["labels"].device)  # after the handler, whose error holds on to the tensors
        return False

    def _lower_limit(self, part: Batch, error: RuntimeError | MemoryError, *, index: int) -> None:
        """Halve the examples at once; of a single one drop the experts' targets, then halve its tokens."""
        n_examples = len(part["labels"])
        if n_examples > 1:
            self._max_examples = (n_examples + 1) // 2
            self.notes.append(
                f"Memory ran out at {n_examples} examples at once; went on with {self._max_examples}."
            )
            return
        targets = self._scored.targets
        if experts := frozenset(target.name for target in targets if target.kind == "parameter"):
            self.dropped = experts
            self._scored = replace(self._scored, targets=tuple(s for s in targets if s.kind != "parameter"))
            self.notes.append("Memory ran out at one example: experts in one parameter score 0.")
            return
        is_causal = self._scored.task.peft_task_type == "CAUSAL_LM"
        n_tokens = half_of_row(part) if is_causal else None
        if n_tokens is None:
            raise SpecError(
                f"One example of batch {index + 1} does not fit into memory ({reason_of(error)}); "
                "lower --max-length, or use a smaller base model."
            ) from error
        self._max_examples, self._row_tokens = 1, n_tokens
        self.notes.append(
            f"Memory ran out at one row; went on with {n_tokens} of its tokens, those before its last label."
        )

    def _counter(self, part: Batch) -> SavedBytes | None:
        """Make a counter of saved bytes if this is the largest part so far, on the CPU; else None."""
        size = sum(value.numel() for value in part.values() if isinstance(value, Tensor))
        is_largest = size > self._largest and not part["labels"].is_cuda
        self._largest = size if is_largest else self._largest
        return SavedBytes() if is_largest else None
