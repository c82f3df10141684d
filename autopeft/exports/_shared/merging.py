"""Merges a trained plan into its base model, and checks the result."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from autopeft.adapters import type_name
from autopeft.errors import SpecError, reason_of
from autopeft.model import attach, is_out_of_memory
from autopeft.model import merge as merge_adapters
from autopeft.model.checks import PASS_ERRORS
from autopeft.plugins import ExportSource

_PROBE_TOKENS = 8  # enough for attention to mix; chosen by hand
MERGE_ERRORS = (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError)  # of `peft`
# Of the largest output. Rounding in float32 is a hundred times less than the first, and 1e-2 in 16 bits.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-3, 5e-2


def merge(source: ExportSource) -> nn.Module:
    """Merge a trained plan into the base model in place, and check outputs for a few tokens.

    Raises:
        SpecError: The weights do not fit the base model, a method cannot be merged, or outputs change.
    """
    model = _attached(source)
    outputs, names = _probe(model), ", ".join(dict.fromkeys(map(type_name, source.configs)))
    inner = model.get_base_model()
    adapted = tuple(f"{name}." for name, layer in inner.named_modules() if isinstance(layer, BaseTunerLayer))
    try:
        merged = merge_adapters(model)
    except MERGE_ERRORS as error:
        raise SpecError(f"{names} cannot be merged ({reason_of(error)}); use --to native.") from error
    merged_outputs = _probe(merged)
    if outputs is not None and merged_outputs is not None:
        moved = float((merged_outputs - outputs).abs().max() / outputs.abs().max().clamp_min(1e-6))
        bound = _TOLERANCE if _dtype_of(merged) == torch.float32 else _TOLERANCE_16_BITS
        if not moved <= bound:
            # Two modules may share one weight, as in Zamba2: merging an adapter of one changes both.
            modules: dict[int, list[str]] = defaultdict(list)
            for name, parameter in merged.named_parameters(remove_duplicate=False):
                modules[id(parameter)].append(name)
            shared = (n for n in modules.values() if len(n) > 1 and any(x.startswith(adapted) for x in n))
            cause = next(
                (f" ({n[0]} and {n[1]} are one weight: an adapter of one would change both)" for n in shared),
                "",
            )
            raise SpecError(
                f"Merging {names} moves the outputs by {moved:.1e} of the largest, at most {bound:g} is "
                f"rounding{cause}; use --to native."
            )
    return merged


def _attached(source: ExportSource) -> PeftModel:
    """Attach configs and weights to the base model, in eval mode; SpecError if they do not fit it."""
    assert source.base is not None, "the base model is needed"
    try:
        model = attach(source.base, source.configs, task_type=source.task_type, head_names=source.head)
        for name, weights in zip(model.peft_config, source.weights, strict=True):
            expected = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
            # If embeddings are adapted, `peft` saves the base model's beside the adapter.
            base = model.state_dict()
            unexpected = {
                key
                for key in weights.keys() - expected
                if key not in base or not torch.equal(base[key].cpu(), weights[key].to(base[key].dtype).cpu())
            }
            if odd := sorted((expected - weights.keys()) | unexpected):
                where = "is missing from the weights" if odd[0] in expected else "has no place by the config"
                raise SpecError(
                    f"{odd[0]} {where}; use the config and weights of one adapter, and --model with its base "
                    "model."
                )
            of_adapter = {key: tensor for key, tensor in weights.items() if key in expected}
            set_peft_model_state_dict(model, of_adapter, adapter_name=name)
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
    if type(plain).__name__.endswith("ForMultipleChoice"):
        tokens = tokens.reshape(1, 2, -1)  # a row for each of two choices
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
