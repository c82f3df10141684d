"""What a run computes on: devices, memory and workers; calls from several threads take turns."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from autopeft import budget, train
from autopeft.errors import ModelError, SpecError, reason_of
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
from autopeft.plugins import IGNORED, Task, discover
from autopeft.space import BASELINE_METHOD
from autopeft.types import (
    FLOAT32_BYTES,
    IN_MEMORY,
    Budget,
    Decision,
    ExecutionSpec,
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

log = logging.getLogger(__name__)


def budget_of(spec: RunSpec, base: BaseModel) -> Budget:
    """Return the budget in parameters; a rank is what LoRA of that rank on all linear layers trains."""
    return budget.parse(spec.budget.requested, base_params=base.base_params, rank_params=_rank_params(base))


def _rank_params(base: BaseModel) -> int:
    lora = discover("autopeft.methods")[BASELINE_METHOD]
    return sum(lora.cost(target, 1, {}) for target in base.chosen if lora.refusal(target) is None)


def with_rank(spec: RunSpec, base: BaseModel, *, n_labelled: int) -> tuple[RunSpec, Decision]:
    """Replace the budget `auto` by a rank for the tokens that a language model learns to write."""
    per_rank = _rank_params(base)
    rank = f"r{budget.rank_for(n_labelled, rank_params=per_rank, base_params=base.base_params)}"
    rule = f"the lowest rank with a parameter for each of {n_labelled:,} labelled tokens"
    decision = Decision(setting="budget.requested", value=rank, rule=rule)
    return with_setting(spec, "budget.requested", rank), decision


def labelled_tokens(task: Task, split: train.EncodedSplit) -> int:
    """Count the labelled tokens of a split; SpecError if a row has one label."""
    if task.defaults.family != "language":
        raise SpecError(f"The budget 'auto' is for language models, not for {task.name}; pass a rank.")
    return sum(int(np.count_nonzero(np.asarray(labels) != IGNORED)) for labels in split.labels)


def with_compute(spec: RunSpec, bench: train.Bench) -> tuple[RunSpec, train.Bench, tuple[Decision, ...]]:
    """Choose micro-batches and checkpointing unless the user does; returns settings, bench and decisions.

    Also limits this process to `--memory` on a GPU from here on. Raises SpecError if `--memory` is not more
    than is taken already, or for an impossible budget.
    """
    base = bench.base
    trained_params = budget_of(spec, base).max_trainable_params + base.head_params
    train.check_limit(bench, spec.execution)
    if spec.execution.memory_bytes is not None:
        for device in base.devices:
            limit_memory(device, spec.execution.memory_bytes)
    memory_bytes = memory_of_one(spec.execution, base)
    execution = spec.execution.model_copy(update={"memory_bytes": memory_bytes})
    compute, decisions = train.choose_compute(bench, execution, trained_params=trained_params)
    spec = with_setting(spec, "execution.micro_batch_tokens", compute.micro_batch_tokens)
    spec = with_setting(spec, "execution.checkpointing", "on" if compute.checkpointing else "off")
    return spec, replace(bench, compute=compute), decisions


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
    device = spec.execution.device
    try:
        place = find_device(device)
    except ModelError:  # the run was made on another machine
        device, place = None, find_device(None)
    narrow = None
    if spec.execution.dtype != "float32" and spec.model.quantize == "none":
        skeleton = load_skeleton(spec.model, auto_class=auto_class)
        norms = {target.name for target in skeleton.targets if target.kind == "norm"}
        if not skeleton.head_names and norms.isdisjoint(adapter.target for adapter in plan.adapters):
            narrow = narrow_format(place)
    name = SPREAD if device_names(device)[0] == SPREAD else str(place)
    return name, Precision(dtype=narrow or "float32")


def with_spread(spec: RunSpec, *, auto_class: str) -> RunSpec:
    """Spread a base model whose weights fit one GPU of the machine barely or not over all of them; log it.

    `--device`, workers in processes, and quantized weights leave the settings as they are.
    """
    execution, gpus = spec.execution, equal_gpus()
    is_open = execution.device is None and EXECUTORS[execution.executor].shares_memory
    if len(gpus) < 2 or not is_open or spec.model.id == IN_MEMORY or spec.model.quantize != "none":
        return spec
    stored = stored_weights(config_of(spec.model))
    if stored is not None and not stored.is_loaded_plain:
        return spec
    skeleton = load_skeleton(spec.model, auto_class=auto_class)
    bytes_each = FLOAT32_BYTES if execution.dtype == "float32" else FLOAT32_BYTES // 2
    n_bytes = bytes_each * (skeleton.base_params + skeleton.head_params)
    free = free_bytes(torch.device(gpus[0]), limit_bytes=execution.memory_bytes)
    if n_bytes <= _WEIGHTS_SHARE * free:
        return spec
    text = "The weights take %.1f GB, and %s has %.1f GB free: --device %s spreads the layers over %d GPUs."
    log.info(text, n_bytes / 1e9, gpus[0], free / 1e9, SPREAD, len(gpus))
    return with_setting(spec, "execution.device", SPREAD)


@contextlib.contextmanager
def memory_needed(purpose: str, remedy: str | RunSpec) -> Iterator[None]:
    """Raise a ModelError that says what to do if memory runs out within the context.

    The purpose is a phrase such as "loading the base model". The remedy may be derived from the settings of a
    run.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = remedy if isinstance(remedy, str) else _memory_advice(remedy)
        raise ModelError(f"Memory ran out in {purpose} ({reason_of(error)}). {advice}") from error


