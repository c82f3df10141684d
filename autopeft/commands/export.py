"""`export`: write a plan or a trained adapter in a format that other tools read."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile
from autopeft.errors import ModelError, RunDirError, SpecError
from autopeft.finished.training_notes import finished_weights, has_other_base
from autopeft.model.checkpoint_source import own_class
from autopeft.model.checks import text_configs
from autopeft.model.quantization import dequantizing
from autopeft.plugins import PACKED_KINDS, Checkpoint, Exporter, ExportSource, TrainingFacts, discover
from autopeft.report.write_card import read_trained
from autopeft.store import RunDir, is_run, read_object, read_plan, refuse_files
from autopeft.train import warmup_steps
from autopeft.types import ModelSpec, PlanDocument, resume_command

DTYPES = ("float32", "bfloat16", "float16")
_LANGUAGE_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")  # as `peft` calls them

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Export:
    """A written export: format, folder, files, and notes for whoever loads them."""

    format: str
    out: str
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    path: Path, to: str, out: Path, *, model_id: str | None = None, dtype: str | None = None
) -> Export:
    """Write a plan or a trained adapter in the format `to`, which other tools read, whole or not at all.

    The plan is the best one of a run, or that of an adapter, a folder that `peft` wrote. `model_id` replaces
    the base model that these name. `dtype` is the number format of a whole model; None is that of the base
    model's checkpoint.

    Raises:
        UnknownNameError: The format does not exist.
        SpecError: The adapter cannot be read, or the format cannot hold it.
        RunDirError: The folder to write to holds files, or the run has not finished.
        ModelError: The base model cannot be loaded.
    """
    exporter: Exporter = discover("autopeft.exports")[to]
    if dtype is not None and exporter.needs_base != "weights":
        raise SpecError(f"--dtype is for formats of a whole model, not for {to}; leave it out.")
    if dtype is not None and dtype not in DTYPES:
        raise SpecError(f"--dtype is {dtype}; use {', '.join(DTYPES)}.")
    refuse_files(out)
    discover("autopeft.methods")  # a method may register its own type with `peft`
    with model.quiet_libraries():
        folder, document = _locate(path)
        files = adapters.read_configs(folder)
        for note in dict.fromkeys(note for file in files for note in adapters.unknown_keys(file)):
            log.warning("%s", note)
        spec = _base_spec(files, document, model_id, folder=path)
        source = _read(files, spec, document, folder=path)
        source = replace(source, dtype=dtype)
        notes: list[str] = []
        if not exporter.problems(source):
            notes += _check_fit(source, spec, document, folder=folder, needs_base=exporter.needs_base)
            if exporter.needs_base != "none":
                source = with_base(source, spec, exporter=exporter, folder=folder)
            if exporter.needs_base == "weights" and has_other_base(folder, cast("nn.Module", source.base)):
                notes.append(f"The adapter was trained on other weights than {source.base_model} has now.")
        notes = [*exporter.export(source, out), *notes]  # raises if there are problems
    paths = (path for path in out.rglob("*") if path.is_file())
    written = tuple(sorted(path.relative_to(out).as_posix() for path in paths))
    return Export(format=exporter.name, out=str(out), files=written, notes=tuple(notes))


def _locate(path: Path) -> tuple[Path, PlanDocument | None]:
    """Find the folder to export (of a run its trained weights, else its configs), and its plan."""
    if any((path / name).is_file() for name in ("adapter_config.json", "order.json")):
        return path, plan_of(path)
    if not is_run(path):
        raise SpecError(f"{path} has no run.yaml or adapter_config.json; pass a run or an adapter.")
    run = RunDir.open(path)
    if not (run.best / "plan.yaml").is_file():
        command = resume_command(run.read_spec(), run.path)
        raise RunDirError(f"{path} has no best plan yet; resume it with: {command}")
    weights = run.best / "weights"
    return finished_weights(run) if weights.is_dir() else run.best / "adapters", read_plan(run.path)


def _base_spec(
    files: Sequence[ConfigFile], document: PlanDocument | None, model_id: str | None, *, folder: Path
) -> ModelSpec:
    """Choose the base model: the user's; else that of the plan; else the one that the configs name."""
    if model_id is not None:
        spec = ModelSpec(id=model_id, quantize=document.model.quantize if document else "none")
    elif document is not None:
        spec = document.model
    else:
        spec = adapters.base_model_of([file.config for file in files], path=folder)
    model.resolve(spec)  # raises for a model that was in memory
    return spec


