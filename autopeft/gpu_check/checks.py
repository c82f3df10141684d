"""`info --gpu`: trains on a GPU for about five minutes, and compares what it sees with what is promised."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autopeft import model
from autopeft.commands.info import versions
from autopeft.commands.search import run_search
from autopeft.errors import AutopeftError, ModelError, first_line_of
from autopeft.estimate import measure_rates
from autopeft.gpu_check.place import SHAPE, Gpu, Place, short_run
from autopeft.gpu_check.trainer_loop import trainer_losses
from autopeft.plugins import Batch, Task
from autopeft.report.progress import Lines
from autopeft.store import resolve_settings
from autopeft.train import watched
from autopeft.types import FLOAT32_BYTES, SearchResult, Status

_N_LENGTHS = 50  # of rows, all different: each is a new shape for the kernels
_FORMAT_STEPS, _COMPARED_STEPS = 12, 50
# The largest errors that pass: of memory, what rounding and the kernels' own memory take; of the time, what
# `estimate` gives as low and high; of losses, the mean difference of two runs of one loop, in nats.
_MEMORY_ERROR, _TIME_SPAN = 0.10, (0.75, 1.35)
_LOSS_GAPS = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.02}
_SLOWER = 1.5  # how much longer a first pass over new shapes may take than the second; heuristic
# The demo on a CPU (reports/demo/result.json): the interval of the difference between challenger and default.
_DEMO_BUDGET, _DEMO_LABEL, _DEMO_INTERVAL = "7500", "better", (0.0071, 0.0742)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a check found: PASS, FAIL or SKIP, in words and in numbers."""

    check: str = ""
    status: str
    found: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class _OverflowsOnce:
    """A task whose second loss is so large that its gradients leave the range of float16."""

    def __init__(self, task: Task) -> None:
        self._task, self._n_losses = task, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the loss of the task."""
        self._n_losses += 1
        return self._task.loss(model, batch) * (1e30 if self._n_losses == 2 else 1.0)


def check_number_format(place: Place) -> Row:
    """Train in the number format that a search chooses here; in float16 a step that overflows is skipped."""
    task = _OverflowsOnce(place.task) if place.precision.dtype == "float16" else place.task
    trained = place.train(place.bench([64] * 32, batch_size=8, task=task), n_steps=_FORMAT_STEPS)
    first, last = trained.losses[0], trained.losses[-1]
    return Row(
        status=_passed(last < first),
        found=f"{place.precision.dtype}, loss from {first:.2f} to {last:.2f} in {_FORMAT_STEPS} steps",
        numbers={"dtype": place.precision.dtype, "first_loss": first, "last_loss": last},
    )


def check_waits(place: Place) -> Row:
    """Let torch raise an error if a step, with its batch and its optimizer, waits for the GPU."""

    def before_next(step: int, n_steps: int, loss: Callable[[], float]) -> None:
        place.gpu.on_wait("error" if step == 2 else "default")

    bench = place.bench([64, 48, 32, 16] * 8, batch_size=4)
    try:
        with watched(before_next):
            measurement = bench.measure(place.plan, short_run(5, bench.batch_size))
    finally:
        place.gpu.on_wait("default")
    is_good = measurement.status is Status.COMPLETE
    return Row(status=_passed(is_good), found="none" if is_good else str(measurement.error))


class _AttentionKernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the kernels of attention by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "scaled_dot_product" in name:
            self.names[name.removeprefix("_scaled_dot_product_")] += 1
        return func(*args, **(kwargs or {}))


def check_attention(place: Place) -> Row:
    """Name the kernels of attention, and train on new shapes twice, which the first time must not be slow."""
    lengths = [place.n_tokens - i for i in range(_N_LENGTHS)]
    bench = place.bench(lengths, batch_size=1)
    with _AttentionKernels() as kernels:
        bench.saved_bytes(place.plan, [0, _N_LENGTHS - 1])
    names = " and ".join(sorted(kernels.names)) or "math"
    clock = place.train(bench, n_steps=2 * _N_LENGTHS).clock  # an epoch has each row once
    first, second = clock[_N_LENGTHS - 1] - clock[0], clock[-1] - clock[_N_LENGTHS]
    is_good = "math" not in names and first <= _SLOWER * second
    return Row(
        status=_passed(is_good),
        found=f"{names}; {_N_LENGTHS} lengths in {first:.2f} s, then in {second:.2f} s",
        numbers={"kernels": names, "first_seconds": first, "second_seconds": second},
    )


def check_memory(place: Place) -> Row:
    """Compare the peak of a step, as torch's allocator counts it, with `estimate`."""
    measurement = place.step.measurement
    trained_bytes = FLOAT32_BYTES * place.plan.trainable_params
    measured = place.base.weight_bytes + trained_bytes + measurement.peak_bytes
    predicted = place.estimated.answer.step.memory.low
    error = predicted / measured - 1
    return Row(
        status=_passed(abs(error) <= _MEMORY_ERROR),
        found=f"{measured / 2**30:.2f} GiB, predicted {predicted / 2**30:.2f} ({100 * error:+.0f} %)",
        numbers={"measured_bytes": measured, "predicted_bytes": predicted},
    )


