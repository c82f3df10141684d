"""How many examples the sensitivity of a run may look at, which ones, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from autopeft.errors import SpecError
from autopeft.extension import Batch, Score, discover
from autopeft.pipeline.prepare import Prepared
from autopeft.records import Sensitivity, SiteScores
from autopeft.sensitivity import ENOUGH, measure

MAX_EXAMPLES = 512
_SHARE = 0.05  # of a full run's examples, weighed by what one costs here; the project's promise
# Seconds for an example relative to one of LoRA training at all maps, at most: measured by
# reports/studies/sensitivity_cost.py at 32 and 128 tokens, and on the demo (18 tokens); rounded up.
_PASS_COST = {"none": 0.0, "inputs": 0.6, "true": 1.2, "sampled": 1.8}
_SCORE_COST = 0.7  # of each score on top, whichever it is
_BATCH = 16  # examples; chosen by hand, so that even few of them make two halves of several batches
_SORTED_BATCHES = 4  # that are sorted by length together; chosen by hand

log = logging.getLogger(__name__)


def sensitivity(
    prepared: Prepared, names: Sequence[str], *, max_examples: int | None = None, enough: float = ENOUGH
) -> Sensitivity:
    """Scores of every site on a seeded sample of the train split.

    Where `max_examples` is None, as many examples are asked for as cost a twentieth of a full run, at least
    one batch and at most 512. It stops before that where the halves of what was seen rank the sites alike.

    Args:
        prepared: The run.
        names: Scores, by name.
        max_examples: How many examples to look at, whatever they cost.
        enough: Rank correlation of the halves at which to stop; more than 1 never does.

    Raises:
        UnknownNameError: There is no such score.
        SpecError: `max_examples` is below 1, or a score is not finite.
        DataError: A loss is not finite.
    """
    parts = discover("autopeft.sensitivity")
    chosen: list[Score] = [parts[name] for name in dict.fromkeys(names)]
    require_some(max_examples)
    n_train = len(prepared.bench.splits["train"].labels)
    n_asked = max_examples or affordable_examples(
        chosen, full_run_examples=prepared.full_steps * prepared.bench.batch_size
    )
    found = measure(
        chosen,
        prepared.base.module,
        _batches(prepared, n_examples=min(n_asked, n_train)),
        prepared.base.sites,
        task=prepared.task,
        seed=prepared.spec.search.seed,
        enough=enough,
    )
    return replace(found, n_asked=n_asked, notes=(*found.notes, *_notes(found, n_asked, n_train)))


def require_some(max_examples: int | None) -> None:
    """Refuse to look at no example.

    Raises:
        SpecError: `max_examples` is below 1.
    """
    if max_examples is not None and max_examples < 1:
        raise SpecError(f"--max-examples is {max_examples}; it should be at least 1.")


def logged_scores(prepared: Prepared, names: Sequence[str]) -> tuple[SiteScores, ...]:
    """The scores of a search, which shows no analysis: what `analyze` would say beside them is logged."""
    found = sensitivity(prepared, names)
    for note in found.notes:
        log.info("Sensitivity: %s", note)
    if found.unreachable:
        log.warning(
            "Sensitivity: no gradient reaches %d sites, which score 0: %s",
            len(found.unreachable),
            ", ".join(found.unreachable),
        )
    return found.scores


def affordable_examples(scores: Sequence[Score], *, full_run_examples: int) -> int:
    """Examples whose passes cost at most a twentieth of a full run, from one batch to 512.

    Example:
        >>> fisher = discover("autopeft.sensitivity")["fisher"]
        >>> affordable_examples([fisher], full_run_examples=6000)
        157
    """
    looking = [score for score in scores if score.labels != "none"]
    asked = {score.labels for score in looking}
    passes = asked - {"inputs"} or asked
    cost = sum(_PASS_COST[labels] for labels in passes) + _SCORE_COST * len(looking)
    return max(_BATCH, min(MAX_EXAMPLES, int(_SHARE * full_run_examples / cost) if cost else MAX_EXAMPLES))


def _batches(prepared: Prepared, *, n_examples: int) -> Iterator[Batch]:
    """A seeded sample, in batches of similar length that come in no order of it."""
    split = prepared.bench.splits["train"]
    lengths = split.lengths
    rng = np.random.default_rng(prepared.spec.search.seed)
    chosen = rng.permutation(len(lengths))[:n_examples].tolist()
    run = _BATCH * _SORTED_BATCHES
    for start in range(0, n_examples, run):
        rows = sorted(chosen[start : start + run], key=lambda i: (lengths[i], i))
        batches = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
        for index in rng.permutation(len(batches)):
            batch = prepared.task.collate(
                [split.examples[i] for i in batches[index]],
                [split.labels[i] for i in batches[index]],
                prepared.base.pad_token_id,
            )
            yield {name: tensor.to(prepared.base.device) for name, tensor in batch.items()}


def _notes(found: Sensitivity, n_asked: int, n_train: int) -> list[str]:
    """Why there were fewer examples than asked, where there were."""
    if not found.n_examples or found.n_examples >= n_asked:
        return []
    if found.n_examples >= n_train:
        return [f"Only {n_train} of the {n_asked} examples asked for are in the train split."]
    agreed = min(score.split_half for score in found.scores if score.split_half is not None)
    return [
        f"Stopped after {found.n_examples} of {n_asked} examples: its halves rank the sites alike "
        f"(Spearman {agreed:.2f})."
    ]
