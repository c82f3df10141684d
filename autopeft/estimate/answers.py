"""What a training step takes, and which settings fit into a memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from autopeft.errors import SpecError
from autopeft.estimate.fitting import Memory, in_parts, longest_row, most_rows
from autopeft.estimate.known_results import SlowReplayError
from autopeft.estimate.scaling import MemoryModel
from autopeft.estimate.subjects import TraineeOnModel

_N_ROWS, _N_TOKENS = 4, 1024  # where the user names none; chosen by hand
_LONGEST = 2**17  # tokens of a row of a model without a limit
_LEAST_TOKENS = 16  # of the smallest step that anybody would train; chosen by hand
_FEW_BITS = "4bit"


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """The settings of a step that a user asks for; those that are None are chosen.

    `checkpointing` None takes it only where the step would not fit into `max_bytes` otherwise. `n_tokens` are
    those of the longest row, which decide the memory; `typical_tokens`, if given, decide the time.
    """

    n_rows: int | None = None
    n_tokens: int | None = None
    typical_tokens: int | None = None
    quantize: str = "none"
    checkpointing: bool | None = None
    max_bytes: int | None = None


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

    described: TraineeOnModel
    step: Step
    typical: Step
    limits: Limits | None = None


class UntoldStepError(SpecError):
    """The memory of a step cannot be told; what is trained on which model is `described` all the same.

    `is_slow` says whether the replay takes more kernels than it may.
    """

    def __init__(self, message: str, *, described: TraineeOnModel, is_slow: bool) -> None:
        super().__init__(message)
        self.described = described
        self.is_slow = is_slow


def answer(request: StepRequest, describe: Callable[[str], TraineeOnModel]) -> StepAnswer:
    """The memory of a requested step, and what fits.

    Args:
        request: The settings.
        describe: The trainee on its model with weights in so many bits (`none`, `4bit` or `8bit`).

    Raises:
        UntoldStepError: A row longer than the model takes, or a step that cannot be replayed, or only with
            more kernels than it may take.
    """
    described = describe(request.quantize)
    try:
        return _answer(request, described, describe)
    except SpecError as error:
        is_slow = isinstance(error, SlowReplayError)
        raise UntoldStepError(str(error), described=described, is_slow=is_slow) from error


def _answer(
    request: StepRequest, described: TraineeOnModel, describe: Callable[[str], TraineeOnModel]
) -> StepAnswer:
    max_tokens = described.subject.max_tokens or _LONGEST
    n_rows, n_tokens = request.n_rows or _N_ROWS, request.n_tokens or min(_N_TOKENS, max_tokens)
    if n_tokens > max_tokens:
        raise SpecError(f"--max-length is {n_tokens:,}; {described.base_model} takes {max_tokens:,} at most.")
    steps = _Steps(describe=describe, max_tokens=max_tokens)
    step = steps.at(n_rows, n_tokens, request.quantize, checkpointing=bool(request.checkpointing))
    limits = None
    if request.max_bytes is not None:
        if request.checkpointing is None and step.memory.high > request.max_bytes:
            step = steps.at(n_rows, n_tokens, request.quantize, checkpointing=True)
        limits = steps.limits(step, request.max_bytes)
    typical_tokens = min(n_tokens, request.typical_tokens or n_tokens)
    typical = steps.at(n_rows, typical_tokens, request.quantize, checkpointing=step.checkpointing)
    return StepAnswer(described=described, step=step, typical=typical, limits=limits)


@dataclass(kw_only=True)
class _Steps:
    """Steps of a trainee under several settings."""

    describe: Callable[[str], TraineeOnModel]
    max_tokens: int
    _models: dict[tuple[str, bool], MemoryModel] = field(default_factory=dict)

    def at(self, n_rows: int, n_tokens: int, quantize: str, *, checkpointing: bool) -> Step:
        """A step and its memory."""
        model = self._model(quantize, checkpointing)
        step, rates = model.at(n_rows, n_tokens), model.subject.rates
        return Step(
            n_rows=n_rows,
            n_tokens=n_tokens,
            quantize=quantize,
            checkpointing=checkpointing,
            memory=in_parts(step, on_gpu=model.subject.on_gpu),
            flops=step.flops,
            seconds=None if rates is None else rates.of_step(step.busy_seconds, step.n_calls),
        )

    def limits(self, step: Step, max_bytes: int) -> Limits:
        """What fits into a memory at the settings of a step, or near them."""
        model = self._model(step.quantize, step.checkpointing)
        fits = step.memory.high <= max_bytes
        n_rows = most_rows(model, n_tokens=step.n_tokens, max_bytes=max_bytes)
        n_tokens = longest_row(model, n_rows=step.n_rows, max_bytes=max_bytes, limit=self.max_tokens)
        # The step was replayed as it is, and decides where the scaled steps differ by a little.
        limits = Limits(
            max_bytes=max_bytes,
            fits=fits,
            most_rows=max(n_rows, step.n_rows) if fits else min(n_rows, step.n_rows - 1),
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
            n_rows = most_rows(self._model(quantize, True), n_tokens=step.n_tokens, max_bytes=max_bytes)
            if n_rows:
                return self.at(min(n_rows, step.n_rows), step.n_tokens, quantize, checkpointing=True)
        for quantize in self._bits(step):
            model = self._model(quantize, True)
            n_tokens = longest_row(model, n_rows=1, max_bytes=max_bytes, limit=step.n_tokens)
            if n_tokens:
                return self.at(1, n_tokens, quantize, checkpointing=True)
        return None

    def _bits(self, step: Step) -> list[str]:
        """What the weights may be held in; not every model can be quantised, or gets smaller by it."""
        takes_few_bits = self.describe(step.quantize).takes_few_bits
        return list(dict.fromkeys((step.quantize, _FEW_BITS))) if takes_few_bits else [step.quantize]

    def _model(self, quantize: str, checkpointing: bool) -> MemoryModel:
        key = (quantize, checkpointing)
        if key not in self._models:
            subject, other = self.describe(quantize).subject, self._models.get((quantize, not checkpointing))
            replays = other.replays if other else {}
            self._models[key] = MemoryModel(subject=subject, checkpointing=checkpointing, replays=replays)
        return self._models[key]