def check_time(place: Place) -> Row:
    """Compare the time of a step with `estimate`."""
    measured, predicted = place.step.step_seconds, place.estimated.seconds
    assert predicted is not None, "the rates of this GPU were measured"
    low, high = (share * predicted for share in _TIME_SPAN)
    n_tokens = place.n_rows * place.n_tokens
    return Row(
        status=_passed(low <= measured <= high),
        found=f"{measured:.3f} s a step, predicted {low:.3f} to {high:.3f}; "
        f"{n_tokens / measured:,.0f} tokens a second",
        numbers={"measured_seconds": measured, "predicted_seconds": predicted, "tokens": n_tokens},
    )


def check_losses(place: Place) -> Row:
    """Compare the losses with those of TRL's trainer, or of transformers', from the same first weights."""
    lengths = [place.n_tokens // 4 + 37 * i % (3 * place.n_tokens // 4) for i in range(64)]
    bench = place.bench(lengths, batch_size=place.n_rows // 2)
    ours = place.train(bench, n_steps=_COMPARED_STEPS)
    name, losses, seconds = trainer_losses(bench, place.plan, n_steps=_COMPARED_STEPS)
    gaps = [abs(a - b) for a, b in zip(ours.losses, losses, strict=True)]
    our_seconds = (ours.clock[-1] - ours.clock[0]) / (_COMPARED_STEPS - 1)
    return Row(
        status=_passed(fmean(gaps) <= _LOSS_GAPS[place.precision.dtype]),
        found=f"{fmean(gaps):.1e} from those of {name} in {_COMPARED_STEPS} steps; {our_seconds:.3f} s "
        f"a step, there {seconds:.3f}",
        numbers={
            "trainer": name,
            "mean_gap": fmean(gaps),
            "largest_gap": max(gaps),
            "seconds": our_seconds,
            "trainer_seconds": seconds,
        },
    )


def _search_demo(place: Place) -> SearchResult:
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "budget.requested": _DEMO_BUDGET,
            "output.out": f"{folder}/demo",
            "execution.device": str(place.gpu.device),
        }
        return run_search(resolve_settings(flags=flags), progress=Lines())[0]


def check_demo(place: Place, search: Callable[[Place], SearchResult] = _search_demo) -> Row:
    """Search as the demo does; a CPU's verdict and the interval of its difference must hold here."""
    try:
        result = search(place)
    except ModelError as error:  # the package with the demo's model is not installed
        return Row(status="SKIP", found=first_line_of(error))
    verdict, (low, high) = result.verdict, _DEMO_INTERVAL
    difference = verdict.mean_difference
    is_good = verdict.label == _DEMO_LABEL and difference is not None and low <= difference <= high
    points = "" if difference is None else f", {100 * difference:+.1f} points"
    return Row(
        status=_passed(is_good),
        found=f"{verdict.label}{points}; on a CPU {_DEMO_LABEL}, {100 * low:+.1f} to {100 * high:+.1f}",
        numbers={"label": verdict.label, "difference": difference, "seconds": result.cost.total_seconds},
    )


def _passed(is_good: bool) -> str:
    return "PASS" if is_good else "FAIL"


# The losses come after the checks that train the same model: another trainer may change it.
CHECKS: Mapping[str, Callable[[Place], Row]] = {
    "number format": check_number_format,
    "waits": check_waits,
    "attention": check_attention,
    "memory": check_memory,
    "time": check_time,
    "losses": check_losses,
    "demo": check_demo,
}


def this_gpu() -> Place:
    """Return the GPU that a search would take, in its number format; raise AutopeftError without one."""
    device = model.find_device(None)
    if device.type != "cuda":
        raise AutopeftError("torch finds no GPU on this machine; run autopeft info --gpu on one that has it.")
    config = transformers.LlamaConfig(**SHAPE)
    return Place(gpu=Gpu(device), precision=model.choose_precision(config, device))


def check_gpu(place: Place, checks: Mapping[str, Callable[[Place], Row]] = CHECKS) -> Iterator[Row]:
    """Run checks one after the other; one that raises fails, and the others still run."""
    for name, check in checks.items():
        started = time.perf_counter()
        with model.quiet_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                row = check(place)
            except Exception as error:
                log.debug("Check failed", exc_info=True)
                row = Row(status="FAIL", found=f"{type(error).__name__}: {first_line_of(error)}")
        model.release_memory(place.gpu.device)
        yield replace(row, check=name, seconds=round(time.perf_counter() - started, 1))


def report_of(place: Place, rows: Sequence[Row]) -> dict[str, Any]:
    """Combine rows with the card, its measured rates and the versions, as values that JSON can hold."""
    rates = measure_rates(place.gpu.device, place.precision.torch_dtype)
    speed = {
        "tflops": round(rates.flops / 1e12, 1),
        "gb_per_second": round(rates.bytes / 1e9),
        "call_microseconds": round(1e6 * rates.call_seconds, 1),
    }
    return {"gpu": place.gpu.facts() | speed, "versions": versions(), "checks": [asdict(row) for row in rows]}
