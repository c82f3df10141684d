"""`verify`: whether an adapter or an export gives the outputs of the plan that was trained in full."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile, TargetMatch, compile_plan
from autopeft.commands.load import apply
from autopeft.commands.train import spec_of_plan, with_source
from autopeft.errors import SpecError
from autopeft.extension import Batch, discover
from autopeft.model import BaseModel
from autopeft.records import ExecutionSpec, ModelSpec, Plan, RunSpec, with_setting
from autopeft.run.best import finished_seed, finished_weights, require_body, require_same_base
from autopeft.run.prepare import Prepared, prepare
from autopeft.run.resources import NO_GPU, device_in_float32, memory_needed
from autopeft.store import RunDir, read_plan

MERGED = "transformers"  # the reader of a whole model
SPLIT = "confirm"  # whose rows every run has
# Of the largest output. Rounding in float32 stays below the first; weights in 16 bits were rounded once more,
# which moves outputs by a few tenths of a percent. Both chosen by hand.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-5, 2e-2
_MAX_OUTPUTS = 1 << 26  # numbers of outputs that are kept, 256 MiB; chosen by hand

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VerifyRequest:
    """What to verify, against which run, and how closely.

    `run` is a run, or a folder that `train` wrote; None takes the one that `path` lies in. `model_id` and
    `data_source` replace base model and dataset. No `readers` means those that the folder is made for. A
    `tolerance` of None is 1e-5, or 0.02 for a whole model whose weights were rounded to 16 bits.
    """

    path: Path
    run: Path | None = None
    model_id: str | None = None
    data_source: str | None = None
    readers: tuple[str, ...] = ()
    max_examples: int = 32
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The outputs of one reader beside those of the finished plan.

    `largest_difference` is the largest of all outputs (logits), divided by the largest output where that is
    above 1; infinite where the outputs differ in shape. `faults` are phrases on tensors and names that match
    nothing.
    """

    reader: str
    largest_difference: float
    faults: tuple[str, ...]
    is_same: bool


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All readings of a folder, and the modules that each entry of its configs matches."""

    path: str
    reference: str
    base_model: str
    split: str
    n_examples: int
    tolerance: float
    targets: tuple[TargetMatch, ...]
    readings: tuple[Reading, ...]

    @property
    def is_same(self) -> bool:
        """Whether every reader gives the outputs of the finished plan."""
        return all(reading.is_same for reading in self.readings)


def verify(request: VerifyRequest) -> Verification:
    """Compare the outputs of an adapter or export with those of the finished plan, in float32.

    Raises:
        SpecError: The folder holds nothing to verify, or no run to compare it with is known.
        ModelError, DataError: Base model or dataset of the run cannot be loaded, or it was a model in memory
            and another one is named.
    """
    discover("autopeft.methods")  # a method may register its own type with `peft`
    path = finished_weights(RunDir.open(request.path)) if is_run(request.path) else request.path
    files, readers = _contents(path, request.readers)
    tolerance = tolerance_of(path if MERGED in readers else None, request.tolerance)
    reference = reference_of(path, request.run)
    spec = in_float32(reference.spec, model_id=request.model_id, data_source=request.data_source)
    auto_class = discover("autopeft.tasks")[spec.task.name].auto_class
    dequantises = len(files) > 1 or any(reader != exports.PEFT for reader in readers)
    device = device_in_float32(spec.model, auto_class=auto_class, dequantises=dequantises)
    spec = with_setting(spec, "execution.device", device)
    with model.quiet_libraries(), memory_needed("computing the outputs of a model in float32", NO_GPU):
        expected = expected_of(spec, reference, n_examples=request.max_examples)
        targets: tuple[TargetMatch, ...] = ()
        readings = []
        for reader in readers:
            model.release_memory(expected.device)  # one model at a time
            module, matches, faults = _load(
                path, files, reader, plan=reference.plan, expected=expected, request=request
            )
            targets = targets or matches
            outputs = outputs_of(
                module, expected.batches, device=expected.device, auto_class=expected.auto_class
            )
            worst = largest_difference(expected.outputs, list(outputs))
            del module, outputs
            is_same = worst <= tolerance and not faults
            readings.append(Reading(reader=reader, largest_difference=worst, faults=faults, is_same=is_same))
    return Verification(
        path=str(path),
        reference=str(reference.weights),
        base_model=_base_spec(files, expected, request).id or expected.base_name,
        split=SPLIT,
        n_examples=len(expected.outputs),
        tolerance=tolerance,
        targets=targets,
        readings=tuple(readings),
    )


def _contents(path: Path, requested: tuple[str, ...]) -> tuple[list[ConfigFile], tuple[str, ...]]:
    """The adapter configs of a folder, none for a whole model, and the readers to try."""
    if any((path / name).is_file() for name in ("adapter_config.json", "order.json")):
        files = adapters.read_configs(path)
        if odd := set(requested) - set(exports.READERS):
            raise SpecError(f"--reader is {sorted(odd)[0]}; use {', '.join(exports.READERS)}.")
        return files, requested or exports.readers_of(files)
    if (path / "config.json").is_file():
        if requested:
            raise SpecError(f"{path} is a whole model, which {MERGED} reads; leave --reader out.")
        return [], (MERGED,)
    raise SpecError(
        f"{path} holds neither adapter_config.json, order.json nor config.json; pass an adapter, a run, or a "
        "folder that `export` wrote with weights."
    )


def _base_spec(files: Sequence[ConfigFile], expected: Expected, request: VerifyRequest) -> ModelSpec:
    """The base model that the adapter names; the run's where the request names one or the adapter none."""
    used = expected.spec.model
    config = next((file.config for file in files if file.config.base_model_name_or_path), None)
    if config is None or request.model_id is not None:
        return used
    source, named = model.resolve(used)[0], config.base_model_name_or_path
    if named == source or (source.endswith(".gguf") and named == str(Path(source).parent)):  # peft's guess
        return used.model_copy(update={"revision": config.revision or used.revision})
    return ModelSpec(id=named, revision=config.revision, quantize=used.quantize)


