"""`verify`: whether an adapter or an export gives the outputs of the plan that was trained in full."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile, TargetMatch, check_plan, compile_plan
from autopeft.commands.load import apply
from autopeft.commands.train import spec_of_plan
from autopeft.errors import DataError, SpecError
from autopeft.plugins import Batch, discover
from autopeft.run.base_facts import require_same_base
from autopeft.run.best import finished_seed, finished_weights
from autopeft.run.prepare import prepare
from autopeft.run.resources import FREE_MEMORY, device_in_float32, memory_needed
from autopeft.store import RunDir, is_run, read_plan, whole_path
from autopeft.types import ExecutionSpec, ModelSpec, Plan, RunSpec, with_setting

MERGED = "transformers"  # the reader of a whole model
SPLIT = "confirm"  # whose rows every run has
# Allowed difference as a share of the largest output. Rounding in float32 stays below the first; weights that
# were rounded to 16 bits move outputs by a few tenths of a percent. Both chosen by hand.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-5, 2e-2
_MAX_OUTPUTS = 1 << 26  # numbers of outputs after which no more rows are compared, 256 MiB; chosen by hand

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the outputs of one reader differ from those of the finished plan.

    `largest_difference` is that of two logits, divided by the largest logit if that is above 1; infinite if
    the outputs differ in shape. `faults` are phrases on tensors and names that match nothing.
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


def verify(
    folder: Path,
    *,
    run: Path | None = None,
    model_id: str | None = None,
    data_source: str | None = None,
    readers: tuple[str, ...] = (),
    max_examples: int = 32,
    tolerance: float | None = None,
) -> Verification:
    """Compare the outputs of an adapter or export with those of the finished plan, in float32.

    `folder` is a run, an adapter, or what `export` wrote. It is compared with `run`, which may be a folder
    that `train` wrote; None takes the run that holds it. `model_id` and `data_source` stand in place of what
    these name. No `readers` are those that the folder is made for. `tolerance` None is 1e-5, or 0.02 for a
    whole model whose weights were rounded to 16 bits.

    Raises:
        SpecError: The folder holds nothing to verify, or no run to compare it with is known.
        ModelError: The base model cannot be loaded, or is not the one that the plan was trained on.
        DataError: The dataset cannot be loaded, or the rows are those of the user's own trainer.
    """
    discover("autopeft.methods")  # a method may register its own type with `peft`
    if is_run(folder) and RunDir.open(folder).read_spec().has_own_trainer:
        raise DataError(
            "The rows of this run are those of your own trainer, so that no outputs can be compared; "
            f"evaluate the adapter in {folder / 'best' / 'weights'} with it."
        )
    path = finished_weights(RunDir.open(folder)) if is_run(folder) else folder
    files, readers = _contents(path, readers)
    tolerance = tolerance_of(path if MERGED in readers else None, tolerance)
    reference = reference_of(path, run)
    spec = in_float32(reference.spec, model_id=model_id, data_source=data_source)
    auto_class = discover("autopeft.tasks")[spec.task.name].auto_class
    dequantizes = len(files) > 1 or any(reader != exports.PEFT for reader in readers)
    device = device_in_float32(spec.model, auto_class=auto_class, dequantizes=dequantizes)
    spec = with_setting(spec, "execution.device", device)
    with model.quiet_libraries(), memory_needed("computing the outputs of a model in float32", FREE_MEMORY):
        expected = expected_of(spec, reference, n_examples=max_examples)
        base_spec = _base_spec(files, expected, model_id)
        targets: tuple[TargetMatch, ...] = ()
        readings = []
        for reader in readers:
            model.release_memory(expected.device)  # one model at a time
            module, matches, faults = _load(
                path, files, reader, plan=reference.plan, expected=expected, base_spec=base_spec
            )
            targets = targets or matches
            worst = largest_difference(expected.outputs, list(outputs_of(module, expected)))
            del module
            is_same = worst <= tolerance and not faults
            readings.append(Reading(reader=reader, largest_difference=worst, faults=faults, is_same=is_same))
    return Verification(
        path=str(path),
        reference=str(reference.weights),
        base_model=base_spec.id or expected.base_name,
        split=SPLIT,
        n_examples=len(expected.outputs),
        tolerance=tolerance,
        targets=targets,
        readings=tuple(readings),
    )


def _contents(path: Path, requested: tuple[str, ...]) -> tuple[list[ConfigFile], tuple[str, ...]]:
    """Read the adapter configs of a folder ([] for a whole model), and choose the readers to try."""
    if any((path / name).is_file() for name in ("adapter_config.json", "order.json")):
        files = adapters.read_configs(path)
        if unknown := set(requested) - set(exports.READERS):
            raise SpecError(f"--reader is {sorted(unknown)[0]}; use {', '.join(exports.READERS)}.")
        return files, requested or exports.readers_of([file.config for file in files])
    if (path / "config.json").is_file():
        if requested:
            raise SpecError(f"{path} is a whole model, which {MERGED} reads; leave --reader out.")
        return [], (MERGED,)
    raise SpecError(
        f"{path} holds neither adapter_config.json, order.json nor config.json; pass an adapter, a run, or a "
        "folder that `export` wrote with weights."
    )


def _base_spec(files: Sequence[ConfigFile], expected: Expected, model_id: str | None) -> ModelSpec:
    """Choose the base model: the user's; else the one that the adapter names; else that of the run."""
    used = expected.spec.model  # the user's, or that of the run
    config = next((file.config for file in files if file.config.base_model_name_or_path), None)
    if config is None or model_id is not None:
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
    base_spec: ModelSpec,
) -> tuple[nn.Module, tuple[TargetMatch, ...], tuple[str, ...]]:
    """Load the model as a reader does; also returns the matches of config entries, and those without one."""
    base = model.load(
        ModelSpec(id=str(path)) if reader == MERGED else base_spec,
        auto_class=adapters.auto_class_of([file.config for file in files]) or expected.auto_class,
        label_names=expected.label_names,
        needs_tokenizer=False,
        device=str(expected.device),
    )
    matches = tuple(match for file in files for match in adapters.target_matches(file.content, base.module))
    faults = [
        f"{match.field} names {match.entry}, which is not there" for match in matches if not match.modules
    ]
    if reader == MERGED:
        return base.module, (), ()
    if reader != exports.PEFT or len(files) > 1:  # weights in few bits cannot be changed exactly
        model.dequantize(base.module)
    if sum(adapters.is_unmergeable(file.config) for file in files) > 1:
        module: nn.Module = apply(plan, base.module, weights=path).eval()
    elif reader != exports.PEFT:
        module = exports.load_as_served(base.module, files[0], reader=reader)
    else:
        module, unmatched = exports.load_in_peft(base.module, files)
        faults += unmatched
    return module, matches, tuple(faults)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The finished plan: the settings that it was trained with, and the folder of its weights.

    `facts` is the folder that notes on which base model the weights were trained.
    """

    spec: RunSpec
    plan: Plan
    weights: Path
    facts: Path


def reference_of(path: Path, run: Path | None) -> Reference:
    """Find the finished plan that a folder is compared with.

    It is that of `run`, a run or a folder that `train` wrote; else of the run that `path` lies in, else of
    `path`.

    Raises:
        SpecError: No run is known.
        RunDirError: The run has no finished weights.
    """
    folder = run or next((parent for parent in path.absolute().parents if is_run(parent)), path)
    if is_run(folder):
        opened = RunDir.open(folder)
        facts = finished_weights(opened)
        plan, seed = read_plan(opened.path).plan, finished_seed(opened)
        # best/weights is a copy of it.
        is_refit = opened.has_refit and path.name != "judged"
        original = opened.refit(plan, seed) if is_refit else opened.weights(plan, seed)
        weights = original if original.is_dir() else facts
        return Reference(spec=opened.read_spec(), plan=plan, weights=weights, facts=facts)
    if not (folder / "plan.yaml").is_file():
        raise SpecError(f"{folder} does not say which run it is of; pass the folder of the run with --run.")
    document = read_plan(folder)
    return Reference(spec=spec_of_plan(document), plan=document.plan, weights=folder, facts=folder)


def in_float32(spec: RunSpec, *, model_id: str | None, data_source: str | None) -> RunSpec:
    """Change settings to float32 on this machine, and to another base model or dataset if one is named."""
    # Nothing is trained, so micro-batches and checkpointing do not matter.
    execution = ExecutionSpec(dtype="float32", micro_batch_tokens=1, checkpointing="off")
    topics: dict[str, Any] = {"execution": execution}
    if model_id is not None:
        topics["model"] = spec.model.model_copy(update={"id": model_id, "revision": None})
    if data_source is not None:
        topics["data"] = spec.data.model_copy(update={"source": whole_path(data_source)})
    return spec.model_copy(update=topics)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The outputs of the finished plan, and all that is needed to compute those of another model.

    The finished plan's model is not kept. Each batch has one row, and `outputs` one tensor for each batch.
    """

    outputs: tuple[torch.Tensor, ...]
    batches: tuple[Batch, ...]
    spec: RunSpec
    base_name: str
    device: torch.device
    auto_class: str
    label_names: tuple[str, ...]


