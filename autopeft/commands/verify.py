"""`verify`: whether an adapter or an export gives the outputs of the plan that was trained in full."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile, TargetMatch, check_plan, compile_plan
from autopeft.commands.finished import finished_seed, finished_weights, require_same_base
from autopeft.commands.load import apply
from autopeft.commands.train import spec_of_plan
from autopeft.errors import DataError, SpecError
from autopeft.plugins import Batch, discover
from autopeft.setup.build import prepare
from autopeft.setup.resources import FREE_MEMORY, memory_needed
from autopeft.store import RunDir, is_run, read_plan, whole_path
from autopeft.types import ExecutionSpec, ModelSpec, Plan, RunSpec

SPLIT = "confirm"  # every run has rows in it
# Allowed difference as a share of the largest output. Rounding in float32 stays below the first; weights that
# were rounded to 16 bits move outputs by a few tenths of a percent. Both heuristic.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-5, 2e-2
_MAX_OUTPUTS = 1 << 26  # numbers of outputs after which no more rows are compared, 256 MiB; heuristic


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How the outputs of a folder differ from those of the finished plan.

    `reader` is `peft`, or `transformers` for a whole model. `targets` has the modules that each entry of the
    configs matches. `largest_difference` is that of two logits, divided by the largest logit if that is above
    1; infinite if the outputs differ in shape. `faults` are phrases on tensors and names that match nothing.
    """

    path: str
    reference: str
    base_model: str
    split: str
    n_examples: int
    reader: str
    targets: tuple[TargetMatch, ...]
    tolerance: float
    largest_difference: float
    faults: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether the folder gives the outputs of the finished plan."""
        return self.largest_difference <= self.tolerance and not self.faults


def verify(
    folder: Path,
    *,
    run: Path | None = None,
    model_id: str | None = None,
    data_source: str | None = None,
    max_examples: int = 32,
    tolerance: float | None = None,
) -> Verification:
    """Compare the outputs of an adapter or export with those of the finished plan, in float32.

    `folder` is a run, an adapter, or what `export` wrote. It is compared with `run`, which may be a folder
    that `train` wrote; None takes the run that holds it. `model_id` and `data_source` replace what these
    name. `tolerance` None is 1e-5, or 0.02 for a whole model whose weights were rounded to 16 bits.

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
    is_adapter = any((path / name).is_file() for name in ("adapter_config.json", "order.json"))
    if not is_adapter and not (path / "config.json").is_file():
        raise SpecError(
            f"{path} has no adapter_config.json, order.json or config.json; pass an adapter, a run, or a "
            "folder that `export` wrote with weights."
        )
    files = adapters.read_configs(path) if is_adapter else []
    tolerance = _tolerance(path, is_adapter=is_adapter) if tolerance is None else tolerance
    reference = _reference(path, run)
    spec = _in_float32(reference.spec, model_id=model_id, data_source=data_source)
    with model.quiet_libraries(), memory_needed("computing the outputs of a model in float32", FREE_MEMORY):
        expected = _expected(spec, reference, n_examples=max_examples)
        model.release_memory(expected.device)  # one model at a time
        base_spec = _base_spec(files, expected, model_id) if is_adapter else ModelSpec(id=str(path))
        module, targets, faults = _load(path, files, reference.plan, expected=expected, base_spec=base_spec)
        difference = _largest_difference(expected, module)
    return Verification(
        path=str(path),
        reference=str(reference.weights),
        base_model=(base_spec if is_adapter else expected.model).id or expected.base_name,
        split=SPLIT,
        n_examples=len(expected.outputs),
        reader="peft" if is_adapter else "transformers",
        targets=targets,
        tolerance=tolerance,
        largest_difference=difference,
        faults=faults,
    )


def _tolerance(path: Path, *, is_adapter: bool) -> float:
    """Return the largest difference that rounding explains."""
    dtype = "float32" if is_adapter else str(model.config_of(ModelSpec(id=str(path))).dtype)
    return _TOLERANCE_16_BITS if dtype.endswith("float16") else _TOLERANCE


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """The finished plan: the settings that it was trained with, and the folder of its weights.

    `facts` is the folder that records on which base model the weights were trained.
    """

    spec: RunSpec
    plan: Plan
    weights: Path
    facts: Path


def _reference(path: Path, run: Path | None) -> _Reference:
    """Find the finished plan of `run`, which `train` may have written; else of the run with `path` in it."""
    folder = run or next((parent for parent in path.absolute().parents if is_run(parent)), path)
    if is_run(folder):
        opened = RunDir.open(folder)
        facts = finished_weights(opened)
        plan, seed = read_plan(opened.path).plan, finished_seed(opened)
        # best/weights is a copy of it.
        is_refit = opened.has_refit and path.name != "judged"
        original = opened.refit(plan, seed) if is_refit else opened.weights(plan, seed)
        weights = original if original.is_dir() else facts
        return _Reference(spec=opened.read_spec(), plan=plan, weights=weights, facts=facts)
    if not (folder / "plan.yaml").is_file():
        raise SpecError(f"{folder} does not say which run it is of; pass the folder of the run with --run.")
    document = read_plan(folder)
    return _Reference(spec=spec_of_plan(document), plan=document.plan, weights=folder, facts=folder)


