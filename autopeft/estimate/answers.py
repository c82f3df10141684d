"""Predicts what a training step takes, and which settings fit into a memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from autopeft.errors import SpecError
from autopeft.estimate.memory_tracker import FORWARD, HEAD
from autopeft.estimate.replay import StepMemory, UntracedError
from autopeft.estimate.scaling import MemoryModel
from autopeft.estimate.traced_model import Description

_N_ROWS, _N_TOKENS = 4, 1024  # if the user sets none; heuristic
_LONGEST = 2**17  # most tokens of a row if the model has no limit; heuristic
_LEAST_TOKENS = 16  # of the smallest step that anybody would train; heuristic
_SMALLEST = "4bit"
# What the allocator keeps in addition to what is alive, as a share of activations, logits and loss: 5 % of
# the peaks of 66 published configs (benchmarks/studies/published_memory.md).
RESERVE = 0.07
# The margin from expected to high, as a share of the same parts and the reserve: 64 of the 66 configs lie
# within 5 % of the expected peak.
_MARGIN = 0.1
# What a CUDA context and the libraries' workspaces take of a GPU, apart from the allocator; heuristic.
_CONTEXT_BYTES = 2**29
# What Python, torch, transformers, peft, the tokenizer and the rows take of a process on a CPU. Fitted on
# three points of MiniLM-L6, tested on one more and SmolLM2-135M (benchmarks/studies/resident_memory.md).
PROCESS_BYTES = 715 * 10**6
MOST_ROWS = 2**12  # more rows are not tried; heuristic
_CLOSE = 8  # a number that fits and one that does not are close within an eighth; heuristic
_FAR = 4  # times a number that fits is tried next; heuristic
_TOKEN_STEP = 16  # lengths of rows are tried in multiples of it; heuristic


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """The settings of a step that a user asks for; `answer` chooses those that are None."""

    n_rows: int | None = None
    n_tokens: int | None = None  # of the longest row, which decides the memory
    typical_tokens: int | None = None  # of the rows whose time counts; None: `n_tokens`
    quantize: str = "none"
    checkpointing: bool | None = None  # None: only if the step would not fit into `max_bytes` otherwise
    max_bytes: int | None = None
    accumulates: bool = False  # take the largest micro-batch that fits: all rows, a half, a quarter …


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The peak memory of a training step, in bytes.

    `reserve` is what is taken in addition to tensors, as a low, an expected and a high estimate: the
    allocator's reserve, a margin and the CUDA context, on a CPU also what Python and its libraries take.
    """

    weights: int  # frozen
    trained: int  # adapters and head, with their gradients and moments
    activations: int  # kept for the backward pass
    logits: int  # of the output layer and the loss
    reserve: tuple[int, int, int]
    phase: str  # the part of the step that takes the most

    @property
    def low(self) -> int:
        """The tensors; on a CPU with Python and its libraries."""
        return self.weights + self.trained + self.activations + self.logits + self.reserve[0]

    @property
    def expected(self) -> int:
        """The best estimate."""
        return self.low - self.reserve[0] + self.reserve[1]

    @property
    def high(self) -> int:
        """What a device should have for the step to fit."""
        return self.low - self.reserve[0] + self.reserve[2]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The settings of a step, its memory, and its floating-point operations in products and attention."""

    n_rows: int
    n_tokens: int
    quantize: str
    checkpointing: bool
    memory: Memory
    flops: int
    seconds: float | None = None  # None if the device's rates are unknown


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Whether a step fits into `max_bytes`, and the most rows or the longest rows that fit; 0 for none."""

    max_bytes: int
    fits: bool
    most_rows: int
    longest_row: int
    nearest: Step | None = None  # the nearest settings that fit, if the step does not
    least: Step | None = None  # the settings that take the least memory, if none fit


@dataclass(frozen=True, kw_only=True)
class StepAnswer:
    """The step of a request, and its limits if `max_bytes` was set and the request does not accumulate."""

    described: Description
    step: Step
    typical: Step  # whose time counts
    limits: Limits | None = None


