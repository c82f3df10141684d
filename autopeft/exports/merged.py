"""Merged: a whole model with the plan in its weights, for everything that loads transformers models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from autopeft.adapters import type_name
from autopeft.errors import SpecError, foreign_file, reason_of
from autopeft.exports._shared.adapter import MERGE_ERRORS
from autopeft.exports._shared.problems import refuse, rewrites_base, unmergeable, untrained
from autopeft.model import attach, is_out_of_memory
from autopeft.model import merge as merge_adapters
from autopeft.model.checks import PASS_ERRORS
from autopeft.plugins import ExportSource, NeededBase
from autopeft.store import cannot_write, fresh_folder

_PROBE_TOKENS = 8  # enough for attention to mix; heuristic
# Of the largest output. Rounding in float32 is a hundred times less than the first, and 1e-2 in 16 bits.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-3, 5e-2


@dataclass(frozen=True)
class Merged:
    """The whole model in safetensors, head and tokenizer included, in the number format of its checkpoint."""

    name: str = "merged"
    summary: str = "the whole model with the plan merged into its weights, and its tokenizer"
    needs_base: NeededBase = "weights"

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """List what prevents the export: methods that cannot be merged, or no weights."""
        return (*unmergeable(source.configs), *rewrites_base(source.configs), *untrained(source))

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Merge into the base model, check its outputs, and write it; return notes, or raise SpecError."""
        refuse(self.name, self.problems(source), instead="Use --to native")
        model = cast(Any, _merge(source))
        if source.dtype is not None:
            for parameter in model.parameters():  # buffers may be tables of angles, which stay as they are
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(getattr(torch, source.dtype))
            for name, parameter in model.named_parameters():
                if not parameter.isfinite().all():
                    raise SpecError(f"{name} is not finite in {source.dtype}; pass --dtype float32.")
        with fresh_folder(out) as fresh:
            model.save_pretrained(str(fresh))
            if source.tokenizer is not None:
                with foreign_file(lambda error: cannot_write(out, error)):
                    source.tokenizer.save_pretrained(str(fresh))
        loading = f"load it with {type(model).__name__}.from_pretrained, or serve the folder as it is"
        if source.dtype is None:
            return (loading,)
        return loading, f"its weights are {source.dtype}; --dtype chooses another number format"


PLUGIN = Merged()


def _merge(source: ExportSource) -> nn.Module:
    """Merge a trained plan into the base model in place; SpecError if its outputs for a few tokens change."""
    model, names = _attached(source), ", ".join(dict.fromkeys(map(type_name, source.configs)))
    outputs = _probe(model)
    try:
        merged = merge_adapters(model)
    except MERGE_ERRORS as error:
        raise SpecError(f"{names} cannot be merged ({reason_of(error)}); use --to native.") from error
    merged_outputs = _probe(merged)
    if outputs is not None and merged_outputs is not None:
        moved = float((merged_outputs - outputs).abs().max() / outputs.abs().max().clamp_min(1e-6))
        bound = _TOLERANCE if _dtype_of(merged) == torch.float32 else _TOLERANCE_16_BITS
        if not moved <= bound:
            raise SpecError(
                f"Merging {names} changes the outputs by {moved:.1e} of the largest, more than the "
                f"{bound:g} of rounding: an adapted weight may be shared by other modules. Use --to native."
            )
    return merged


def _attached(source: ExportSource) -> PeftModel:
    """Attach configs and weights to the base model, in eval mode; SpecError if they do not fit it."""
    assert source.base is not None, "the base model is needed"
    try:
        model = attach(source.base, source.configs, task_type=source.task_type, head_names=source.head)
        for name, weights in zip(model.peft_config, source.weights, strict=True):
            # `peft` may also save the embeddings of the base model with an adapter; they are left out.
            expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
            set_peft_model_state_dict(model, {key: weights[key] for key in expected}, adapter_name=name)
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise SpecError(
            f"The adapter does not fit {source.base_model} ({reason_of(error)}); pass --model with the "
            "base model that it was trained on."
        ) from error
    return model.eval()


def _dtype_of(model: nn.Module) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in dtypes), torch.float32)


@torch.no_grad()
def _probe(model: nn.Module) -> torch.Tensor | None:
    """Return float32 outputs for a few tokens; None if the model cannot compute from tokens alone."""
    size = getattr(cast(Any, model).config.get_text_config(), "vocab_size", 0)
    plain = getattr(model, "get_base_model", lambda: model)()
    if size < 2 or getattr(plain, "main_input_name", "input_ids") != "input_ids":  # CLIP has a vocabulary too
        return None
    device, dtype = next(model.parameters()).device, _dtype_of(model)
    tokens = torch.arange(1, 1 + _PROBE_TOKENS, device=device).remainder(size)[None]
    try:
        # Trained weights are float32; the frozen ones may be narrower.
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            outputs = model.eval()(input_ids=tokens)
    except PASS_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return None
    logits = getattr(outputs, "logits", None)
    return cast(torch.Tensor, outputs[0] if logits is None else logits).float()