def _in_float32(spec: RunSpec, *, model_id: str | None, data_source: str | None) -> RunSpec:
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
class _Expected:
    """The outputs of the finished plan, and what computes those of another model.

    Each batch has one row, so that no padding enters, and `outputs` one tensor for each batch.
    """

    outputs: tuple[torch.Tensor, ...]
    batches: tuple[Batch, ...]
    model: ModelSpec
    base_name: str
    device: torch.device
    auto_class: str
    label_names: tuple[str, ...]


def _expected(spec: RunSpec, reference: _Reference, *, n_examples: int) -> _Expected:
    """Compute the outputs of the finished plan for the first rows of the confirm split, and free its model.

    Fewer rows are taken if their outputs would take too much memory.
    """
    prepared = prepare(spec)
    base, task, stack = prepared.base, prepared.task, compile_plan(reference.plan, prepared.methods)
    check_plan(reference.plan, base, prepared.methods)
    require_same_base(reference.facts, base.module)
    split = prepared.bench.splits[SPLIT]
    batches: list[Batch] = []
    outputs: list[torch.Tensor] = []
    n_numbers = 0
    with base.attached(stack.configs, plan=reference.plan, task_type=task.peft_task_type, seed=0) as adapted:
        model.load_weights(adapted, stack.names, reference.weights)
        for example, label in zip(split.examples[:n_examples], split.labels[:n_examples], strict=True):
            batch = task.collate([example], [label], base.pad_token_id)
            batches.append({name: value.to(base.device) for name, value in batch.items()})
            outputs += _logits(adapted.eval(), batches[-1:], task.auto_class)
            n_numbers += outputs[-1].numel()
            if n_numbers > _MAX_OUTPUTS:
                break
    return _Expected(
        outputs=tuple(outputs),
        batches=tuple(batches),
        model=prepared.spec.model,
        base_name=base.name,
        device=base.device,
        auto_class=task.auto_class,
        label_names=prepared.data.label_names,
    )


@torch.no_grad()
def _logits(module: nn.Module, batches: Sequence[Batch], auto_class: str) -> Iterator[torch.Tensor]:
    """Compute the logits of each batch, in float32 on the CPU."""
    takes_labels = auto_class == "AutoModelForSeq2SeqLM"  # which makes the decoder's inputs from them
    for batch in batches:
        features = {name: value for name, value in batch.items() if takes_labels or name != "labels"}
        yield module(**features).logits.float().cpu()


def _base_spec(files: Sequence[ConfigFile], expected: _Expected, model_id: str | None) -> ModelSpec:
    """Choose the base model: the user's; else the one that the adapter names; else that of the run."""
    used = expected.model  # the user's, or that of the run
    config = next((file.config for file in files if file.config.base_model_name_or_path), None)
    if config is None or model_id is not None:
        return used
    source, named = model.resolve(used)[0], config.base_model_name_or_path
    if named == source or (source.endswith(".gguf") and named == str(Path(source).parent)):  # peft's guess
        return used.model_copy(update={"revision": config.revision or used.revision})
    return ModelSpec(id=named, revision=config.revision, quantize=used.quantize)


def _load(
    path: Path, files: Sequence[ConfigFile], plan: Plan, *, expected: _Expected, base_spec: ModelSpec
) -> tuple[nn.Module, tuple[TargetMatch, ...], tuple[str, ...]]:
    """Load a whole model, or an adapter; also returns the matches of config entries, and faults."""
    base = model.load(
        base_spec,
        auto_class=adapters.auto_class_of([file.config for file in files]) or expected.auto_class,
        label_names=expected.label_names,
        needs_tokenizer=False,
        device=str(expected.device),
    )
    if not files:
        return base.module, (), ()
    matches = tuple(match for file in files for match in adapters.target_matches(file.content, base.module))
    faults = [
        f"{match.field} names {match.entry}, which is missing" for match in matches if not match.modules
    ]
    if len(files) > 1:  # quantized weights cannot be changed exactly
        model.dequantize(base.module)
    if sum(adapters.is_unmergeable(file.config) for file in files) > 1:
        module: nn.Module = apply(plan, base.module, weights=path)
    else:
        module, unmatched = exports.load_in_peft(base.module, files)
        faults += unmatched
    return module, matches, tuple(faults)


def _largest_difference(expected: _Expected, module: nn.Module) -> float:
    """Find the largest difference of outputs, divided by the largest output or 1; inf if shapes differ."""
    worst, largest = 0.0, 1.0
    outputs = _logits(module.to(expected.device).eval(), expected.batches, expected.auto_class)
    for reference, output in zip(expected.outputs, outputs, strict=True):
        is_finite = reference.isfinite()
        if reference.shape != output.shape or not torch.equal(is_finite, output.isfinite()):
            return math.inf
        worst = max(worst, float((reference - output)[is_finite].abs().max()))
        largest = max(largest, float(reference[is_finite].abs().max()))
    return worst / largest
