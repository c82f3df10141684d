"""What a training step takes, and which settings fit into a memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from autopeft.errors import SpecError
from autopeft.estimate.memory_tracker import HEAD
from autopeft.estimate.replay import StepMemory
from autopeft.estimate.scaling import MemoryModel
from autopeft.estimate.traced_model import Description

_N_ROWS, _N_TOKENS = 4, 1024  # where the user names none; chosen by hand
_LONGEST = 2**17  # tokens of a row of a model without a limit
_LEAST_TOKENS = 16  # of the smallest step that anybody would train; chosen by hand
_FEW_BITS = "4bit"
# What the allocator keeps beside what lives, as a share of activations, logits and loss. Fitted on two halves
# of 66 published configs the reserve is 7.5 % and 2.5 % of the peak, as the length of their rows is not known
# (reports/studies/published_memory.md); 7 % of these parts is 5 % of those peaks.
RESERVE = 0.07
# As a share of the same parts: 64 of the 66 configs lie within 5 % of the expected peak.
_UNCERTAINTY = 0.1
# What a CUDA context and the libraries' workspaces take of a GPU beside the allocator; chosen by hand.
_CONTEXT_BYTES = 2**29
# What Python, torch, transformers, peft, the tokenizer and the rows take of a process on a CPU. Fitted on
# three points of MiniLM-L6, tested on one more and SmolLM2-135M (reports/studies/resident_memory.md).
PROCESS_BYTES = 715 * 10**6
_MOST_ROWS = 2**16  # more are not asked for
_CLOSE = 8  # a number that fits and one that does not are close if they differ by an eighth; chosen by hand
_FAR = 4  # and far apart if one is four times the other; chosen by hand
_TOKEN_STEP = 16  # lengths of rows are rounded to multiples of it


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """The settings of a step that a user asks for; those that are None are chosen.

    `checkpointing` None takes it only where the step would not fit into `max_bytes` otherwise. `n_tokens` are
    those of the longest row, which decide the memory; `typical_tokens`, if given, decide the time. With
    `accumulates` the answer is a step of as many of the rows as fit at a time: all, a half, a quarter …
    """

    n_rows: int | None = None
    n_tokens: int | None = None
    typical_tokens: int | None = None
    quantize: str = "none"
    checkpointing: bool | None = None
    max_bytes: int | None = None
    accumulates: bool = False


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The peak memory of a training step in five parts, in bytes.

    `weights` stay frozen; `trained` are adapters and head with their gradients and moments; `activations` are
    kept for the backward pass; `logits` belong to the output layer and the loss; the allocator's `reserve` is
    given as low, expected and high, on a CPU with what Python and its libraries take. `phase` is the part of
    the step that takes most.
    """

    weights: int
    trained: int
    activations: int
    logits: int
    reserve: tuple[int, int, int]
    phase: str

    @property
    def low(self) -> int:
        """What lives at once, without what the allocator keeps."""
        return self.weights + self.trained + self.activations + self.logits + self.reserve[0]

    @property
    def expected(self) -> int:
        """The best guess."""
        return self.low - self.reserve[0] + self.reserve[1]

    @property
    def high(self) -> int:
        """What a device should have."""
        return self.low - self.reserve[0] + self.reserve[2]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The settings of a step, its memory, and the floating-point operations of its products.

    `seconds` is None where the device's rates are unknown.
    """

    n_rows: int
    n_tokens: int
    quantize: str
    checkpointing: bool
    memory: Memory
    flops: int
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What fits into a memory: the most rows of the step's length, the longest row of its batch; 0 for none.

    `nearest` are the settings nearest to a step that does not fit; where none fit, `least` takes least.
    """

    max_bytes: int
    fits: bool
    most_rows: int
    longest_row: int
    nearest: Step | None = None
    least: Step | None = None


@dataclass(frozen=True, kw_only=True)
class StepAnswer:
    """The step of a request, and its limits where a memory was named.

    `typical` is the step whose time counts, which differs where `StepRequest.typical_tokens` was given.
    """

    described: Description
    step: Step
    typical: Step
    limits: Limits | None = None