def answer(request: StepRequest, describe: Callable[[str], Description]) -> StepAnswer:
    """Replay a requested step, and find what fits into a memory.

    `describe` describes what is trained, with weights in `none` (plain), `4bit` or `8bit`. Raises SpecError
    if a row is longer than the model takes, or the step cannot be replayed.
    """
    described = describe(request.quantize)
    max_tokens = described.traced.max_tokens or _LONGEST
    n_rows, n_tokens = request.n_rows or _N_ROWS, request.n_tokens or min(_N_TOKENS, max_tokens)
    if n_tokens > max_tokens:
        raise SpecError(f"--max-length is {n_tokens:,}; {described.base_model} takes {max_tokens:,} at most.")
    steps = _Steps(describe=describe, max_tokens=max_tokens)
    limits = None
    if request.accumulates:
        try:
            step = steps.largest_micro_batch(request, n_rows, n_tokens)
        except UntracedError:
            return _without_activations(described, request, n_rows, n_tokens)
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
        """Replay a step of `n_rows` rows of `n_tokens` tokens each."""
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

    def largest_micro_batch(self, request: StepRequest, n_rows: int, n_tokens: int) -> Step:
        """Find how many of the rows fit at a time: all, a half, a quarter … and 1 at least.

        All fit if no memory is set. If the request leaves checkpointing open, layers are checkpointed only if
        a single row does not fit otherwise. If a single row never fits, its step is returned.
        """
        at = partial(self.at, n_tokens=n_tokens, quantize=request.quantize)
        if (max_bytes := request.max_bytes) is None:
            return at(n_rows, checkpointing=bool(request.checkpointing))
        for checkpointing in (False, True) if request.checkpointing is None else (request.checkpointing,):
            single = at(1, checkpointing=checkpointing)
            if single.memory.high > max_bytes:
                continue
            steps = (at(n_rows >> n_halved, checkpointing=checkpointing) for n_halved in range(16))
            return next(step for step in steps if step.n_rows == 1 or step.memory.high <= max_bytes)
        return single

    def limits(self, step: Step, max_bytes: int) -> Limits:
        """Find what fits into a memory at the settings of a step, or near them."""
        model = self._model(step.quantize, checkpointing=step.checkpointing)
        fits = step.memory.high <= max_bytes
        n_rows = most_rows(model, n_tokens=step.n_tokens, max_bytes=max_bytes, start=step.n_rows)
        n_tokens = longest_row(
            model, n_rows=step.n_rows, max_bytes=max_bytes, limit=self.max_tokens, start=step.n_tokens
        )
        # `n_tokens` is a multiple of 16, and the length of the step need not be one.
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
        n_least, quantize = min(_LEAST_TOKENS, self.max_tokens), self._quantizations(step)[-1]
        return replace(limits, least=self.at(1, n_least, quantize, checkpointing=True))

    def _nearest(self, step: Step, max_bytes: int) -> Step | None:
        """Try fewer rows, then 4-bit weights, then shorter rows, all checkpointed; None if nothing fits."""
        for quantize in self._quantizations(step):
            model = self._model(quantize, checkpointing=True)
            n_rows = most_rows(model, n_tokens=step.n_tokens, max_bytes=max_bytes, start=step.n_rows)
            if n_rows:
                return self.at(min(n_rows, step.n_rows), step.n_tokens, quantize, checkpointing=True)
        for quantize in self._quantizations(step):
            model = self._model(quantize, checkpointing=True)
            n_tokens = longest_row(
                model, n_rows=1, max_bytes=max_bytes, limit=step.n_tokens, start=step.n_tokens
            )
            if n_tokens:
                return self.at(1, n_tokens, quantize, checkpointing=True)
        return None

    def _quantizations(self, step: Step) -> list[str]:
        """List the quantizations to try; `4bit` only if the model can be quantized and shrinks."""
        is_tried = self.describe(step.quantize).can_be_quantized
        return list(dict.fromkeys((step.quantize, _SMALLEST))) if is_tried else [step.quantize]

    def _model(self, quantize: str, *, checkpointing: bool) -> MemoryModel:
        key = (quantize, checkpointing)
        if key not in self._models:
            twin = self._models.get((quantize, not checkpointing))
            replays, traced = twin.replays if twin else {}, self.describe(quantize).traced
            self._models[key] = MemoryModel(traced=traced, checkpointing=checkpointing, replays=replays)
        return self._models[key]