def _memory_advice(spec: RunSpec) -> str:
    is_quantized, spread = spec.model.quantize != "none", ""
    if len(equal_gpus()) > 1 and device_names(spec.execution.device)[0] != SPREAD:
        spread = f"Pass --device {SPREAD} to spread the model over all GPUs. "
    return spread + train.memory_advice(checkpointing=spec.execution.checkpointing, is_quantized=is_quantized)


def worker_devices(execution: ExecutionSpec) -> tuple[str | None, ...]:
    """List the devices that workers take in turn: those of `--device`, or all GPUs like the first one.

    Fewer `--workers` than GPUs take the first ones. None is the default device.
    """
    if execution.device is not None or not _places_workers(execution):
        return device_names(execution.device)
    return equal_gpus()[: execution.workers] or (None,)


def n_workers(execution: ExecutionSpec) -> int:
    """Count the workers: `--workers`, at least one for each device; by default more on a CPU alone."""
    devices = worker_devices(execution)
    if execution.workers is None and _places_workers(execution) and _kind(devices[0]) == "cpu":
        return max(1, min(_MOST_ON_CPU, torch.get_num_threads() // _THREADS))
    return max(execution.workers or 1, len(devices))


def _kind(device: str | None) -> str:
    return find_device(None).type if device is None else device.partition(":")[0]


def _places_workers(execution: ExecutionSpec) -> bool:
    """Whether autopeft itself assigns devices to workers in other processes."""
    executor = EXECUTORS[execution.executor]
    return not (executor.shares_memory or executor.assigns_gpus)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one thread of the process into the context (or decorated function) at a time.

    Another thread waits, after a warning; a thread that is inside may enter again. On leaving, the memory
    limits of the GPUs are those from before.
    """
    if not _LOCK.acquire(blocking=False):
        log.warning("Another thread of this process is in a call of autopeft; this call waits for its end.")
        _LOCK.acquire()
    shares = _memory_shares()
    try:
        yield
    finally:
        for index, share in _memory_shares().items():
            if share != shares.get(index, 1.0):  # setting it takes memory on a GPU that is not in use
                torch.cuda.set_per_process_memory_fraction(shares.get(index, 1.0), index)
        _LOCK.release()


def _memory_shares() -> dict[int, float]:
    """Read the share of each GPU's memory that torch lets this process use; {} if it used no GPU yet."""
    n_gpus = torch.cuda.device_count() if has_used_gpus() else 0
    return {index: torch.cuda.get_per_process_memory_fraction(index) for index in range(n_gpus)}
