"""Runs batches through the model, in smaller parts where memory runs out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from autopeft.errors import DataError, SpecError, reason_of
from autopeft.extension import Batch
from autopeft.model import SavedBytes, is_out_of_memory, release_memory
from autopeft.sensitivity.parts.halves import SplitHalves
from autopeft.sensitivity.parts.layout import AmbiguousShapeError, half_of_row, shortened, split_in_half
from autopeft.sensitivity.parts.visit import ScoredModel, Seen, Visit, find_time_first_sites


class BatchRunner:
    """Feeds the halves' reducers; what one batch shows of memory and shapes holds for the next ones.

    `reached` are the sites that were seen, `dropped` those that do not fit into memory; `peak_bytes` is the
    most that autograd held on the CPU.
    """

    def __init__(self, scored: ScoredModel, halves: SplitHalves) -> None:
        self._scored, self._halves = scored, halves
        self._largest = 0  # numbers in the largest part whose memory was counted
        self._max_examples: int | None = None  # that fit into memory at once; None: no limit was met
        self._row_tokens: int | None = None  # of a row that does not fit as a whole; None: all did
        self.reached: set[str] = set()
        self.dropped: frozenset[str] = frozenset()
        self.notes: list[str] = []
        self.peak_bytes = 0

    def run(self, batch: Batch, *, index: int) -> None:
        """One batch, in parts where it does not fit into memory; `index` decides its half."""
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
        self._halves.count(index % 2, len(batch["labels"]))

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
        """Run a visit; False where the part must be visited again, knowing its limits or its shapes."""
        try:
            loss = visit.run()
        except AmbiguousShapeError:
            names = find_time_first_sites(self._scored, part)
            self._scored = replace(self._scored, time_first_sites=names)
            return False
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._lower_limit(part, error, index=index)
        else:
            if not math.isfinite(loss):
                raise DataError(
                    f"The loss of batch {index + 1} ({len(part['labels'])} examples) is {loss}; a score "
                    f"needs finite losses. {_remedy(self._scored.model)}"
                )
            self.peak_bytes = max(self.peak_bytes, visit.held_bytes)
            return True
        release_memory(part["labels"].device)  # after the handler, whose error holds on to the tensors
        return False

    def _lower_limit(self, part: Batch, error: RuntimeError | MemoryError, *, index: int) -> None:
        """Halve the examples at once; of a single one drop the experts' sites, then halve its tokens."""
        n_examples = len(part["labels"])
        if n_examples > 1:
            self._max_examples = (n_examples + 1) // 2
            self.notes.append(
                f"Memory ran out at {n_examples} examples at once; went on with {self._max_examples}."
            )
            return
        sites = self._scored.sites
        if experts := frozenset(site.name for site in sites if site.kind == "parameter"):
            self.dropped = experts
            self._scored = replace(self._scored, sites=tuple(s for s in sites if s.kind != "parameter"))
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
        """A counter of saved bytes for the largest part so far, on the CPU; else None."""
        size = sum(value.numel() for value in part.values() if isinstance(value, Tensor))
        is_largest = size > self._largest and not part["labels"].is_cuda
        self._largest = size if is_largest else self._largest
        return SavedBytes() if is_largest else None


def _remedy(model: nn.Module) -> str:
    """What to do about a loss that is not finite."""
    broken = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if broken:
        return f"{broken[0]} of the base model is not finite; download the weights again."
    return "Check the texts and labels of that batch; the weights are finite."