def _load(
    path: Path,
    files: Sequence[ConfigFile],
    reader: str,
    *,
    plan: Plan,
    expected: Expected,
    request: VerifyRequest,
) -> tuple[nn.Module, tuple[TargetMatch, ...], tuple[str, ...]]:
    """The model as a reader loads it, the modules that its entries match, and what matches nothing."""
    if reader == MERGED:
        return _load_base(ModelSpec(id=str(path)), expected).module, (), ()
    written = adapters.auto_class_of([file.config for file in files])
    base = _load_base(_base_spec(files, expected, request), expected, written)
    matches = tuple(match for file in files for match in adapters.target_matches(file.content, base.module))
    lost = tuple(
        f"{match.field} names {match.entry}, which is not there" for match in matches if not match.modules
    )
    if reader != exports.PEFT or len(files) > 1:  # weights in few bits cannot be changed exactly
        model.dequantise(base.module)
    if sum(adapters.stays_beside_weights(file.config) for file in files) > 1:
        return apply(plan, base.module, weights=path).eval(), matches, lost
    if reader != exports.PEFT:
        return exports.load_as_served(base.module, files[0], reader=reader), matches, lost
    adapted, faults = exports.load_in_peft(base.module, files)
    return adapted, matches, (*lost, *faults)


def _load_base(spec: ModelSpec, expected: Expected, auto_class: str | None = None) -> BaseModel:
    return model.load(
        spec,
        auto_class=auto_class or expected.auto_class,
        label_names=expected.label_names,
        needs_tokenizer=False,
        device=str(expected.device),
    )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The finished plan: the settings that it was trained with, and the folder of its weights.

    `facts` is the folder that says on which base model they were trained.
    """

    spec: RunSpec
    plan: Plan
    weights: Path
    facts: Path


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "run.yaml").is_file()


def reference_of(path: Path, run: Path | None) -> Reference:
    """The finished plan that a folder is compared with.

    Args:
        path: The folder to verify.
        run: A run, or a folder that `train` wrote. None takes the run that `path` lies in, else `path`.

    Raises:
        SpecError: No run is known.
        RunDirError: The run has no finished weights.
    """
    folder = run or next((parent for parent in path.absolute().parents if is_run(parent)), path)
    if is_run(folder):
        opened = RunDir.open(folder)
        facts = finished_weights(opened)
        plan = read_plan(opened.best).plan
        kept = opened.weights(plan, finished_seed(opened))  # of which best/weights is a copy
        weights = kept if kept.is_dir() else facts
        return Reference(spec=opened.read_spec(), plan=plan, weights=weights, facts=facts)
    if not (folder / "plan.yaml").is_file():
        raise SpecError(f"{folder} does not say which run it is of; pass the folder of the run with --run.")
    document = read_plan(folder)
    spec = spec_of_plan(document, None, None, {})
    return Reference(spec=spec, plan=document.plan, weights=folder, facts=folder)


def in_float32(spec: RunSpec, *, model_id: str | None, data_source: str | None) -> RunSpec:
    """The settings in float32 on this machine, with another base model or dataset where one is named."""
    execution = ExecutionSpec(
        dtype="float32", micro_batch_tokens=1, checkpointing="off"
    )  # nothing is trained
    topics: dict[str, Any] = {"execution": execution}
    if model_id is not None:
        topics["model"] = spec.model.model_copy(update={"id": model_id, "revision": None})
    if data_source is not None:
        topics["data"] = with_source(spec.data, data_source)
    return spec.model_copy(update=topics)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The outputs of the finished plan, and all that is needed to compute those of another model.

    The model that gave them is not kept. `outputs` has one tensor for each of the batches of one row.
    """

    outputs: tuple[torch.Tensor, ...]
    batches: tuple[Batch, ...]
    spec: RunSpec
    base_name: str
    device: torch.device
    auto_class: str
    label_names: tuple[str, ...]


