"""The sensitivity pass of a run: how many examples it may use, which ones, and its notes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from autopeft.errors import SpecError
from autopeft.extension import Batch, Score, discover
from autopeft.model import is_out_of_memory, release_memory
from autopeft.records import SEEN_ENOUGH, SIZE_SCORE, Sensitivity, SiteScores
from autopeft.run.prepare import Prepared
from autopeft.run.resources import memory_needed
from autopeft.sensitivity import ScoredModel, measure

MAX_EXAMPLES = 512
_SHARE = 0.05  # of a full run's cost: the project's promise
# Cost of the pass over one example relative to one example of LoRA training at all maps, and what each score
# adds. Upper bounds, measured at 32 and 128 tokens, and on the demo, by `sensitivity_cost.py` of commit
# a7a790e4.
_PASS_COST, _SCORE_COST = 1.2, 0.7
_TIME_SHARE = 0.1  # of what is left of --max-time, for the whole pass; chosen by hand
_BATCH = 16  # examples; chosen by hand, so that even few of them make two halves of several batches
_SORTED_BATCHES = 4  # batches whose examples are sorted by length together; chosen by hand

log = logging.getLogger(__name__)


def sensitivity(
    prepared: Prepared,
    names: Sequence[str],
    *,
    max_examples: int | None = None,
    enough: float = SEEN_ENOUGH,
    clock: Callable[[], float] = lambda: 0.0,
) -> Sensitivity:
    """Scores of every site on a seeded sample of the train split.

    Without `max_examples`, the pass may cost 5 % of a full run, with at least one batch and at most 512
    examples. It stops early once two halves of the examples rank the sites alike (rank correlation of at
    least `enough`; a value above 1 never stops early). With `--max-time` it stops too once it has taken a
    tenth of the time that is left; `clock` gives the seconds since the run began.

    Raises:
        UnknownNameError: A score does not exist.
        SpecError: `max_examples` is below 1, or a score is not finite.
        DataError: A loss is not finite.
    """
    parts = discover("autopeft.sensitivity")
    chosen: list[Score] = [parts[name] for name in dict.fromkeys(names)]
    require_some(max_examples)
    n_train = len(prepared.bench.splits["train"].labels)
    n_requested = max_examples or affordable_examples(
        chosen, full_run_examples=prepared.full_steps * prepared.bench.batch_size
    )
    base = prepared.base
    limit = _Limit(prepared, clock)
    scored_model = ScoredModel(
        model=base.module,
        sites=base.sites,
        task=prepared.task,
        precision=base.precision,
        max_tokens=prepared.bench.compute.most_plain_tokens,  # layers are not checkpointed there
        interrupt=prepared.bench.interrupt,
    )
    with (
        memory_needed("the sensitivity pass", prepared.spec),
        base.precision.of_copies(base.device).multiplying(),
    ):
        scored = measure(
            chosen,
            scored_model,
            limit.until_share_is_used(_batches(prepared, n_examples=min(n_requested, n_train))),
            enough=enough,
        )
    notes = (*scored.notes, *(limit.notes(scored, n_requested) or _notes(scored, n_requested, n_train)))
    return replace(scored, n_asked=n_requested, notes=notes)


class _Limit:
    """The time that the pass of a run may take, counted from here."""

    def __init__(self, prepared: Prepared, clock: Callable[[], float]) -> None:
        self._clock = clock
        seconds = prepared.spec.search.max_time_seconds or math.inf
        self._end = clock() + _TIME_SHARE * (seconds - clock())
        self._is_cut = False

    def until_share_is_used(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The first batch, and the others until the share of the pass is used up."""
        for index, batch in enumerate(batches):
            if index and self._clock() >= self._end:
                self._is_cut = True
                return
            yield batch

    def notes(self, scored: Sensitivity, n_requested: int) -> list[str]:
        """What the limit did to the pass; empty where it did nothing."""
        if not self._is_cut:
            return []
        return [
            f"Stopped after {scored.n_examples} of {n_requested} examples, since a tenth of what was left of "
            "--max-time had passed."
        ]