def answer(request: StepRequest, describe: Callable[[str], Description]) -> StepAnswer:
    """Replay a requested step, and find what fits into a memory.

    Args:
        request: The settings.
        describe: Describes what is trained, with weights in so many bits (`none`, `4bit` or `8bit`).

    Raises:
        SpecError: A row longer than the model takes, or a step that cannot be replayed.
    """
    described = describe(request.quantize)
    max_tokens = described.traced.max_tokens or _LONGEST
    n_rows, n_tokens = request.n_rows or _N_ROWS, request.n_tokens or min(_N_TOKENS, max_tokens)
    if n_tokens > max_tokens:
        raise SpecError(f"--max-length is {n_tokens:,}; {described.base_model} takes {max_tokens:,} at most.")
    steps = _Steps(describe=describe, max_tokens=max_tokens)
    limits = None
    if request.accumulates and request.max_bytes is not None:
        step = steps.largest_part(request, n_rows, n_tokens, request.max_bytes)
    else:
        step = steps.at(n_rows, n_tokens, request.quantize, checkpointing=bool(request.checkpointing))
        if request.max_bytes is not None:
            if request.checkpointing is None and step.memory.high > request.max_bytes:
                step = steps.at(n_rows, n_tokens, request.quantize, checkpointing=True)
            limits = steps.limits(step, request.max_bytes)
    typical_tokens = min(n_tokens, request.typical_tokens or n_tokens)
    typical = steps.at(step.n_rows, typical_tokens, request.quantize, checkpointing=step.checkpointing)
    return StepAnswer(described=described, step=step, typical=typical, limits=limits)


@dataclass(kw_only=True)
class _Steps:
    """Computes steps under several settings."""

    describe: Callable[[str], Description]
    max_tokens: int
    _models: dict[tuple[str, bool], MemoryModel] = field(default_factory=dict)

    def at(self, n_rows: int, n_tokens: int, quantize: str, *, checkpointing: bool) -> Step:
        """A step and its memory."""
        model = self._model(quantize, checkpointing=checkpointing)
        step, rates = model.at(n_rows, n_tokens), model.traced.rates
        return Step(
            n_rows=n_rows,
            n_tokens=n_tokens,
            quantize=quantize,
            checkpointing=checkpointing,
            memory=in_parts(step, on_gpu=model.traced.on_gpu),
            flops=step.flops,
            seconds=None if rates is None else rates.of_step(step.busy_seconds, step.n_calls),
        )

    def largest_part(self, request: StepRequest, n_rows: int, n_tokens: int, max_bytes: int) -> Step:
        """Find how many of the rows fit at a time: all, a half, a quarter … and 1 at least.

        Layers are checkpointed only if a single row does not fit otherwise; if it still does not, its step is
        the answer. Memory grows by the same bytes with each row, which two replays tell.
        """
        ways = (False, True) if request.checkpointing is None else (request.checkpointing,)
        halves = [n_rows >> power for power in range(n_rows.bit_length())]
        for checkpointing in ways:
            single, double = (
                self.at(n, n_tokens, request.quantize, checkpointing=checkpointing) for n in (1, 2)
            )
            row_bytes = max(1, double.memory.high - single.memory.high)
            for n_part in halves:
                if single.memory.high + (n_part - 1) * row_bytes <= max_bytes:
                    return self.at(n_part, n_tokens, request.quantize, checkpointing=checkpointing)
        return single

    def limits(self, step: Step, max_bytes: int) -> Limits:
        """What fits into a memory at the settings of a step, or near them."""
        model = self._model(step.quantize, checkpointing=step.checkpointing)
        fits = step.memory.high <= max_bytes
        n_rows = most_rows(model, n_tokens=step.n_tokens, max_bytes=max_bytes, start=step.n_rows)
        n_tokens = longest_row(
            model, n_rows=step.n_rows, max_bytes=max_bytes, limit=self.max_tokens, start=step.n_tokens
        )
        # Lengths are multiples of 16, and that of the step need not be one.
        limits = Limits(
            max_bytes=max_bytes,
            fits=fits,
            most_rows=n_rows,
            longest_row=max(n_tokens, step.n_tokens) if fits else min(n_tokens, step.n_tokens - 1),
        )
        if limits.fits:
            return limits
        nearest = self._nearest(step, max_bytes)
        if nearest is not None:
            return replace(limits, nearest=nearest)
        n_least, quantize = min(_LEAST_TOKENS, self.max_tokens), self._bits(step)[-1]
        return replace(limits, least=self.at(1, n_least, quantize, checkpointing=True))

    def _nearest(self, step: Step, max_bytes: int) -> Step | None:
        """The first settings that fit: fewer rows, then fewer bits, then shorter rows, all checkpointed."""
        for quantize in self._bits(step):
            model = self._model(quantize, checkpointing=True)
            n_rows = most_rows(model, n_tokens=step.n_tokens, max_bytes=max_bytes, start=step.n_rows)
            if n_rows:
                return self.at(min(n_rows, step.n_rows), step.n_tokens, quantize, checkpointing=True)
        for quantize in self._bits(step):
            model = self._model(quantize, checkpointing=True)
            n_tokens = longest_row(
                model, n_rows=1, max_bytes=max_bytes, limit=step.n_tokens, start=step.n_tokens
            )
            if n_tokens:
                return self.at(1, n_tokens, quantize, checkpointing=True)
        return None

    def _bits(self, step: Step) -> list[str]:
        """What the weights may be held in; not every model can be quantised, or gets smaller by it."""
        takes_few_bits = self.describe(step.quantize).takes_few_bits
        return list(dict.fromkeys((step.quantize, _FEW_BITS))) if takes_few_bits else [step.quantize]

    def _model(self, quantize: str, *, checkpointing: bool) -> MemoryModel:
        key = (quantize, checkpointing)
        if key not in self._models:
            traced, other = (
                self.describe(quantize).traced,
                self._models.get((quantize, not checkpointing)),
            )
            replays = other.replays if other else {}
            self._models[key] = MemoryModel(traced=traced, checkpointing=checkpointing, replays=replays)
        return self._models[key]


