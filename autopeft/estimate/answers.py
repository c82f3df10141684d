"""Predicts what a training step takes, and which settings fit into a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autopeft.errors import SpecError
from autopeft.estimate.memory_tracker import FORWARD, HEAD
from autopeft.estimate.replay import StepMemory, UntracedError
from autopeft.estimate.traced_model import Description, TracedModel

_N_ROWS, _N_TOKENS = 4, 1024  # if the user sets none; heuristic
_LONGEST = 2**17  # most tokens of a row if the model has no limit; heuristic
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
_FAR = 4  # times the first number is tried next if that fits; heuristic
_TOKEN_STEP = 16  # lengths of rows are tried in multiples of it; heuristic
_UNTRACED = (
    "the memory of activations and the time are not known, since a step of this model cannot be replayed "
    "without weights; the memory is that of weights, adapters and optimizer alone."
)


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
    """The peak memory of a training step, in bytes."""

    weights: int  # frozen
    trained: int  # adapters and head, with their gradients and moments
    activations: int  # kept for the backward pass
    logits: int  # of the output layer and the loss
    # In addition to tensors, low, expected and high: the allocator's reserve, a margin and the CUDA context,
    # on a CPU also what Python and its libraries take.
    reserve: tuple[int, int, int]

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
    """The settings of a step, its memory and its time."""

    n_rows: int
    n_tokens: int
    quantize: str
    checkpointing: bool
    memory: Memory
    seconds: float | None = None  # None if the device's rates are unknown


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Whether a step fits into `max_bytes`, and the most rows or the longest rows that fit; 0 for none."""

    max_bytes: int
    fits: bool
    most_rows: int
    longest_row: int
    nearest: Step | None = None  # the nearest settings that fit, if the step does not


@dataclass(frozen=True, kw_only=True)
class StepAnswer:
    """The step of a request, and its limits if `max_bytes` was set and the request does not accumulate."""

    described: Description
    step: Step
    typical: Step  # whose time counts
    limits: Limits | None = None


def answer(request: StepRequest, describe: Callable[[str], Description]) -> StepAnswer:
    """Replay a step, and find what fits; `describe` takes `none`, `4bit` or `8bit` weights."""
    described = describe(request.quantize)
    traced = described.traced
    max_tokens = traced.max_tokens or _LONGEST
    n_rows, n_tokens = request.n_rows or _N_ROWS, request.n_tokens or min(_N_TOKENS, max_tokens)
    if n_tokens > max_tokens:
        raise SpecError(f"--max-length is {n_tokens:,}; {described.base_model} takes {max_tokens:,} at most.")
    limits = None
    if request.accumulates:
        try:
            step = _largest_micro_batch(traced, request, n_rows, n_tokens)
        except UntracedError:
            step = _without_activations(traced, n_rows, n_tokens)
            described = replace(described, notes=(*described.notes, _UNTRACED))
            return StepAnswer(described=described, step=step, typical=step)
    else:
        step = step_of(traced, n_rows, n_tokens, checkpointing=bool(request.checkpointing))
        if request.max_bytes is not None:
            if request.checkpointing is None and step.memory.high > request.max_bytes:
                step = step_of(traced, n_rows, n_tokens, checkpointing=True)
            limits = _limits(step, described, describe, request.max_bytes)
    typical_tokens = min(n_tokens, request.typical_tokens or n_tokens)
    typical = step_of(traced, step.n_rows, typical_tokens, checkpointing=step.checkpointing)
    return StepAnswer(described=described, step=step, typical=typical, limits=limits)


def step_of(traced: TracedModel, n_rows: int, n_tokens: int, *, checkpointing: bool = False) -> Step:
    """Predict a step of `n_rows` rows of `n_tokens` tokens each."""
    replayed, setup = traced.at(n_rows, n_tokens, checkpointing=checkpointing), traced.setup
    busy, n_calls, rates = replayed.busy_seconds, replayed.n_calls, setup.rates
    return Step(
        n_rows=n_rows,
        n_tokens=n_tokens,
        quantize=setup.model.quantize,
        checkpointing=checkpointing,
        memory=in_parts(replayed, on_gpu=setup.on_gpu),
        seconds=None if rates is None else rates.of_step(busy, n_calls),
    )


def _largest_micro_batch(traced: TracedModel, request: StepRequest, n_rows: int, n_tokens: int) -> Step:
    """Find how many of the rows fit at a time: all, a half, a quarter … and 1 at least."""
    if (max_bytes := request.max_bytes) is None:
        return step_of(traced, n_rows, n_tokens, checkpointing=bool(request.checkpointing))
    for checkpointing in (False, True) if request.checkpointing is None else (request.checkpointing,):
        single = step_of(traced, 1, n_tokens, checkpointing=checkpointing)
        if single.memory.high <= max_bytes:
            halved = (n_rows >> n for n in range(16))
            steps = (step_of(traced, n, n_tokens, checkpointing=checkpointing) for n in halved)
            return next(step for step in steps if step.n_rows == 1 or step.memory.high <= max_bytes)
    return single


