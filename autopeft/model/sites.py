"""Where a model can take adapters: its linear maps and norms, with role and depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.records import Site

_LANGUAGE_MODELS = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM")
_LAYER = re.compile(r"\.(\d+)\.")
# The last name, or the last two where the last alone is shared by several roles.
_ROLE_ENDINGS: Mapping[str, Sequence[str]] = {
    "q": ("query", "q_proj", "q_lin", "query_proj", "q"),
    "k": ("key", "k_proj", "k_lin", "key_proj", "k"),
    "v": ("value", "v_proj", "v_lin", "value_proj", "v"),
    "qkv": ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv", "in_proj"),
    "o": (
        "o_proj",
        "out_proj",
        "out_lin",
        "o",
        "attn.Wo",
        "attn.c_proj",
        "attention.dense",
        "self_attention.dense",
    ),
    "gate": ("gate_proj", "wi_0", "w1"),
    "up": (
        "up_proj",
        "fc1",
        "c_fc",
        "lin1",
        "wi",
        "wi_1",
        "w3",
        "dense_h_to_4h",
        "intermediate.dense",
        "fc_in",
    ),
    "gate_up": ("gate_up_proj", "Wi"),
    "down": ("down_proj", "fc2", "lin2", "wo", "w2", "dense_4h_to_h", "mlp.c_proj", "mlp.Wo", "fc_out"),
}
ROLE_GROUPS: Mapping[str, Sequence[str]] = {
    "attention": ("q", "k", "v", "qkv", "o"),
    "mlp": ("gate", "up", "gate_up", "down"),
}


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The children with parameters that stand beside the base model inside a task model.

    A language model's output layer is part of the base model: it was pretrained with it.
    """
    prefix = getattr(module, "base_model_prefix", "")
    if type(module).__name__.endswith(_LANGUAGE_MODELS) or not hasattr(module, prefix or "-"):
        return ()
    children = module.named_children()
    return tuple(name for name, child in children if name != prefix and any(True for _ in child.parameters()))


def untrained_modules(module: nn.Module, untrained: Iterable[str], *, head: Sequence[str]) -> tuple[str, ...]:
    """Linear maps and norms outside the head that the checkpoint has no weights for, such as a pooler."""
    parents = dict.fromkeys(name.rpartition(".")[0] for name in sorted(untrained))
    found = [name for name in parents if name.split(".")[0] not in head]
    return tuple(name for name in found if _site(name, module.get_submodule(name)) is not None)


def list_sites(module: nn.Module, *, exclude: Sequence[str] = ()) -> tuple[Site, ...]:
    """Every linear map and norm of a model with its role and depth, in the model's order.

    The output layer of a language model is no site.

    Args:
        module: Any transformer; meta tensors are fine.
        exclude: Modules that are no sites, insides included (the task head).
    """
    sites = []
    output_layer = cast(Any, getattr(module, "get_output_embeddings", lambda: None))()
    for name, child in module.named_modules():
        excluded = any(f"{name}.".startswith(f"{other}.") for other in exclude)
        if not excluded and child is not output_layer:
            site = _site(name, child)
            if site is not None:
                sites.append(site)
    return tuple(sites)


def _site(name: str, module: nn.Module) -> Site | None:
    has_bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        kind, n_in, n_out = "linear", module.in_features, module.out_features
    elif isinstance(module, Conv1D):
        kind, (n_in, n_out) = "conv1d", module.weight.shape
    elif "norm" in type(module).__name__.lower() and getattr(getattr(module, "weight", None), "ndim", 0) == 1:
        kind, n_in = "norm", cast(torch.Tensor, module.weight).numel()
        n_out = n_in
    else:
        return None
    depth = _LAYER.search(name)
    role = "norm" if kind == "norm" else _role(name, n_in, n_out)
    layer = int(depth[1]) if depth else None
    return Site(
        name=name, layer=layer, role=role, kind=kind, in_features=n_in, out_features=n_out, has_bias=has_bias
    )


def _role(name: str, n_in: int, n_out: int) -> str:
    """By the usual names; BERT's `output.dense` is told apart by what holds it; else by shape."""
    parts = name.split(".")
    endings = {parts[-1], ".".join(parts[-2:])}
    for role, known in _ROLE_ENDINGS.items():
        if endings.intersection(known):
            return role
    if name.endswith("output.dense"):
        return "o" if "attention" in name else "down"
    if not _LAYER.search(name) or n_in == n_out:
        return "dense"
    return "up" if n_out > n_in else "down"
