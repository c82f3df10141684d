"""Compares the outputs of an adapter or export with those of the plan that was trained in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile
from autopeft.errors import SpecError
from autopeft.finished.loading import apply
from autopeft.finished.training_notes import finished_weights, require_same_base
from autopeft.model import BaseModel
from autopeft.model.checks import example_features
from autopeft.plugins import discover
from autopeft.setup.resources import FREE_MEMORY, memory_needed
from autopeft.store import RunDir, is_run, read_object, read_plan
from autopeft.types import ModelSpec, PlanDocument

TEXTS = ("The capital of France is", "Once upon a time", "def add(a, b):", "Question: 2 + 3?\nAnswer:")
# Allowed difference as a share of the largest output. Rounding in float32 stays below the first; weights that
# were rounded to 16 bits move outputs by a few tenths of a percent. Both heuristic.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-5, 2e-2


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """How logits differ from those of the finished plan in `reference`, in float32.

    `largest_difference` is divided by the largest logit if that is above 1; None if shapes differ.
    """

    reference: str
    tolerance: float
    largest_difference: float | None

    @property
    def is_same(self) -> bool:
        """Whether the outputs are those of the finished plan."""
        return self.largest_difference is not None and self.largest_difference <= self.tolerance


class Reference(NamedTuple):
    """A finished plan, and the folder of its weights."""

    document: PlanDocument
    weights: Path


def find_reference(path: Path, run: Path | None) -> Reference | None:
    """Find the finished plan of `run`, which `train` may have written; else of the run with `path` in it."""
    folder = run or next((parent for parent in path.absolute().parents if is_run(parent)), path)
    if is_run(folder):
        weights = finished_weights(RunDir.open(folder))
        judged = weights.with_name("judged")
        return Reference(read_plan(folder), judged if path.name == judged.name else weights)
    if (folder / "plan.yaml").is_file():
        return Reference(read_plan(folder), folder)
    if run is not None:
        raise SpecError(f"{run} is not a run, nor a folder that `train` wrote; pass one of them with --run.")
    return None


def compare_outputs(
    path: Path, files: Sequence[ConfigFile], reference: Reference, *, model_id: str | None
) -> Outputs:
    """Compare an adapter with `files`, or a whole model without, with a finished plan on a few texts.

    Models of images get a gray image. `model_id` replaces the base model.

    Raises:
        ModelError: The base model cannot be loaded, or is not the one that the plan was trained on.
    """
    dtype = "float32" if files else str(model.config_of(ModelSpec(id=str(path))).dtype)
    document = reference.document
    named = {} if model_id is None else {"id": model_id, "revision": None}
    spec = document.model.model_copy(update=named)
    auto_class = discover("autopeft.tasks")[document.task.name].auto_class
    id2label = read_object(reference.weights / "config.json").get("id2label") or {}
    labels = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    with memory_needed("computing the outputs of a model in float32", FREE_MEMORY):
        base = model.load(spec, auto_class=auto_class, label_names=labels)
        require_same_base(reference.weights, base.module)
        features = [example_features(base, auto_class, text) for text in TEXTS]
        expected = _logits(apply(document.plan, base.module, weights=reference.weights), features)
        del base
        model.release_memory(next(iter(features[0].values())).device)  # one model at a time
        own = _own_spec(path, files, spec, is_named=model_id is not None)
        kind = adapters.auto_class_of([file.config for file in files]) or auto_class
        base = model.load(own, auto_class=kind, label_names=labels, needs_tokenizer=False)
        difference = _largest_difference(expected, _logits(_adapted(path, files, base, document), features))
    return Outputs(
        reference=str(reference.weights),
        tolerance=_TOLERANCE_16_BITS if dtype.endswith("float16") else _TOLERANCE,
        largest_difference=difference if math.isfinite(difference) else None,
    )


@torch.no_grad()
def _logits(module: nn.Module, examples: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Compute the logits of each example on the CPU."""
    return [module.eval()(**features).logits.float().cpu() for features in examples]


def _own_spec(path: Path, files: Sequence[ConfigFile], used: ModelSpec, *, is_named: bool) -> ModelSpec:
    """Return the whole model; else the base model that the user or the adapter names, or that is in use."""
    if not files:
        return ModelSpec(id=str(path))
    config = next((file.config for file in files if file.config.base_model_name_or_path), None)
    if config is None or is_named:
        return used
    source, named = model.resolve(used)[0], config.base_model_name_or_path
    if named == source or (source.endswith(".gguf") and named == str(Path(source).parent)):  # peft's guess
        return used.model_copy(update={"revision": config.revision or used.revision})
    return ModelSpec(id=named, revision=config.revision, quantize=used.quantize)


def _adapted(path: Path, files: Sequence[ConfigFile], base: BaseModel, document: PlanDocument) -> nn.Module:
    """Load the adapter on its base model; a whole model stays as it is."""
    if not files:
        return base.module
    if len(files) > 1:  # quantized weights cannot be changed exactly
        model.dequantize(base.module)
    if sum(adapters.is_unmergeable(file.config) for file in files) > 1:
        adapted: nn.Module = apply(document.plan, base.module, weights=path)
        return adapted
    return exports.load_in_peft(base.module, files)


def _largest_difference(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Find the largest difference, divided by the largest number or 1; inf if shapes differ."""
    worst, largest = 0.0, 1.0
    for first, second in zip(expected, found, strict=True):
        finite = first.isfinite()
        if first.shape != second.shape or not torch.equal(finite, second.isfinite()):
            return math.inf
        worst = max(worst, float((first - second)[finite].abs().max()))
        largest = max(largest, float(first[finite].abs().max()))
    return worst / largest
