"""Every score at every target module, from one pass over some batches."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autopeft.errors import DataError, SpecError, reason_of
from autopeft.metrics import spearman
from autopeft.model import is_out_of_memory, release_memory
from autopeft.model.attaching import note_state
from autopeft.model.devices import devices_of
from autopeft.plugins import Batch, Score
from autopeft.sensitivity._shared.gradients import ScoredModel, backward, holder_of, split_in_half
from autopeft.types import SEEN_ENOUGH, Sensitivity, Target, TargetScores

Values = dict[tuple[str, str], float]  # by score and target module
_FIRST_LOOK = 64  # examples after which even and odd batches are first compared; heuristic


def measure(
    scores: Sequence[Score], scored: ScoredModel, batches: Iterable[Batch], *, enough: float = SEEN_ENOUGH
) -> Sensitivity:
    """Compute every score at every target module, from one forward and one backward pass for each batch.

    The pass ends early once even and odd batches rank the target modules alike: if Spearman's rho of every
    score is at least `enough`, after 64 examples and whenever their number has doubled. The model is run in
    eval mode; mode, hooks, gradients, flags and weights are left as found. Raises DataError for a loss that
    is not finite, SpecError for such a score and for an example that does not fit into memory.
    """
    started = time.perf_counter()
    gpus = [device for device in devices_of(scored.model) if device.type == "cuda"]
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    examples = _Pass([score for score in scores if score.reads_examples], scored)
    if examples.scores:
        restore = note_state(scored.model)
        scored.model.eval().requires_grad_(False).zero_grad()
        try:
            examples.run(batches, enough=enough)
        finally:
            restore()
    names = [target.name for target in scored.targets]
    results, notes = [], []
    for score in scores:
        values = examples.means(score) if score.reads_examples else _without_examples(score, scored)
        if broken := next((name for name, value in values.items() if not math.isfinite(value)), None):
            raise SpecError(
                f"The score {score.name} is {values[broken]} at {broken}; it should be finite. "
                "Load the model in fp32, or check its weights."
            )
        measurable = examples.reached if score.reads_examples else set(names)
        if n_missing := len(measurable - values.keys()):
            notes.append(f"{score.name} does not measure {n_missing} of the target modules; they score 0.")
        results.append(
            TargetScores(
                name=score.name,
                values=tuple(values.get(name, 0.0) for name in names),
                split_half=examples.agreement(score) if score.reads_examples else None,
                n_examples=examples.n_examples if score.reads_examples else 0,
            )
        )
    return Sensitivity(
        scores=tuple(results),
        n_examples=examples.n_examples,
        n_asked=examples.n_examples,
        seconds=time.perf_counter() - started,
        peak_bytes=sum(map(torch.cuda.max_memory_allocated, gpus)),
        unreachable=tuple(name for name in names if examples.scores and name not in examples.reached),
        notes=tuple(notes),
    )


class _Pass:
    """Sums of scores over the even and over the odd batches."""

    def __init__(self, scores: Sequence[Score], scored: ScoredModel) -> None:
        self.scores = scores
        self._scored = scored
        self._sums = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], float](float)
        self._counts = [0, 0]  # examples
        self.reached: set[str] = set()  # names of the target modules that had a gradient

    @property
    def n_examples(self) -> int:
        return sum(self._counts)

    def run(self, batches: Iterable[Batch], *, enough: float) -> None:
        next_look = _FIRST_LOOK
        for index, batch in enumerate(_at_least_two(batches)):
            self._add_batch(batch, index)
            if index % 2 and self.n_examples >= next_look:
                next_look = 2 * self.n_examples
                if all((self.agreement(score) or 0.0) >= enough for score in self.scores):
                    return

    def means(self, score: Score) -> dict[str, float]:
        """Target name -> value per example, of the target modules that the score measures."""
        even, odd = self._values_by_half(score)
        return {name: (even[name] + odd[name]) / self.n_examples for name in even}

    def agreement(self, score: Score) -> float | None:
        """Compute Spearman's rho between the even and the odd batches; None if only one half has examples."""
        even, odd = self._values_by_half(score)
        if not even or not all(self._counts):
            return None
        return spearman(np.array([*even.values()]), np.array([*odd.values()]))

    def _values_by_half(self, score: Score) -> list[dict[str, float]]:
        keys = [(score.name, target.name) for target in self._scored.targets]
        keys = [key for key in keys if any(key in half for half in self._sums)]
        return [{key[1]: half.get(key, 0.0) for key in keys} for half in self._sums]

    def _add_batch(self, batch: Batch, index: int) -> None:
        for values in self._parts_of(batch, index):
            for key, value in values.items():
                self._sums[index % 2][key] += value
        self._counts[index % 2] += len(batch["labels"])

    def _parts_of(self, batch: Batch, index: int) -> Iterator[Values]:
        """Yield (score, target module) -> value of a batch, or of its halves if it is too large."""
        tokens, max_tokens = batch.get("input_ids"), self._scored.max_tokens
        is_single = len(batch["labels"]) == 1
        is_large = tokens is not None and max_tokens is not None and tokens.numel() > max_tokens
        if not is_large or is_single:
            try:
                yield self._values_of(batch, index)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if is_single:
                    raise SpecError(
                        f"One example does not fit into memory ({reason_of(error)}); lower --max-length, or "
                        "use a smaller base model."
                    ) from error
            release_memory(batch["labels"].device)  # after the handler, whose error holds on to the tensors
        for half in split_in_half(batch):
            yield from self._parts_of(half, index)

    def _values_of(self, batch: Batch, index: int) -> Values:
        values: dict[tuple[str, str], Tensor] = {}
        reached: set[str] = set()

        def receive(target: Target, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
            reached.add(target.name)
            for score in self.scores:
                value = score.value(target, module, inputs, gradient)
                if value is not None:
                    values[score.name, target.name] = value

        loss = backward(self._scored, batch, receive)
        if not math.isfinite(loss):
            raise DataError(
                f"The loss of batch {index + 1} ({len(batch['labels'])} examples) is {loss}; it should be "
                "finite. Check the texts and labels of that batch, and the weights of the base model."
            )
        self.reached |= reached
        return {key: float(value) for key, value in values.items()}


def _at_least_two(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Halve a batch that is alone, so that there are an even and an odd one to compare."""
    stream = iter(batches)
    two = list(itertools.islice(stream, 2))
    if len(two) == 1 and len(two[0]["labels"]) > 1:
        two = [*split_in_half(two[0])]
    return itertools.chain(two, stream)


def _without_examples(score: Score, scored: ScoredModel) -> dict[str, float]:
    """Compute a score of the weights alone: target name -> value."""
    nothing = torch.empty(0)
    values = {
        target.name: score.value(target, holder_of(scored.model, target), nothing, nothing)
        for target in scored.targets
    }
    return {name: float(value) for name, value in values.items() if value is not None}