def in_parts(memory: StepMemory, *, on_gpu: bool) -> Memory:
    """Split the peak memory of a step into its parts."""
    phase, peak = memory.peak_phase, memory.peak_bytes
    trained = memory.trained_bytes + memory.optimizer_bytes + memory.gradients_at_peak.get(phase, 0)
    computed = max(0, peak - memory.weights_bytes - trained)
    activations = min(computed, memory.body_bytes) if phase == HEAD else computed
    kept = round(RESERVE * computed)
    beyond = round(_UNCERTAINTY * (computed + kept)) + (_CONTEXT_BYTES if on_gpu else 0)
    process = 0 if on_gpu else PROCESS_BYTES
    return Memory(
        weights=memory.weights_bytes,
        trained=trained,
        activations=activations,
        logits=computed - activations,
        reserve=(process, process + kept, process + kept + beyond),
        phase=phase,
    )


def most_rows(model: MemoryModel, *, n_tokens: int, max_bytes: int, start: int = 1) -> int:
    """Find the most rows of a length that fit, even at the high end; 0 if not one does.

    `start` is a number of rows that may fit.
    """

    def high(n_rows: int) -> int:
        return in_parts(model.at(n_rows, n_tokens), on_gpu=model.traced.on_gpu).high

    return _largest(high, max_bytes, limit=_MOST_ROWS, start=start)


def longest_row(
    model: MemoryModel, *, n_rows: int, max_bytes: int, limit: int, start: int = _TOKEN_STEP
) -> int:
    """Find the most tokens of each row that fit, in multiples of 16 up to the model's limit; 0 if none.

    `start` is a length that may fit.
    """

    def high(n: int) -> int:
        return in_parts(model.at(n_rows, _TOKEN_STEP * n), on_gpu=model.traced.on_gpu).high

    n_steps = _largest(high, max_bytes, limit=limit // _TOKEN_STEP, start=start // _TOKEN_STEP)
    return _TOKEN_STEP * n_steps


def _largest(high: Callable[[int], int], max_bytes: int, *, limit: int, start: int) -> int:
    """Find the largest number from 0 to a limit whose memory fits, by trying a few numbers.

    Memory grows with the number, and ever faster. So a straight line from one that fits to one that does not
    lies above it, and the number where the line meets `max_bytes` fits. It is the answer once the two are
    within an eighth of each other.

    Example:
        >>> _largest(lambda n: n * n, 5000, limit=1000, start=3)
        70
    """
    tried: dict[int, int] = {}
    fits, fails = 0, limit + 1

    def crossing(low: int, high: int) -> int:
        return low + (max_bytes - tried[low]) * (high - low) // max(1, tried[high] - tried[low])

    guess = max(1, min(start, limit))
    while fails - fits > (max(1, fits // _CLOSE) if fails in tried else 1):
        tried[guess] = high(guess)
        fits, fails = (guess, fails) if tried[guess] <= max_bytes else (fits, guess)
        at_least = fits + max(1, fits // _CLOSE)
        smaller = max((n for n in tried if n < fits), default=None)
        if fits == 0:
            guess = 1
        elif fails in tried:
            far_apart = fails > _FAR * fits
            guess = math.isqrt(fits * fails) if far_apart else max(at_least, crossing(fits, fails))
        elif smaller is None:
            guess = 2 * fits
        else:
            guess = min(max(at_least, crossing(smaller, fits)), 2 * _FAR * fits)
        guess = min(guess, fails - 1)
    return crossing(fits, fails) if fits and fails in tried else fits