def expected_of(spec: RunSpec, reference: Reference, *, n_examples: int) -> Expected:
    """The outputs of the finished plan for the first rows of the confirm split; raises as `prepare`.

    They are as many as memory is kept for. Raises a ModelError where the weights belong to another model.
    """
    prepared = prepare(spec)
    require_body(reference.facts, prepared.base.body_sha256)
    require_same_base(reference.facts, prepared.base.module)
    base, stack = prepared.base, compile_plan(reference.plan, prepared.methods)
    batches, kept, n_numbers = list(_batches_of(prepared, n_examples)), [], 0
    task_type, auto_class = prepared.task.peft_task_type, prepared.task.auto_class
    with base.attached(stack.configs, plan=reference.plan, task_type=task_type, seed=0) as adapted:
        model.load_weights(adapted, stack.names, reference.weights)
        for output in outputs_of(adapted, batches, device=base.device, auto_class=auto_class):
            kept.append(output)
            n_numbers += output.numel()
            if n_numbers > _MAX_OUTPUTS:
                break
    if len(kept) < len(batches):
        log.info("Outputs of %d of %d rows are compared; more take too much memory.", len(kept), len(batches))
    return Expected(
        outputs=tuple(kept),
        batches=tuple(batches[: len(kept)]),
        spec=prepared.spec,
        base_name=base.name,
        device=base.device,
        auto_class=auto_class,
        label_names=prepared.data.label_names,
    )


def _batches_of(prepared: Prepared, n_examples: int) -> Iterator[Batch]:
    """The first rows of the confirm split, one by one, so that no padding enters."""
    split, base = prepared.bench.splits[SPLIT], prepared.base
    for example, label in zip(split.examples[:n_examples], split.labels[:n_examples], strict=True):
        batch = prepared.task.collate([example], [label], base.pad_token_id)
        yield {name: value.to(base.device) for name, value in batch.items()}


@torch.no_grad()
def outputs_of(
    module: nn.Module, batches: Sequence[Batch], *, device: torch.device, auto_class: str
) -> Iterator[torch.Tensor]:
    """The logits of each row on the CPU; a decoder is given the labels, from which it shifts its inputs."""
    module.to(device).eval()
    takes_labels = auto_class == "AutoModelForSeq2SeqLM"
    for batch in batches:
        features = {name: value for name, value in batch.items() if takes_labels or name != "labels"}
        yield module(**features).logits.float().cpu()


def largest_difference(expected: Sequence[torch.Tensor], seen: Sequence[torch.Tensor]) -> float:
    """The largest difference of two lists of outputs, relative to the largest where that is above 1."""
    worst, largest = 0.0, 1.0
    for left, right in zip(expected, seen, strict=True):
        if left.shape != right.shape or not torch.equal(left.isfinite(), right.isfinite()):
            return math.inf
        is_finite = left.isfinite()
        worst = max(worst, float((left - right)[is_finite].abs().max()))
        largest = max(largest, float(left[is_finite].abs().max()))
    return worst / largest


def tolerance_of(merged: Path | None, requested: float | None = None) -> float:
    """The user's, else the largest difference that rounding explains: of an adapter, or of a whole model.

    `merged` is the folder of a whole model. Raises SpecError where the user's is no number of at least 0.
    """
    if requested is not None and not 0 <= requested < math.inf:
        raise SpecError(f"The tolerance is {requested:g}; pass --tolerance with a number of at least 0.")
    if requested is not None:
        return requested
    if merged is None:
        return _TOLERANCE
    dtype = str(model.config_of(ModelSpec(id=str(merged))).dtype)
    return _TOLERANCE_16_BITS if dtype.endswith("float16") else _TOLERANCE