def expected_of(spec: RunSpec, reference: Reference, *, n_examples: int) -> Expected:
    """Compute the outputs of the finished plan for the first `n_examples` rows of the confirm split.

    Fewer rows are taken, with a line in the log, if their outputs would take too much memory. Raises as
    `prepare`, and a ModelError if the weights belong to another model.
    """
    prepared = prepare(spec)
    base, task, stack = prepared.base, prepared.task, compile_plan(reference.plan, prepared.methods)
    check_plan(reference.plan, base, prepared.methods)
    require_same_base(reference.facts, base.module)
    split = prepared.bench.splits[SPLIT]
    batches = (  # one row each, so that no padding enters
        task.collate([example], [label], base.pad_token_id)
        for example, label in zip(split.examples[:n_examples], split.labels[:n_examples], strict=True)
    )
    expected = Expected(
        outputs=(),
        batches=tuple({name: value.to(base.device) for name, value in batch.items()} for batch in batches),
        spec=prepared.spec,
        base_name=base.name,
        device=base.device,
        auto_class=task.auto_class,
        label_names=prepared.data.label_names,
    )
    outputs, n_numbers = [], 0
    with base.attached(stack.configs, plan=reference.plan, task_type=task.peft_task_type, seed=0) as adapted:
        model.load_weights(adapted, stack.names, reference.weights)
        adapted.eval()
        for output in outputs_of(adapted, expected):
            outputs.append(output)
            n_numbers += output.numel()
            if n_numbers > _MAX_OUTPUTS:
                break
    n_rows, n_kept = len(expected.batches), len(outputs)
    if n_kept < n_rows:
        log.info("Outputs of %d of %d rows are compared; more take too much memory.", n_kept, n_rows)
    return replace(expected, outputs=tuple(outputs), batches=expected.batches[:n_kept])