def _read(
    files: Sequence[ConfigFile], spec: ModelSpec, document: PlanDocument | None, *, folder: Path
) -> ExportSource:
    """Read the configs with their weights, and how they were trained; `folder` is a run or an adapter."""
    configs = tuple(file.config for file in files)
    own_name, dequantizes = "", False
    with contextlib.suppress(ModelError):
        base_config = model.config_of(spec)
        own_name = own_class(base_config, adapters.auto_class_of(configs) or "AutoModelForCausalLM") or ""
        dequantizes = bool(dequantizing(base_config))
    return ExportSource(
        configs=configs,
        base_model=spec.id or model.DEMO_HUB_ID,
        checkpoint=Checkpoint(revision=spec.revision, own_class=own_name, dequantizes=dequantizes),
        task_type=adapters.task_name(configs[0]),
        head=tuple(dict.fromkeys(getattr(configs[0], "modules_to_save", None) or ())),
        weights=exports.read_all_weights(files),
        training=training_facts(document, spec, folder),
    )


def _check_fit(
    source: ExportSource, spec: ModelSpec, document: PlanDocument | None, *, folder: Path, needs_base: str
) -> list[str]:
    """Raise if configs or weights do not fit the base model; note what differs or cannot be checked."""
    try:
        auto_class = adapters.auto_class_of(source.configs)
        base = model.load_skeleton(spec, auto_class=auto_class)
    except ModelError:
        if needs_base != "none" or os.path.isdir(source.base_model):  # noqa: PTH112 - see model.checkpoint_source
            raise
        return [f"not checked against {source.base_model}, since its config cannot be read"]
    if any(map(adapters.reads_weights, source.configs)):
        return [f"not checked against {source.base_model}, since peft needs weights to attach it"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `peft` warns of things that matter for training only
        attached = adapters.attach_fitting(base.module, source.configs, base_name=base.name, path=folder)
        adapters.refuse_weights(attached, source.weights, path=folder)
    note = None if document is None else adapters.other_base_note(document, base)
    return [note] if note else []


def plan_of(adapter: Path) -> PlanDocument | None:
    """Read the plan of trained weights, which may be `best/weights` of a run; None if there is none."""
    run = _run_of(adapter)
    path = adapter / "plan.yaml" if run is None else run / "best" / "plan.yaml"
    return read_plan(path) if path.is_file() else None


def training_facts(document: PlanDocument | None, spec: ModelSpec, folder: Path) -> TrainingFacts:
    """Collect how a plan is trained in full; how it was computed comes from the result in its folder.

    `folder` is a run or an adapter. Unknown facts are None or empty.
    """
    if document is None:
        return TrainingFacts()
    task, result, run = document.task, None, _run_of(folder) or folder
    with contextlib.suppress(SpecError):  # an unfinished run
        result = RunDir.open(run).load_result() if is_run(run) else read_trained(folder)
    environment = {} if result is None else result.environment
    n_steps = task.max_steps if result is None else result.setting.full_run_steps
    tokens, n_batches = environment.get("micro_batch_tokens", ""), 1
    if tokens.isdigit() and task.batch_size and task.max_length:
        # The fewest equal micro-batches such that one of the longest rows has at most this many tokens.
        n_rows = max(1, int(tokens) // task.max_length)
        sizes = range(1, task.batch_size + 1)
        n_batches = next(n for n in sizes if task.batch_size % n == 0 and task.batch_size // n <= n_rows)
    return TrainingFacts(
        learning_rate=adapters.common_learning_rate(document.plan),
        micro_batch_size=None if task.batch_size is None else task.batch_size // n_batches,
        accumulation_steps=None if task.batch_size is None else n_batches,
        epochs=task.epochs,
        max_steps=task.max_steps,
        warmup_steps=None if n_steps is None else warmup_steps(n_steps),
        max_length=task.max_length,
        seed=document.seed,
        quantize=spec.quantize,
        dtype=environment.get("dtype"),
        checkpointing=environment["checkpointing"] == "on" if "checkpointing" in environment else None,
        packs=result is not None and result.setting.label_kind in PACKED_KINDS,
    )


def _run_of(adapter: Path) -> Path | None:
    """Find the run whose `best/weights` a folder is; None for another folder."""
    weights = adapter.absolute()
    run = weights.parent.parent
    is_best = weights.parent.name == "best" and weights.name in ("weights", "judged")
    return run if is_best and is_run(run) else None


def with_base(source: ExportSource, spec: ModelSpec, *, exporter: Exporter, folder: Path) -> ExportSource:
    """Load as much of the base model as the exporter needs.

    A quantized base model is dequantized: the adapter was trained on the rounded weights. Other models are
    loaded on the CPU, since a GPU may not have the memory. A whole model is loaded in the number format of
    its checkpoint, which needs no more memory than the checkpoint itself. The labels are those of a
    config.json in the adapter's `folder`.

    Raises:
        SpecError: Some weights are neither in the base model nor in the adapter.
    """
    skeleton = model.load_skeleton(spec, auto_class=adapters.auto_class_of(source.configs)).module
    if source.checkpoint.own_class:
        whole = model.load_skeleton(spec, auto_class=source.checkpoint.own_class).module
        source = replace(source, checkpoint=replace(source.checkpoint, skeleton=whole))
    if exporter.needs_base == "shapes":
        return replace(source, base=skeleton)
    head_config = read_object(folder / "config.json")  # with the labels of the head
    # The number format of the checkpoint by its config; float32 if the config names none, as of a GGUF file.
    configs = text_configs(cast(Any, skeleton).config)
    formats = (str(getattr(config, "dtype", None)).removeprefix("torch.") for config in configs)
    checkpoint_dtype = next((name for name in formats if name in DTYPES), "float32")
    # A head that gives prices holds numbers that 16 bits round by whole units.
    problem = head_config.get("problem_type")
    written_dtype = source.dtype or ("float32" if problem == "regression" else checkpoint_dtype)
    precision = model.Precision(dtype="float32" if written_dtype == "float32" else checkpoint_dtype)
    base = model.load(
        spec,
        auto_class=type(skeleton).__name__,
        label_names=_label_names(skeleton, source, head_config),
        needs_tokenizer=False,
        needs_padding=source.task_type not in _LANGUAGE_TASKS,  # a language model stays as its checkpoint is
        device="cpu" if spec.quantize == "none" else None,
        precision=precision,
    )
    missing = exports.missing_weights(base.untrained, source)
    if missing:
        raise SpecError(
            f"Neither {base.name} nor the adapter has weights for {', '.join(missing[:3])}, which would be "
            "random; pass --model with the base model that the adapter was trained on."
        )
    if problem is not None:
        cast("Any", base.module).config.problem_type = problem
    model.dequantize(base.module, device="cpu", dtype=precision.torch_dtype)
    return replace(source, base=base.module.cpu(), tokenizer=base.tokenizer, dtype=written_dtype)


def _label_names(
    skeleton: nn.Module, source: ExportSource, head_config: Mapping[str, Any]
) -> tuple[str, ...]:
    """Find the label names: of the adapter's config, else `LABEL_0` …; () without a head."""
    n_labels = exports.n_trained_labels(source, skeleton)
    id2label = head_config.get("id2label")
    if isinstance(id2label, dict) and (n_labels is None or len(id2label) == n_labels):
        return tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    return () if n_labels is None else tuple(f"LABEL_{index}" for index in range(n_labels))
