"""The base model of an export: as much of it as the format needs, with the labels of the adapter's head."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig
from torch import nn

from autopeft import adapters, exports, model
from autopeft.errors import ModelError, RunDirError, SpecError
from autopeft.extension import Checkpoint, Exporter, ExportSource
from autopeft.records import ModelSpec
from autopeft.store import RunDir

DTYPES = ("float32", "bfloat16", "float16")
_LANGUAGE_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")  # as `peft` calls them


def with_base(
    source: ExportSource, spec: ModelSpec, *, exporter: Exporter, folder: Path, run: Path | None
) -> ExportSource:
    """The source with as much of its base model as the exporter needs.

    A quantised base model is dequantised, since the adapter was trained on exactly those weights. Plain
    weights are never on a GPU, which may not hold them. A format that writes a whole model gets it in the
    number format of its checkpoint, which takes no more memory than the checkpoint itself.

    Args:
        source: The adapter, which was read from `folder`.
        spec: Its base model.
        exporter: The format.
        folder: The folder of the adapter, whose config.json may hold the labels.
        run: The run that the adapter is of; None where none is known.
    """
    skeleton = model.load_skeleton(spec, auto_class=adapters.auto_class_of(source.configs)).module
    if source.checkpoint.own_class:
        own = model.load_skeleton(spec, auto_class=source.checkpoint.own_class).module
        source = replace(source, checkpoint=replace(source.checkpoint, own=own))
    if exporter.needs_base == "shapes":
        return replace(source, base=skeleton)
    beside = _config_beside(folder)
    names, auto_class = _label_names(skeleton, source, beside, run), type(skeleton).__name__
    stored = _stored_dtype(skeleton)
    # A head that gives prices holds numbers that 16 bits round by whole units.
    is_number = beside.get("problem_type") == "regression"
    written = source.dtype or ("float32" if is_number else stored)
    held = model.Precision(dtype="float32" if written == "float32" else stored)
    base = model.load(
        spec,
        auto_class=auto_class,
        label_names=names,
        needs_tokenizer=False,
        needs_padding=source.task_type not in _LANGUAGE_TASKS,  # such a model stays as its checkpoint is
        device="cpu" if spec.quantize == "none" else None,
        precision=held,
    )
    lacking = exports.lacking_weights(base.untrained, source)
    if lacking:
        raise SpecError(
            f"Neither {base.name} nor the adapter has weights for {', '.join(lacking[:3])}, which would be "
            "random; pass --model with the base model that the adapter was trained on."
        )
    if (problem := beside.get("problem_type")) is not None:
        cast(Any, base.module).config.problem_type = problem
    model.dequantise(base.module, device="cpu", dtype=held.torch_dtype)
    return replace(source, base=base.module.cpu(), tokenizer=base.tokenizer, dtype=written)


def _stored_dtype(skeleton: nn.Module) -> str:
    """The number format of a checkpoint by its config; float32 where that names none, as of a GGUF file."""
    config = cast(Any, skeleton).config
    named = (getattr(each, "dtype", None) for each in model.text_configs(config))
    return next((name for dtype in named if (name := str(dtype).removeprefix("torch.")) in DTYPES), "float32")


def checkpoint_of(spec: ModelSpec, configs: Sequence[PeftConfig], *, needs_base: str) -> Checkpoint:
    """Commit and class of a base model's checkpoint; the class is unknown where its config is not at hand.

    The config is downloaded only for formats that need the base model.
    """
    own_class = None
    with contextlib.suppress(ModelError):
        config = model.config_of(spec, here_only=needs_base == "none")
        own_class = model.own_class(config, adapters.auto_class_of(configs) or "AutoModelForCausalLM")
    return Checkpoint(revision=spec.revision, own_class=own_class or "")


def _config_beside(folder: Path) -> Mapping[str, Any]:
    """The config.json beside an adapter, with the labels of its head; empty where none can be read."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _label_names(
    skeleton: nn.Module, source: ExportSource, beside: Mapping[str, Any], run: Path | None
) -> tuple[str, ...]:
    """Labels beside the adapter or of the run; else numbers for those of its head; else none."""
    n_labels = exports.n_trained_labels(source, skeleton)
    named = beside.get("id2label")
    if isinstance(named, dict) and (n_labels is None or len(named) == n_labels):
        return tuple(str(named[key]) for key in sorted(named, key=int))
    if run is not None:
        with contextlib.suppress(RunDirError):  # an unfinished run stores no labels
            names = RunDir.open(run).load_result().setting.label_names
            if names:
                return tuple(names)
    return () if n_labels is None else tuple(f"LABEL_{index}" for index in range(n_labels))