def require_some(max_examples: int | None) -> None:
    """Raise SpecError where `max_examples` is no whole number or below 1; None is allowed."""
    if max_examples is not None and (not hasattr(max_examples, "__index__") or max_examples < 1):
        raise SpecError(f"--max-examples is {max_examples!r}; it should be a whole number, at least 1.")


def logged_scores(
    prepared: Prepared, names: Sequence[str], *, clock: Callable[[], float] = lambda: 0.0
) -> tuple[SiteScores, ...]:
    """The scores of a search; logs the notes that `analyze` would print beside them.

    Where memory does not hold one example, only scores that read none are there, `parameters` at least.
    """
    try:
        scored = sensitivity(prepared, names, clock=clock)
    except SpecError as error:
        if error.__cause__ is None or not is_out_of_memory(error.__cause__):
            raise
        log.warning("%s Sites are ordered by their number of weights instead.", error)
        scored = None
    if scored is None:  # after the handler, whose error holds on to the tensors
        release_memory(prepared.base.device)
        frugal = [name for name in names if not discover("autopeft.sensitivity")[name].reads_examples]
        scored = sensitivity(prepared, [*frugal, SIZE_SCORE], clock=clock)
    for note in scored.notes:
        log.info("Sensitivity: %s", note)
    if zeros := ", ".join(score.name for score in scored.scores if score.is_zero):
        log.warning("The score %s is 0 at every site and tells none apart; try another --score.", zeros)
    if names := scored.unreachable:
        log.warning(
            "Sensitivity: no gradient reaches %d sites, which score 0: %s", len(names), ", ".join(names)
        )
    return scored.scores


def affordable_examples(scores: Sequence[Score], *, full_run_examples: int) -> int:
    """Number of examples whose passes cost at most 5 % of a full run, from one batch (16) to 512.

    Example:
        >>> fisher = discover("autopeft.sensitivity")["fisher"]
        >>> affordable_examples([fisher], full_run_examples=6000)
        157
    """
    n_scores = sum(score.reads_examples for score in scores)
    if not n_scores:
        return MAX_EXAMPLES
    affordable = int(_SHARE * full_run_examples / (_PASS_COST + _SCORE_COST * n_scores))
    return max(_BATCH, min(MAX_EXAMPLES, affordable))


def _batches(prepared: Prepared, *, n_examples: int) -> Iterator[Batch]:
    """A seeded sample in batches of similar length; the batches come in random order."""
    split = prepared.bench.splits["train"]
    lengths = split.lengths
    rng = np.random.default_rng(prepared.spec.search.seed)
    chosen = rng.permutation(len(lengths))[:n_examples].tolist()
    n_sorted = _BATCH * _SORTED_BATCHES
    for start in range(0, n_examples, n_sorted):
        rows = sorted(chosen[start : start + n_sorted], key=lambda i: (lengths[i], i))
        batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
        for index in rng.permutation(len(batches)):
            batch = prepared.task.collate(
                [split.examples[i] for i in batches[index]],
                [split.labels[i] for i in batches[index]],
                prepared.base.pad_token_id,
            )
            yield {name: tensor.to(prepared.base.device) for name, tensor in batch.items()}


def _notes(scored: Sensitivity, n_requested: int, n_train: int) -> list[str]:
    """Why the pass used fewer examples than requested; empty where it used them all."""
    if not scored.n_examples or scored.n_examples >= n_requested:
        return []
    if scored.n_examples >= n_train:
        return [f"The train split has only {n_train} of the {n_requested} examples requested."]
    agreement = min(score.split_half for score in scored.scores if score.split_half is not None)
    return [
        f"Stopped after {scored.n_examples} of {n_requested} examples: two halves of them rank the sites "
        f"alike (Spearman {agreement:.2f})."
    ]
