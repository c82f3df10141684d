"""What a run computes on: devices, memory and workers; calls from several threads take turns."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import torch

from autopeft import budget, train
from autopeft.errors import ModelError, reason_of
from autopeft.executors import EXECUTORS
from autopeft.model import (
    BaseModel,
    Precision,
    config_of,
    find_device,
    free_bytes,
    is_out_of_memory,
    load_skeleton,
)
from autopeft.model.devices import (
    SPREAD,
    device_names,
    equal_gpus,
    has_used_gpus,
    limit_memory,
    narrow_format,
)
from autopeft.model.quantization import stored_weights
from autopeft.plugins import discover
from autopeft.space import BASELINE_METHOD
from autopeft.types import (
    FLOAT32_BYTES,
    IN_MEMORY,
    Budget,
    Decision,
    ExecutionSpec,
    ModelSpec,
    Plan,
    RunSpec,
    with_setting,
)

FREE_MEMORY = "Free memory, or set CUDA_VISIBLE_DEVICES to nothing, so that the CPU computes."
_WEIGHTS_SHARE = 0.8  # of a GPU's free memory; the rest is for what it computes; heuristic
_THREADS = 2  # of a worker on a CPU, at least; heuristic
_MOST_ON_CPU = 4  # workers: each may hold weights of its own; heuristic

# torch has one random number generator for all threads, transformers one verbosity and one table of attention
# functions, and peft changes modules in place: a second search would change the numbers of the first.
_LOCK = threading.RLock()
_SLICE_SECONDS = 0.5  # of waiting for the lock, between which signals are handled; heuristic

log = logging.getLogger(__name__)


def budget_of(spec: RunSpec, base: BaseModel) -> Budget:
    """The requested budget in parameters; a rank is what LoRA of that rank on all linear layers trains."""
    lora = discover("autopeft.methods")[BASELINE_METHOD]
    per_rank = sum(lora.cost(target, 1, {}) for target in base.chosen if lora.refusal(target) is None)
    return budget.parse(spec.budget.requested, base_params=base.base_params, rank_params=per_rank)


def with_compute(spec: RunSpec, bench: train.Bench) -> tuple[RunSpec, train.Bench, tuple[Decision, ...]]:
    """Choose micro-batches and checkpointing unless the user does; returns settings, bench and decisions.

    Also limits this process to `--memory` on a GPU from here on. Raises SpecError if `--memory` is not more
    than is taken already, or for an impossible budget.
    """
    base = bench.base
    trained_params = budget_of(spec, base).max_trainable_params + base.head_params
    train.check_limit(bench, spec.execution, trained_params=trained_params)
    if spec.execution.memory_bytes is not None:
        for device in base.devices:
            limit_memory(device, spec.execution.memory_bytes)
    memory_bytes = memory_of_one(spec.execution, base)
    execution = spec.execution.model_copy(update={"memory_bytes": memory_bytes})
    compute, decisions = train.choose_compute(bench, execution, trained_params=trained_params)
    update = {
        "micro_batch_tokens": compute.micro_batch_tokens,
        "checkpointing": "on" if compute.checkpointing else "off",
    }
    execution = spec.execution.model_copy(update=update)
    return spec.model_copy(update={"execution": execution}), replace(bench, compute=compute), decisions


def memory_of_one(execution: ExecutionSpec, base: BaseModel) -> int | None:
    """Compute how many bytes of its device one measuring process may use, weights included; None: no limit.

    Workers that share a GPU get equal parts. This process leaves the GPU before they load their models.
    """
    if base.device.type != "cuda" or not _places_workers(execution):
        return execution.memory_bytes
    n_sharing = -(-n_workers(execution) // len(worker_devices(execution)))  # one device
    if n_sharing == 1:
        return execution.memory_bytes
    free = free_bytes(base.device, limit_bytes=execution.memory_bytes)
    return max(1, (free + base.weight_bytes // len(base.devices)) // n_sharing)


def loading_place(spec: RunSpec, plan: Plan, *, auto_class: str) -> tuple[str, Precision]:
    """Choose device and number format for a finished model, which the user calls without autocast.

    1. float32 if it has a head or trained norms: these are float32 and take no inputs in bfloat16.
    2. Else 16 bits if the run held the model so, not quantized, and the device computes in them.
    """
    is_narrow = spec.execution.dtype != "float32" and spec.model.quantize == "none"
    if is_narrow:
        skeleton = load_skeleton(spec.model, auto_class=auto_class)
        norms = {target.name for target in skeleton.targets if target.kind == "norm"}
        is_narrow = not skeleton.head_names and norms.isdisjoint(adapter.target for adapter in plan.adapters)
    device = device_in_float32(
        spec.model, auto_class=auto_class, preferred=spec.execution.device, is_narrow=is_narrow
    )
    narrow = narrow_format(find_device(device)) if is_narrow else None
    return device, Precision(dtype=narrow or "float32")


def device_in_float32(
    spec: ModelSpec,
    *,
    auto_class: str,
    preferred: str | None = None,
    dequantizes: bool = False,
    is_narrow: bool = False,
) -> str:
    """Choose a device for a model in float32: the CPU, with a log line, if a GPU has too little free memory.

    A model that was spread over all GPUs is spread again. `preferred` is a device as `--device` names it;
    None, or one that this machine does not have, is the default one. A quantized model, on request or by its
    checkpoint, goes to the GPU in any case unless it is dequantized: it is no larger than in training. With
    `is_narrow` a model is held in 16 bits instead on a GPU that computes in them.
    """
    try:
        device = find_device(preferred)
    except ModelError:  # the run was made on another machine
        preferred, device = None, find_device(None)
    is_spread = device_names(preferred)[0] == SPREAD
    name, places = (SPREAD, equal_gpus()) if is_spread else (str(device), (device,))
    if device.type != "cuda" or not (dequantizes or _is_plain(spec)):
        return name
    narrow = narrow_format(device) if is_narrow else None
    n_bytes = _weight_bytes(spec, auto_class, is_narrow=narrow is not None)
    if n_bytes <= _WEIGHTS_SHARE * sum(free_bytes(torch.device(place)) for place in places):
        return name
    text = "The GPU has less free memory than %s needs in %s: the CPU computes."
    log.info(text, spec.id, narrow or "float32")
    return "cpu"


def with_spread(spec: RunSpec, *, auto_class: str) -> RunSpec:
    """Spread a base model whose weights fit one GPU of the machine barely or not over all of them; log it.

    `--device`, workers in processes, and quantized weights leave the settings as they are.
    """
    execution, gpus = spec.execution, equal_gpus()
    is_open = execution.device is None and EXECUTORS[execution.executor].shares_memory
    if len(gpus) < 2 or not is_open or spec.model.id == IN_MEMORY or not _is_plain(spec.model):
        return spec
    n_bytes = _weight_bytes(spec.model, auto_class, is_narrow=execution.dtype != "float32")
    free = free_bytes(torch.device(gpus[0]), limit_bytes=execution.memory_bytes)
    if n_bytes <= _WEIGHTS_SHARE * free:
        return spec
    text = "The weights take %.1f GB, and %s has %.1f GB free: --device %s spreads the layers over %d GPUs."
    log.info(text, n_bytes / 1e9, gpus[0], free / 1e9, SPREAD, len(gpus))
    return with_setting(spec, "execution.device", SPREAD)


def _is_plain(spec: ModelSpec) -> bool:
    """Whether a model is held in plain numbers, neither quantized on request nor by its checkpoint."""
    stored = stored_weights(config_of(spec))
    return spec.quantize == "none" and (stored is None or stored.is_loaded_plain)


def _weight_bytes(spec: ModelSpec, auto_class: str, *, is_narrow: bool) -> int:
    skeleton = load_skeleton(spec, auto_class=auto_class)
    return (FLOAT32_BYTES // 2 if is_narrow else FLOAT32_BYTES) * (
        skeleton.base_params + skeleton.head_params
    )


@contextlib.contextmanager
def memory_needed(purpose: str, remedy: str | RunSpec) -> Iterator[None]:
    """Raise a ModelError that says what to do if memory runs out within the context.

    The purpose is a phrase such as "loading the base model". The settings of a run may stand for the remedy,
    which is then derived from them.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = remedy if isinstance(remedy, str) else _memory_advice(remedy)
        raise ModelError(f"Memory ran out in {purpose} ({reason_of(error)}). {advice}") from error