def _limits(
    step: Step, described: Description, describe: Callable[[str], Description], max_bytes: int
) -> Limits:
    """Find what fits into a memory at the settings of a step, or near them."""
    traced, fits = described.traced, step.memory.high <= max_bytes
    length = longest_row(traced, step, max_bytes, limit=traced.max_tokens or _LONGEST)
    nearest = None
    if not fits:
        smaller = [describe("4bit").traced] if described.can_be_quantized and step.quantize != "4bit" else []
        nearest = _nearest(replace(step, checkpointing=True), [traced, *smaller], max_bytes)
    return Limits(
        max_bytes=max_bytes,
        fits=fits,
        most_rows=most_rows(traced, step, max_bytes),
        # `length` is a multiple of 16, and that of the step need not be one.
        longest_row=max(length, step.n_tokens) if fits else min(length, step.n_tokens - 1),
        nearest=nearest,
    )


def _nearest(step: Step, models: Sequence[TracedModel], max_bytes: int) -> Step | None:
    """Try fewer rows, then 4-bit weights, then shorter rows; None if nothing fits."""
    for traced in models:
        if n_rows := most_rows(traced, step, max_bytes):
            return _like(step, traced, n_rows=min(n_rows, step.n_rows))
    single = replace(step, n_rows=1)
    for traced in models:
        if n_tokens := longest_row(traced, single, max_bytes, limit=step.n_tokens):
            return _like(single, traced, n_tokens=n_tokens)
    return None


def most_rows(traced: TracedModel, step: Step, max_bytes: int) -> int:
    """Find the most rows of the length of a step that fit by the high estimate; 0 if none."""
    return _largest(
        lambda n: _like(step, traced, n_rows=n).memory.high, max_bytes, limit=MOST_ROWS, start=step.n_rows
    )


def longest_row(traced: TracedModel, step: Step, max_bytes: int, *, limit: int) -> int:
    """Find the longest rows, as many as in a step, that fit, in multiples of 16 tokens; 0 if none."""
    return _TOKEN_STEP * _largest(
        lambda n: _like(step, traced, n_tokens=_TOKEN_STEP * n).memory.high,
        max_bytes,
        limit=limit // _TOKEN_STEP,
        start=step.n_tokens // _TOKEN_STEP,
    )


def _like(step: Step, traced: TracedModel, *, n_rows: int | None = None, n_tokens: int | None = None) -> Step:
    """Predict a step of a model with other rows than a step has."""
    return step_of(traced, n_rows or step.n_rows, n_tokens or step.n_tokens, checkpointing=step.checkpointing)


def _without_activations(traced: TracedModel, n_rows: int, n_tokens: int) -> Step:
    """Count the weights, the adapters and the optimizer of a step that cannot be replayed."""
    n_bytes = {True: 0, False: 0}
    for parameter in traced.build(None).parameters():
        n_bytes[parameter.requires_grad] += parameter.nbytes
    memory = Memory(
        weights=n_bytes[False],
        trained=4 * n_bytes[True],  # with gradients and AdamW's two moments
        activations=0,
        logits=0,
        reserve=(0, 0, 0),
    )
    quantize = traced.setup.model.quantize
    return Step(n_rows=n_rows, n_tokens=n_tokens, quantize=quantize, checkpointing=False, memory=memory)


def in_parts(memory: StepMemory, *, on_gpu: bool) -> Memory:
    """Split the peak memory of a step into its parts, and add the reserve."""
    phase, peak = max(memory.peaks.items(), key=lambda item: item[1])
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
    )


def _largest(high: Callable[[int], int], max_bytes: int, *, limit: int, start: int) -> int:
    """Find the largest number from 0 to a limit whose memory fits, by trying a few numbers.

    Memory is nearly a straight line of the number, and grows ever faster. So the line through two numbers
    that were tried meets `max_bytes` near the answer, and not beyond it if only one of them fits. Once a
    number that fits and one that does not are within an eighth of each other, that meeting is the answer.
    """
    tried: dict[int, int] = {}
    fits, fails, guess = 0, limit + 1, max(1, min(start, limit))

    def meeting(a: int, b: int) -> int:
        return a + (max_bytes - tried[a]) * (b - a) // max(1, tried[b] - tried[a])

    while fails - fits > (max(1, fits // _CLOSE) if fails in tried else 1):
        tried[guess] = high(guess)
        fits, fails = (guess, fails) if tried[guess] <= max_bytes else (fits, guess)
        if fits == 0:
            guess = 1
        elif fails in tried:
            guess = max(meeting(fits, fails), fits + max(1, fits // _CLOSE))
        else:
            guess = meeting(*sorted(tried)[-2:]) if len(tried) > 1 else _FAR * fits
        guess = max(fits + 1, min(guess, fails - 1))
    return meeting(fits, fails) if fits and fails in tried else fits
