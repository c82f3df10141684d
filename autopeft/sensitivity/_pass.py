"""The pass over some batches that serves every score, with its split halves, and the model left as found."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autopeft.errors import DataError, SpecError
from autopeft.evidence import rank_correlation
from autopeft.extension import Batch, Reducer, Score, Task
from autopeft.model import SavedBytes
from autopeft.records import Sensitivity, Site, SiteScores
from autopeft.sensitivity._draws import with_drawn_labels
from autopeft.sensitivity._layout import UnclearShapeError, halves
from autopeft.sensitivity._watching import Key, Visit, Watched

MEASURED_KINDS = ("linear", "conv1d", "norm", "parameter")
ENOUGH = 0.95  # split-half rank correlation at which a pass stops by itself
_FIRST_LOOK = 64  # examples after which halves are compared for the first time; then at each doubling
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def measure(
    scores: Sequence[Score],
    model: nn.Module,
    batches: Iterable[Batch],
    sites: Sequence[Site],
    *,
    task: Task,
    seed: int,
    enough: float = ENOUGH,
) -> Sensitivity:
    """Every score at every site, from one forward and one backward pass for each batch.

    Scores of true labels share one pass, scores of sampled labels another. Only gradients of activations are
    found: weights are frozen, and the backward pass ends at the first sites. Batches go to two
    reducers by turns (one batch alone is halved), whose ranks of the sites are compared after 64 examples
    and whenever their number has doubled; the pass ends where all scores agree by `enough`.

    Args:
        scores: What to measure.
        model: Any mode; run in eval mode. Mode, hooks, gradients, flags and weights are left as found.
        batches: Each with `labels` (B,) or (B, T); read one at a time. Each should be a fair sample.
        sites: Where; those of the kind `model` score 0.
        task: Gives the loss, the mean over a batch's examples, or over its tokens that have a label.
        seed: Decides random matrices and drawn labels.
        enough: Spearman's rho in [0, 1] between the halves; more than 1 never ends early.

    Returns:
        Values in the order of `sites`; `n_asked` is what was seen.

    Raises:
        DataError: A loss that is not finite.
        SpecError: A score that is not finite, or one example that does not fit into memory.
    """
    started = time.perf_counter()
    run = _Run(scores, sites, task=task, seed=seed)
    if run.passes:
        with _as_found(model):
            run.go_over(batches, model, enough=enough)
    found = run.result()  # takes time of its own: decompositions
    return replace(found, seconds=time.perf_counter() - started)


@dataclass(kw_only=True)
class _Tally:
    """What a run notes beside its scores."""

    n_seen: list[int] = field(default_factory=lambda: [0, 0])
    reached: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    widest: int = 0
    most_at_once: int | None = None  # examples that fit into memory; None: no limit was met
    dropped: frozenset[str] = frozenset()  # sites that did not fit
    tokens_first: frozenset[str] | None = None  # sites that see (T, B, features); None: not known yet


class _Run:
    """Two reducers of every score, one for each half of the batches, and the passes that feed them."""

    def __init__(self, scores: Sequence[Score], sites: Sequence[Site], *, task: Task, seed: int) -> None:
        self._scores, self._sites, self._task, self._seed = scores, sites, task, seed
        self._measured = tuple(site for site in sites if site.kind in MEASURED_KINDS)
        self._reducers = [[score.reducer(self._measured, seed=seed) for score in scores] for _ in range(2)]
        asked = {score.labels for score in scores}
        with_gradients: list[str] = [labels for labels in ("true", "sampled") if labels in asked]
        # Scores of inputs alone ride with the first pass there is.
        self.passes = with_gradients or (["inputs"] if "inputs" in asked else [])
        self._tally = _Tally()
        self._agreed: dict[str, float | None] = {}
        self._agreed_at: tuple[int, ...] = ()  # how many examples the halves had seen

    def go_over(self, batches: Iterable[Batch], model: nn.Module, *, enough: float) -> None:
        """See batch after batch, until the halves agree."""
        watched = Watched(
            model=model, modules=dict(model.named_modules()), sites=self._measured, task=self._task
        )
        on_gpu = next(model.parameters()).is_cuda
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        next_look = _FIRST_LOOK
        for index, batch in enumerate(_alternating(batches)):
            for labels in self.passes:
                self._see(labels, batch, watched, index=index)
            self._tally.n_seen[index % 2] += len(batch["labels"])
            n_seen = sum(self._tally.n_seen)
            if index % 2 and n_seen >= next_look:
                next_look = 2 * n_seen
                if all((rho or 0.0) >= enough for rho in self._agreements().values()):
                    break
        if on_gpu:
            self._tally.peak_bytes = torch.cuda.max_memory_allocated()
        else:
            self._tally.peak_bytes += sum(
                _kept_bytes(vars(own)) for half in self._reducers for own in half if hasattr(own, "__dict__")
            )

    def _see(self, labels: str, batch: Batch, watched: Watched, *, index: int) -> None:
        """One pass over one batch, in parts where it does not fit into memory."""
        if labels == "sampled":
            logits = _predictions(watched, batch)
            batch = with_drawn_labels(batch, logits, task=self._task, seed=self._seed, index=index)
        pairs = list(zip(self._scores, self._reducers[index % 2], strict=True))
        rides = labels == self.passes[0]
        inputs_only = [reducer for score, reducer in pairs if score.labels == "inputs" and rides]
        others = [reducer for score, reducer in pairs if score.labels == labels != "inputs"]
        to_do: list[tuple[Batch, frozenset[Key]]] = [(batch, frozenset())]
        while to_do:
            part, done = to_do.pop()
            if len(part["labels"]) > (self._tally.most_at_once or len(part["labels"])):
                to_do += [(half, done) for half in halves(part)[::-1]]
                continue
            counter = self._counter(part)
            visit = Visit(
                self._reduced(watched),
                part,
                inputs_only=inputs_only,
                others=others,
                done=done,
                counter=counter,
            )
            if self._ran(visit, part, index=index):
                self._tally.reached |= visit.reached
            else:
                to_do.append((part, frozenset(visit.done)))

    def _ran(self, visit: Visit, part: Batch, *, index: int) -> bool:
        """Whether the batch went through; False where it has to be seen again, with what is known by now."""
        try:
            loss = visit.run()
        except UnclearShapeError:
            self._tally.tokens_first = visit.sites_with_tokens_first()
            return False
        except RuntimeError as error:
            if not _MEMORY.search(str(error)):
                raise
            n_examples = len(part["labels"])
            experts = frozenset(site.name for site in self._measured if site.kind == "parameter")
            if n_examples == 1 and self._tally.dropped == experts:
                raise SpecError(
                    f"One example of batch {index + 1} does not fit into memory ({_first_line(error)}); "
                    "lower --max-length, or use a smaller base model."
                ) from error
        else:
            if not math.isfinite(loss):
                raise DataError(
                    f"The loss of batch {index + 1} ({len(part['labels'])} examples) is {loss}; a score "
                    f"needs finite losses. {_remedy(visit.model)}"
                )
            self._tally.peak_bytes = max(self._tally.peak_bytes, visit.held_bytes)
            return True
        if n_examples == 1:
            self._tally.dropped = experts
            self._tally.notes.append("Memory ran out at one example: experts in one parameter score 0.")
        else:
            self._tally.most_at_once = (n_examples + 1) // 2
            self._tally.notes.append(
                f"Memory ran out at {n_examples} examples at once; went on with {self._tally.most_at_once}."
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return False

    def _reduced(self, watched: Watched) -> Watched:
        """Without the sites that did not fit, and with what is known of the others' shapes."""
        kept = tuple(site for site in watched.sites if site.name not in self._tally.dropped)
        return replace(watched, sites=kept, tokens_first=self._tally.tokens_first)

    def _counter(self, part: Batch) -> SavedBytes | None:
        """On the CPU, for the largest batch so far."""
        size = sum(value.numel() for value in part.values() if isinstance(value, torch.Tensor))
        if size <= self._tally.widest or part["labels"].is_cuda:
            return None
        self._tally.widest = size
        return SavedBytes()

    def _agreements(self) -> dict[str, float | None]:
        """Spearman's rho between the halves by name, of the scores that look at examples."""
        if self._agreed_at == tuple(self._tally.n_seen):
            return self._agreed
        found: dict[str, float | None] = {}
        for score, first, second in zip(self._scores, *self._reducers, strict=True):
            if score.labels != "none":
                n_first, n_second = (max(1, n) for n in self._tally.n_seen)
                both = first.values(n_first), second.values(n_second)
                names = [site.name for site in self._measured if site.name in both[0] or site.name in both[1]]
                found[score.name] = rank_correlation(
                    *([values.get(name, 0.0) for name in names] for values in both)
                )
        self._agreed, self._agreed_at = found, tuple(self._tally.n_seen)
        return found

    def result(self) -> Sensitivity:
        """The scores of both halves together; how long it took is not known here."""
        agreements = self._agreements()
        self._tally.reached -= self._tally.dropped
        n_seen = sum(self._tally.n_seen)
        scores = tuple(
            self._scored(score, first, second, agreement=agreements.get(score.name), n_seen=n_seen)
            for score, first, second in zip(self._scores, *self._reducers, strict=True)
        )
        names = [site.name for site in self._measured] if self.passes else []
        return Sensitivity(
            scores=scores,
            n_examples=n_seen,
            n_asked=n_seen,
            seconds=0.0,
            peak_bytes=self._tally.peak_bytes,
            unreachable=tuple(name for name in names if name not in self._tally.reached),
            notes=tuple(self._tally.notes),
        )

    def _scored(
        self, score: Score, first: Reducer, second: Reducer, *, agreement: float | None, n_seen: int
    ) -> SiteScores:
        if score.labels != "none":
            first.add(second)
        values, profiles = first.values(max(1, n_seen)), first.profiles(max(1, n_seen))
        if score.labels != "none":
            values = {name: value for name, value in values.items() if name not in self._tally.dropped}
        for name, value in values.items():
            if not (math.isfinite(value) and value >= 0):
                raise SpecError(
                    f"The score {score.name} is {value} at {name}; it should be finite. Load the model in "
                    "fp32, or check its weights."
                )
        missing = [name for name in self._tally.reached if name not in values]
        if missing and score.labels != "none":
            self._tally.notes.append(
                f"{score.name} does not measure {len(missing)} of the sites; they score 0."
            )
        return SiteScores(
            name=score.name,
            values=tuple(values.get(site.name, 0.0) for site in self._sites),
            profiles=tuple(profiles.get(site.name, ()) for site in self._sites) if profiles else (),
            split_half=agreement,
            n_examples=0 if score.labels == "none" else n_seen,
        )