def _memory_advice(spec: RunSpec) -> str:
    is_quantized, reason = spec.model.quantize != "none", ""
    with contextlib.suppress(ModelError):  # the config cannot be read, or the model was passed as an object
        stored = stored_weights(config_of(spec.model))
        is_quantized = is_quantized or not (stored is None or stored.is_loaded_plain)
    with contextlib.suppress(ModelError):  # the device is not here
        device = find_device(spec.execution.device)
        if device.type == "cuda" and not is_quantized and narrow_format(device) is None:
            reason = "This GPU multiplies no 16 bits, so that each weight takes 4 bytes. "
        if len(equal_gpus()) > 1 and device_names(spec.execution.device)[0] != SPREAD:
            reason += f"Pass --device {SPREAD} to spread the model over all GPUs. "
    return reason + train.memory_advice(checkpointing=spec.execution.checkpointing, is_quantized=is_quantized)


def worker_devices(execution: ExecutionSpec) -> tuple[str | None, ...]:
    """List the devices that workers take in turn: those of `--device`, or all GPUs like the first one.

    Fewer `--workers` than GPUs take the first ones. None is the default device.
    """
    if execution.device is not None or not _places_workers(execution):
        return device_names(execution.device)
    return equal_gpus()[: execution.workers] or (None,)


