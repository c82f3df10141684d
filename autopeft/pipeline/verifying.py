"""`verify`: whether an adapter or an export gives the outputs of the plan that was confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile, TargetMatch
from autopeft.errors import SpecError
from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.pipeline.applying import apply
from autopeft.pipeline.computing import NO_GPU, device_in_float32, memory_needed
from autopeft.pipeline.reference import (
    SPLIT,
    Expected,
    confirmed_weights,
    expected_of,
    in_float32,
    is_run,
    largest_difference,
    outputs_of,
    reference_of,
    tolerance_of,
)
from autopeft.records import ModelSpec, Plan, with_setting
from autopeft.store import RunDir

MERGED = "transformers"  # the reader of a whole model


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
    """The outputs of one reader beside those of the confirmed plan.

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
        """Whether every reader gives the outputs of the confirmed plan."""
        return all(reading.is_same for reading in self.readings)


def verify(request: VerifyRequest) -> Verification:
    """Compare the outputs of an adapter or export with those of the confirmed plan, in float32.

    Raises:
        SpecError: The folder holds nothing to verify, or no run to compare it with is known.
        ModelError, DataError: Base model or dataset of the run cannot be loaded, or it was a model in memory
            and another one is named.
    """
    discover("autopeft.methods")  # a method may register its own type with `peft`
    path = confirmed_weights(RunDir.open(request.path)) if is_run(request.path) else request.path
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
