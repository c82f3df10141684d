"""What frozen layers give for the batches of short runs: kept for all plans that train above them alone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from autopeft.extension import Batch
from autopeft.model import is_out_of_memory, release_memory
from autopeft.model.training_pass import FrozenPrefix, KnownOutput, frozen_prefix, skips_exactly

# Measurements after which an output that none of them used makes room: two rounds of proposals; by hand.
_IDLE_MEASUREMENTS = 8

Loss = Callable[[nn.Module, Batch], Tensor]
BatchKey = tuple[str, tuple[int, ...], bool]  # split, rows, and whether the model was training
Kind = tuple[int, tuple[str, ...], bool]  # skipped layers, what trains outside the layers, training or not

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    known: KnownOutput
    last_use: int  # number of the measurement


@dataclass(kw_only=True)
class FrozenOutputs:
    """Outputs of frozen layers by batch, kept in at most `max_bytes` for all plans of one base model.

    Every short run sees the same rows, in the same batches. A plan whose lowest adapter lies in layer k
    starts from the highest layer up to k whose output is kept. For a new kind of plan a few rows are
    run twice, with all layers and without those: unless loss and gradients are equal to the bit, nothing is
    skipped for plans of that kind (dropout below the adapters, trained embeddings). Where memory runs out in
    this trial, nothing is skipped in the measurement at hand, and the next one tries again.

    An output is kept if there is room, and makes room once no plan has used it for some measurements. A
    full store takes nothing new: what is used in turn would otherwise drive out what is used next.
    """

    max_bytes: int
    n_bytes: int = 0  # kept now
    _entries: dict[tuple[BatchKey, int], _Entry] = field(default_factory=dict)  # by last use, oldest first
    _is_exact: dict[Kind, bool] = field(default_factory=dict)
    _untried: set[Kind] = field(default_factory=set)  # had no room for the trial in this measurement
    _keys: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)  # of a batch's tensor
    _prefix: FrozenPrefix | None = None  # of the plan that is measured now
    _n_measurements: int = 0

    @contextlib.contextmanager
    def used_by(self, model: nn.Module) -> Iterator[None]:
        """A context in which frozen layers of a model with a plan are skipped where that changes no bit."""
        self._prefix = frozen_prefix(model)
        self._untried.clear()
        self._n_measurements += 1
        try:
            with self._prefix.installed() if self._prefix else contextlib.nullcontext():
                yield
        finally:
            self._prefix = None

    def note(self, batch: Batch, split: str, rows: Sequence[int]) -> None:
        """Remember of which rows a batch was made; batches that are not noted are run with all layers."""
        self._keys[next(iter(batch.values()))] = (split, tuple(rows))

    def expect(self, batch: Batch, loss: Loss) -> None:
        """Announce the batch on which the model is called next, and how its loss is computed."""
        prefix, tensor = self._prefix, next(iter(batch.values()))
        if prefix is None or tensor not in self._keys:
            return
        key = (*self._keys[tensor], prefix.model.training)
        if self._may_skip(prefix, batch, loss):
            prefix.expect(batch, self._deepest(key, len(prefix.layers)), partial(self._keep, key))
        else:
            prefix.expect({}, None, None)

    def clear(self) -> None:
        """Free all memory."""
        self._entries.clear()
        self.n_bytes = 0

    def _may_skip(self, prefix: FrozenPrefix, batch: Batch, loss: Loss) -> bool:
        kind = (len(prefix.layers), prefix.trained_outside, prefix.model.training)
        if kind in self._is_exact or kind in self._untried:
            return self._is_exact.get(kind, False)
        try:
            self._is_exact[kind] = skips_exactly(prefix, loss, batch)
            verb = "are" if self._is_exact[kind] else "cannot be"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._untried.add(kind)
            verb = "are for want of memory not"
        phase = "training" if prefix.model.training else "evaluation"
        log.debug("The lowest %d layers %s skipped in %s.", len(prefix.layers), verb, phase)
        if kind in self._untried:
            release_memory(next(prefix.model.parameters()).device)  # after the handler, which holds tensors
        return self._is_exact.get(kind, False)

    def _deepest(self, key: BatchKey, n_layers: int) -> KnownOutput | None:
        """The output of the most layers, at most `n_layers`, that is kept for a batch."""
        for depth in range(n_layers, 0, -1):
            entry = self._entries.pop((key, depth), None)
            if entry is not None:
                self._entries[key, depth] = _Entry(known=entry.known, last_use=self._n_measurements)
                return entry.known
        return None

    def _keep(self, key: BatchKey, known: KnownOutput) -> None:
        while self._entries and self.n_bytes + known.n_bytes > self.max_bytes:
            oldest = next(iter(self._entries))
            if self._entries[oldest].last_use > self._n_measurements - _IDLE_MEASUREMENTS:
                return
            self.n_bytes -= self._entries.pop(oldest).known.n_bytes
        if self.n_bytes + known.n_bytes <= self.max_bytes:
            self._entries[key, known.n_layers] = _Entry(known=known, last_use=self._n_measurements)
            self.n_bytes += known.n_bytes