def n_workers(execution: ExecutionSpec) -> int:
    """Count the workers: `--workers`, at least one for each device; `auto` adds some on a CPU alone."""
    devices = worker_devices(execution)
    if execution.workers is None and _places_workers(execution) and _kind(devices[0]) == "cpu":
        return max(1, min(_MOST_ON_CPU, torch.get_num_threads() // _THREADS))
    return max(execution.workers or 1, len(devices))


def log_workers(spec: RunSpec) -> None:
    """Log the workers that were derived, or GPUs that are left unused."""
    execution = spec.execution
    if _places_workers(execution):
        if execution.workers is None or execution.device is None:
            places = ", ".join(name or _kind(name) for name in worker_devices(execution))
            log.info("Workers: %d, on %s; --workers and --device change that.", n_workers(execution), places)
    elif EXECUTORS[execution.executor].shares_memory and execution.device is None:
        n_gpus = len(equal_gpus())
        if n_gpus > 1 and IN_MEMORY not in (spec.model.id, spec.data.source):
            log.info("%d GPUs are visible; a model that fits one uses one, --executor process all.", n_gpus)


def _kind(device: str | None) -> str:
    return find_device(None).type if device is None else device.partition(":")[0]


def _places_workers(execution: ExecutionSpec) -> bool:
    """Whether autopeft itself assigns devices to workers in other processes."""
    executor = EXECUTORS[execution.executor]
    return not (executor.shares_memory or executor.assigns_gpus)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one thread of the process into the context (or decorated function) at a time.

    Another thread waits, after a warning. A thread that is inside may enter again. A signal ends the waiting
    of the main thread: the wait is cut into slices, since a signal that arrives just before it, and on
    Windows any signal, is heard only between slices. On leaving, current GPU and memory limits are put back.
    """
    if not _LOCK.acquire(blocking=False):
        log.warning("Another thread of this process is in a call of autopeft; this call waits for its end.")
        while not _LOCK.acquire(timeout=_SLICE_SECONDS):
            pass
    try:
        gpu = torch.cuda.current_device() if has_used_gpus() else 0
        shares = _memory_shares()
        try:
            yield
        finally:
            if has_used_gpus() and torch.cuda.current_device() != gpu:
                torch.cuda.set_device(gpu)
            for index, share in _memory_shares().items():
                if share != shares.get(index, 1.0):
                    torch.cuda.set_per_process_memory_fraction(shares.get(index, 1.0), index)
    finally:
        _LOCK.release()


def _memory_shares() -> dict[int, float]:
    """Read the share of each GPU's memory that torch lets this process use; {} if it used no GPU yet."""
    n_gpus = torch.cuda.device_count() if has_used_gpus() else 0
    return {index: torch.cuda.get_per_process_memory_fraction(index) for index in range(n_gpus)}
