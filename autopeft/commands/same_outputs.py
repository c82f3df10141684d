"""Compares the outputs of an adapter or export with those of the plan that was trained in full."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile, check_plan, compile_plan
from autopeft.commands.load import apply
from autopeft.commands.train import spec_of_plan
from autopeft.errors import SpecError
from autopeft.plugins import Batch, discover
from autopeft.run.base_facts import require_same_base
from autopeft.run.best import finished_seed, finished_weights
from autopeft.run.prepare import prepare
from autopeft.run.resources import FREE_MEMORY, device_in_float32, memory_needed
from autopeft.store import RunDir, is_run, read_plan, whole_path
from autopeft.types import IN_MEMORY, ExecutionSpec, ModelSpec, Plan, RunSpec, with_setting

_SPLIT, _MAX_EXAMPLES = "confirm", 32  # every run has rows in this split
_MAX_OUTPUTS = 1 << 26  # numbers of outputs after which no more rows are compared, 256 MiB; heuristic
# Allowed difference as a share of the largest output. Rounding in float32 stays below the first; weights that
# were rounded to 16 bits move outputs by a few tenths of a percent. Both heuristic.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-5, 2e-2


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """How logits differ from those of the finished plan in `reference`, in float32.

    `largest_difference` is divided by the largest logit if that is above 1; None if shapes differ.
    """

    reference: str
    n_examples: int
    tolerance: float
    largest_difference: float | None

    @property
    def is_same(self) -> bool:
        """Whether the outputs are those of the finished plan."""
        return self.largest_difference is not None and self.largest_difference <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The finished plan, its settings and weights; `facts` records on which base model they were trained."""

    spec: RunSpec
    plan: Plan
    weights: Path
    facts: Path


def find_reference(path: Path, run: Path | None) -> Reference | None:
    """Find the finished plan of `run`, which `train` may have written; else of the run with `path` in it.

    None if there is none, or if `run` is not named and its rows cannot be read again.
    """
    folder = run or next((parent for parent in path.absolute().parents if is_run(parent)), path)
    if is_run(folder):
        opened = RunDir.open(folder)
        spec, plan, facts = opened.read_spec(), read_plan(opened.path).plan, finished_weights(opened)
        if run is None and (spec.has_own_trainer or spec.data.source == IN_MEMORY):
            return None
        is_refit = opened.has_refit and path.name != "judged"
        original = (opened.refit if is_refit else opened.weights)(plan, finished_seed(opened))
        weights = original if original.is_dir() else facts  # best/weights is a copy of it
        return Reference(spec=spec, plan=plan, weights=weights, facts=facts)
    if (folder / "plan.yaml").is_file():
        document = read_plan(folder)
        return Reference(spec=spec_of_plan(document), plan=document.plan, weights=folder, facts=folder)
    if run is not None:
        raise SpecError(f"{run} is not a run, nor a folder that `train` wrote; pass one of them with --run.")
    return None


def compare_outputs(
    path: Path,
    files: Sequence[ConfigFile],
    reference: Reference,
    *,
    model_id: str | None,
    data_source: str | None,
    tolerance: float | None,
) -> Outputs:
    """Compare an adapter with `files`, or a whole model without, with the finished plan on confirm rows.

    `model_id` and `data_source` replace what the reference names. `tolerance` None is 1e-5, or 0.02 for a
    whole model whose weights were rounded to 16 bits.

    Raises:
        ModelError: The base model cannot be loaded, or is not the one that the plan was trained on.
        DataError: The dataset cannot be loaded, or the rows are those of the user's own trainer.
    """
    dtype = "float32" if files else str(model.config_of(ModelSpec(id=str(path))).dtype)
    tolerance_of_dtype = _TOLERANCE_16_BITS if dtype.endswith("float16") else _TOLERANCE
    spec = _in_float32(reference.spec, model_id=model_id, data_source=data_source)
    auto_class = discover("autopeft.tasks")[spec.task.name].auto_class
    device = device_in_float32(spec.model, auto_class=auto_class, dequantizes=len(files) != 1)
    with memory_needed("computing the outputs of a model in float32", FREE_MEMORY):
        expected = _expected(with_setting(spec, "execution.device", device), reference)
        model.release_memory(expected.device)  # one model at a time
        module = _load(path, files, reference.plan, expected=expected, model_id=model_id)
        difference = _largest_difference(expected, module)
    return Outputs(
        reference=str(reference.weights),
        n_examples=len(expected.outputs),
        tolerance=tolerance_of_dtype if tolerance is None else tolerance,
        largest_difference=difference if math.isfinite(difference) else None,
    )


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
    """The outputs of the finished plan, one tensor a row, and what computes those of another model."""

    outputs: tuple[torch.Tensor, ...]
    batches: tuple[Batch, ...]
    model: ModelSpec
    device: torch.device
    auto_class: str
    label_names: tuple[str, ...]


def _expected(spec: RunSpec, reference: Reference) -> _Expected:
    """Compute the outputs of the finished plan for the first confirm rows, and free its model."""
    prepared = prepare(spec)
    base, task, stack = prepared.base, prepared.task, compile_plan(reference.plan, prepared.methods)
    check_plan(reference.plan, base, prepared.methods)
    require_same_base(reference.facts, base.module)
    split = prepared.bench.splits[_SPLIT]
    batches: list[Batch] = []
    outputs: list[torch.Tensor] = []
    with base.attached(stack.configs, plan=reference.plan, task_type=task.peft_task_type, seed=0) as adapted:
        model.load_weights(adapted, stack.names, reference.weights)
        for example, label in list(zip(split.examples, split.labels, strict=True))[:_MAX_EXAMPLES]:
            batch = task.collate([example], [label], base.pad_token_id)  # one row, so that no padding enters
            batches.append({name: value.to(base.device) for name, value in batch.items()})
            outputs += _logits(adapted.eval(), batches[-1:], task.auto_class)
            if sum(output.numel() for output in outputs) > _MAX_OUTPUTS:
                break
    return _Expected(
        outputs=tuple(outputs),
        batches=tuple(batches),
        model=prepared.spec.model,
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


def _load(
    path: Path, files: Sequence[ConfigFile], plan: Plan, *, expected: _Expected, model_id: str | None
) -> nn.Module:
    """Load a whole model; or an adapter on the user's base model, else its own, else that of the run."""
    spec = expected.model if files else ModelSpec(id=str(path))
    config = next((file.config for file in files if file.config.base_model_name_or_path), None)
    if config is not None and model_id is None:
        source, named = model.resolve(spec)[0], config.base_model_name_or_path
        is_same = named in (source, str(Path(source).parent))  # peft names the folder of a GGUF file
        revision = config.revision or (spec.revision if is_same else None)
        spec = spec.model_copy(update={"id": spec.id if is_same else named, "revision": revision})
    base = model.load(
        spec,
        auto_class=adapters.auto_class_of([file.config for file in files]) or expected.auto_class,
        label_names=expected.label_names,
        needs_tokenizer=False,
        device=str(expected.device),
    )
    if not files:
        return base.module
    if len(files) > 1:  # quantized weights cannot be changed exactly
        model.dequantize(base.module)
    if sum(adapters.is_unmergeable(file.config) for file in files) > 1:
        return apply(plan, base.module, weights=path)
    return exports.load_in_peft(base.module, files)


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