def _without_activations(
    described: Description, request: StepRequest, n_rows: int, n_tokens: int
) -> StepAnswer:
    """Count the weights, the adapters and the optimizer of a step that cannot be replayed."""
    sizes = {True: 0, False: 0}
    for parameter in described.traced.build(None).parameters():
        sizes[parameter.requires_grad] += parameter.nbytes
    memory = Memory(
        weights=sizes[False],
        trained=4 * sizes[True],  # with gradients and AdamW's two moments
        activations=0,
        logits=0,
        reserve=(0, 0, 0),
        phase=FORWARD,
    )
    step = Step(
        n_rows=n_rows,
        n_tokens=n_tokens,
        quantize=request.quantize,
        checkpointing=bool(request.checkpointing),
        memory=memory,
        flops=0,
    )
    note = (
        "the memory of activations and the time are not known, since a step of this model cannot be replayed "
        "without weights; the memory is that of weights, adapters and optimizer alone."
    )
    return StepAnswer(described=replace(described, notes=(*described.notes, note)), step=step, typical=step)


def in_parts(memory: StepMemory, *, on_gpu: bool) -> Memory:
    """Split the peak memory of a step into its parts, and add the reserve."""
    phase, peak = memory.peak_phase, memory.peak_bytes
    gradients = 0 if phase in (FORWARD, HEAD) else memory.trained_bytes
    trained = memory.trained_bytes + memory.optimizer_bytes + gradients
    computed = max(0, peak - memory.weights_bytes - trained)
    activations = min(computed, memory.body_bytes) if phase == HEAD else computed
    allocator = round(RESERVE * computed)
    margin = round(_MARGIN * (computed + allocator))
    context, process = (_CONTEXT_BYTES, 0) if on_gpu else (0, PROCESS_BYTES)
    return Memory(
        weights=memory.weights_bytes,
        trained=trained,
        activations=activations,
        logits=computed - activations,
        reserve=(process, process + allocator, process + allocator + margin + context),
        phase=phase,
    )


def most_rows(model: MemoryModel, *, n_tokens: int, max_bytes: int, start: int = 1) -> int:
    """Find the most rows of a length that fit by the high estimate, trying `start` first; 0 if none."""

    def high(n_rows: int) -> int:
        return in_parts(model.at(n_rows, n_tokens), on_gpu=model.traced.on_gpu).high

    return _largest(high, max_bytes, limit=MOST_ROWS, start=start)


def longest_row(
    model: MemoryModel, *, n_rows: int, max_bytes: int, limit: int, start: int = _TOKEN_STEP
) -> int:
    """Find the longest rows that fit by the high estimate, in multiples of 16 tokens; 0 if none."""

    def high(n: int) -> int:
        return in_parts(model.at(n_rows, _TOKEN_STEP * n), on_gpu=model.traced.on_gpu).high

    n_steps = _largest(high, max_bytes, limit=limit // _TOKEN_STEP, start=start // _TOKEN_STEP)
    return _TOKEN_STEP * n_steps


def _largest(high: Callable[[int], int], max_bytes: int, *, limit: int, start: int) -> int:
    """Find the largest number from 0 to a limit whose memory fits, by trying a few numbers.

    Memory grows ever faster with the number, so that it lies below a straight line from a number that fits to
    one that does not. Once these are within an eighth of each other, the answer is where the line meets
    `max_bytes`.

    Example:
        >>> _largest(lambda n: n * n, 5000, limit=1000, start=3)
        70
    """
    tried: dict[int, int] = {}
    fits, fails, guess = 0, limit + 1, max(1, min(start, limit))
    while fails - fits > (max(1, fits // _CLOSE) if fails in tried else 1):
        tried[guess] = high(guess)
        fits, fails = (guess, fails) if tried[guess] <= max_bytes else (fits, guess)
        if fits == 0:
            guess = 1
        elif fails in tried:
            guess = max(fits + 1, math.isqrt(fits * fails))
        else:
            guess = min(_FAR * fits, limit)
    if not fits or fails not in tried:
        return fits
    return fits + (max_bytes - tried[fits]) * (fails - fits) // max(1, tried[fails] - tried[fits])