@torch.no_grad()
def outputs_of(module: nn.Module, expected: Expected) -> Iterator[torch.Tensor]:
    """Compute the logits of each row of `expected`, in float32 on the CPU; moves the model to its device.

    An encoder-decoder makes the decoder's inputs from the labels.
    """
    module.to(expected.device).eval()
    takes_labels = expected.auto_class == "AutoModelForSeq2SeqLM"
    for batch in expected.batches:
        features = {name: value for name, value in batch.items() if takes_labels or name != "labels"}
        logits: torch.Tensor = module(**features).logits
        yield logits.float().cpu()


def largest_difference(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """Find the largest difference of outputs, divided by the largest output or 1; inf if shapes differ."""
    worst, largest = 0.0, 1.0
    for reference, output in zip(expected, outputs, strict=True):
        if reference.shape != output.shape or not torch.equal(reference.isfinite(), output.isfinite()):
            return math.inf
        is_finite = reference.isfinite()
        worst = max(worst, float((reference - output)[is_finite].abs().max()))
        largest = max(largest, float(reference[is_finite].abs().max()))
    return worst / largest


def tolerance_of(merged: Path | None, requested: float | None = None) -> float:
    """Take the user's tolerance, else the largest difference that rounding explains.

    `merged` is the folder of a whole model, None for an adapter. Raises SpecError for a negative tolerance.
    """
    if requested is not None and not 0 <= requested < math.inf:
        raise SpecError(f"The tolerance is {requested:g}; pass --tolerance with a number of at least 0.")
    if requested is not None:
        return requested
    if merged is None:
        return _TOLERANCE
    dtype = str(model.config_of(ModelSpec(id=str(merged))).dtype)
    return _TOLERANCE_16_BITS if dtype.endswith("float16") else _TOLERANCE
