"""`export`: write a plan or a trained adapter in a format that other tools read."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from autopeft import adapters, exports, model
from autopeft.adapters import ConfigFile
from autopeft.errors import ModelError, RunDirError, SpecError
from autopeft.extension import Exporter, ExportSource, discover
from autopeft.pipeline.export_base import DTYPES, checkpoint_of, with_base
from autopeft.pipeline.exported_training import plan_of, training_facts
from autopeft.pipeline.same_base import has_other_weights
from autopeft.records import ModelSpec, PlanDocument, resume_command
from autopeft.store import RunDir, read_plan, refuse_files

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export: exactly one of `run` and `adapter`, in the format `to`, into the folder `out`.

    `model_id` replaces the base model that the run or the adapter names. `dtype` is the number format of a
    whole model; None is that of the base model's checkpoint.
    """

    to: str
    out: Path
    run: Path | None = None
    adapter: Path | None = None
    model_id: str | None = None
    allow_pickle: bool = False
    dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """A written export: format, folder, files, and notes for whoever loads them."""

    format: str
    out: str
    files: tuple[str, ...]
    notes: tuple[str, ...]


def export(request: ExportRequest) -> Export:
    """Write a plan or a trained adapter in a format that other tools read, whole or not at all.

    Raises:
        UnknownNameError: The format does not exist.
        SpecError: The adapter cannot be read, or the format cannot hold it.
        RunDirError: The folder to write to holds files, or the run has not finished.
        ModelError: The base model cannot be loaded.
    """
    exporter: Exporter = discover("autopeft.exports")[request.to]
    _check(request, exporter)
    refuse_files(request.out)
    discover("autopeft.methods")  # a method may register its own type with `peft`
    with model.quiet_libraries():
        folder, document = _locate(request)
        files = adapters.read_configs(folder)
        source, spec = _read(files, document, request, needs_base=exporter.needs_base)
        notes: list[str] = []
        if not exporter.problems(source):
            needs_base = exporter.needs_base
            notes += _check_fit(files, source, spec, document, folder=folder, needs_base=needs_base)
            if exporter.needs_base != "none":
                source = with_base(source, spec, exporter=exporter, folder=folder, run=request.run)
            if exporter.needs_base == "weights" and has_other_weights(folder, cast(nn.Module, source.base)):
                notes.append(f"{source.base_model} has other weights than the one that this was trained on")
        notes = [*exporter.export(source, request.out), *notes]  # raises where there are problems
    paths = (path for path in request.out.rglob("*") if path.is_file())
    written = tuple(sorted(path.relative_to(request.out).as_posix() for path in paths))
    return Export(format=exporter.name, out=str(request.out), files=written, notes=tuple(notes))


def _check(request: ExportRequest, exporter: Exporter) -> None:
    if (request.run is None) == (request.adapter is None):
        given = "Neither --run nor --adapter is" if request.run is None else "Both --run and --adapter are"
        raise SpecError(f"{given} given; pass one of them.")
    if request.dtype is not None and exporter.needs_base != "weights":
        raise SpecError(f"--dtype is for formats of a whole model, not for {request.to}; leave it out.")
    if request.dtype is not None and request.dtype not in DTYPES:
        raise SpecError(f"--dtype is {request.dtype}; use {', '.join(DTYPES)}.")


def _locate(request: ExportRequest) -> tuple[Path, PlanDocument | None]:
    """The folder to export (trained weights, else configs alone), and the plan beside it, if there is one."""
    if request.adapter is not None:
        known = ("adapter_config.json", "order.json")
        if not any((request.adapter / name).is_file() for name in known):
            several = any(request.adapter.glob("*/adapter_config.json"))
            remedy = (
                "write several adapters with autopeft.save" if several else "pass a folder that peft wrote"
            )
            raise SpecError(f"{request.adapter} holds neither {' nor '.join(known)}; {remedy}.")
        return request.adapter, plan_of(request.adapter)
    run = RunDir.open(cast(Path, request.run))
    if not (run.best / "plan.yaml").is_file():
        words = resume_command(run.read_spec(), run.path)
        raise RunDirError(f"{request.run} has no best plan yet; go on with: {words}")
    weights = run.best / "weights"
    return weights if weights.is_dir() else run.best / "adapters", read_plan(run.best)


def _read(
    files: Sequence[ConfigFile], document: PlanDocument | None, request: ExportRequest, *, needs_base: str
) -> tuple[ExportSource, ModelSpec]:
    """The configs with their weights, and the base model that they adapt."""
    for note in dict.fromkeys(note for file in files for note in adapters.unknown_keys(file)):
        log.warning("%s", note)
    configs = tuple(file.config for file in files)
    weights = exports.read_all_weights(files, allow_pickle=request.allow_pickle)
    if request.model_id is not None:
        spec = ModelSpec(id=request.model_id, quantize=document.model.quantize if document else "none")
    elif document is not None:
        spec = document.model
    else:
        spec = adapters.base_model_of(configs, path=cast(Path, request.adapter))
    model.resolve(spec)  # which raises for a model that was in memory
    first = configs[0]
    source = ExportSource(
        configs=configs,
        base_model=spec.id or model.DEMO_HUB_ID,
        checkpoint=checkpoint_of(spec, configs, needs_base=needs_base),
        task_type=adapters.task_name(first),
        head=tuple(dict.fromkeys(getattr(first, "modules_to_save", None) or ())),
        weights=weights,
        training=training_facts(document, spec, request.run or request.adapter),
        dtype=request.dtype,
    )
    return source, spec


def _check_fit(
    files: Sequence[ConfigFile],
    source: ExportSource,
    spec: ModelSpec,
    document: PlanDocument | None,
    *,
    folder: Path,
    needs_base: str,
) -> list[str]:
    """Raise where configs or weights do not fit the base model; notes where its size or config is another.

    The config is downloaded only for formats that need the base model.
    """
    here_only = needs_base == "none"
    try:
        auto_class = adapters.auto_class_of(source.configs)
        base = model.load_skeleton(spec, auto_class=auto_class, here_only=here_only)
    except ModelError:
        if not here_only or os.path.isdir(source.base_model):  # noqa: PTH112 - see model.locating
            raise
        return [f"not checked against {source.base_model}, whose config is not at hand"]
    if any(map(adapters.reads_weights, source.configs)):
        return [f"not checked against {source.base_model}, since peft needs weights to attach it"]
    note = None if document is None else adapters.other_base_note(document, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `peft` warns of things that matter for training only
        attached = adapters.attach_fitting(files, base, path=folder)
        adapters.refuse_weights(attached, source.weights, path=folder)
    return [note] if note else []