def _alternating(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; one alone comes in two halves, where it has two examples."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        return
    second = next(stream, None)
    if second is None:
        yield from halves(first) if len(first["labels"]) > 1 else [first]
        return
    yield first
    yield second
    yield from stream


def _predictions(watched: Watched, batch: Batch) -> torch.Tensor:
    """The model's logits, caught on their way into the loss."""
    caught: list[torch.Tensor] = []

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output.logits if hasattr(output, "logits") else output[0])

    hook = watched.model.register_forward_hook(catch)
    try:
        with torch.no_grad():
            watched.task.loss(watched.model, batch)
    finally:
        hook.remove()
    return caught[-1]


@contextlib.contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Lend the model in eval mode with every weight frozen, and take it back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _remedy(model: nn.Module) -> str:
    """What to do about a loss that is not finite."""
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        return f"{broken[0]} of the base model is not finite, so no text can be scored; get the weights anew."
    return "Check the texts and labels of that batch; the weights are finite."


def _kept_bytes(kept: Any) -> int:
    """Bytes of the tensors that a reducer has kept by itself or in its collections."""
    if isinstance(kept, torch.Tensor):
        return kept.nbytes
    if isinstance(kept, dict):
        kept = kept.values()
    elif not isinstance(kept, tuple | list):
        return 0
    return sum(map(_kept_bytes, kept))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
