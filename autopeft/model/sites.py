"""Where a model can take adapters: linear maps, norms and experts in one parameter, with role and depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from autopeft.model.shapes import is_quantised, map_shape
from autopeft.records import Site

_LANGUAGE_MODELS = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM")
_LAYER = re.compile(r"\.(\d+)\.")
# The last name, or the last two where the last alone is shared by several roles.
_ROLE_ENDINGS: Mapping[str, Sequence[str]] = {
    "q": ("query", "q_proj", "q_lin", "query_proj", "q", "q_a_proj", "q_b_proj"),
    "k": ("key", "k_proj", "k_lin", "key_proj", "k"),
    "v": ("value", "v_proj", "v_lin", "value_proj", "v"),
    "kv": ("kv_a_proj_with_mqa", "kv_b_proj"),
    "qkv": ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv", "self.in_proj"),
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
    "router": (
        "router",
        "router.layer",
        "router.classifier",
        "mlp.gate",
        "block_sparse_moe.gate",
        "shared_expert_gate",
    ),
}
ROLE_GROUPS: Mapping[str, Sequence[str]] = {
    "attention": ("q", "k", "v", "kv", "qkv", "o"),
    "mlp": ("gate", "up", "gate_up", "down"),
}
# Roles of maps that end in the hidden size; those of the other experts' maps begin there.
_BACK_TO_HIDDEN = ("down", "o")
# A ParametrizationList is how torch keeps the normed weights of a convolution.
_NO_MAPS = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, ParametrizationList)


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
    """Every linear map, norm and expert parameter of a model with its role and depth, in the model's order.

    The output layer of a language model is no site. A decoder's depth goes on where that of its
    encoder ends.

    Args:
        module: Any transformer; meta tensors are fine.
        exclude: Modules that are no sites, insides included (the task head).
    """
    found: list[Site] = []
    for name, child in _inside(module, exclude):
        site = _site(name, child)
        found += [site] if site is not None else _expert_sites(name, child, module)
    if any(site.kind == "parameter" for site in found):
        found = [site for site in found if not (site.kind == "linear" and _taken_for_expert(site, module))]
    return _with_depths(found)


def unreachable(module: nn.Module, sites: Iterable[Site], *, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of weight matrices that are no sites, nor embeddings, convolutions, head or output layer.

    Layer numbers are folded: `h.*.router.weight`. The maps that `peft` would take for experts are among them.
    """
    known = {site.name for site in sites}
    found = []
    for name, child in _inside(module, exclude):
        if name in known or isinstance(child, _NO_MAPS) or "embedding" in type(child).__name__.lower():
            continue
        for own, parameter in child.named_parameters(recurse=False):
            full = f"{name}.{own}" if name else own
            words = own.split("_")
            is_vector = "bias" in words or words[-1] in ("emb", "token")  # of one, whatever its shape
            if parameter.ndim >= 2 and parameter.is_floating_point() and full not in known and not is_vector:
                found.append(_LAYER.sub(".*.", full))
    return tuple(dict.fromkeys(found))


def _inside(module: nn.Module, exclude: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the base model by name."""
    output_layer = cast(Any, getattr(module, "get_output_embeddings", lambda: None))()
    for name, child in module.named_modules():
        excluded = any(f"{name}.".startswith(f"{other}.") for other in exclude)
        if not excluded and child is not output_layer:
            yield name, child


def _site(name: str, module: nn.Module) -> Site | None:
    shape = map_shape(module)
    if shape is not None:
        kind, n_in, n_out = shape
    elif "norm" in type(module).__name__.lower() and getattr(getattr(module, "weight", None), "ndim", 0) == 1:
        kind, n_in = "norm", cast(torch.Tensor, module.weight).numel()
        n_out = n_in
    else:
        return None
    return Site(
        name=name,
        layer=_layer(name),
        role="norm" if kind == "norm" else _role(name, n_in, n_out),
        kind=kind,
        in_features=n_in,
        out_features=n_out,
        has_bias=getattr(module, "bias", None) is not None,
        quantised=is_quantised(module),
    )


def _expert_sites(name: str, module: nn.Module, model: nn.Module) -> list[Site]:
    """The experts of a layer that are kept in one parameter each for what they do.

    Shape (experts, out, in), or (experts, in, out) by the module's flag `is_transposed`; Llama 4 has
    no flag and stores them like that, which the hidden size tells.
    """
    found = []
    for own, parameter in module.named_parameters(recurse=False):
        role = known_role(f"{name}.{own}")
        if parameter.ndim == 3 and role is not None and role in ROLE_GROUPS["mlp"]:
            copies, *sides = parameter.shape
            n_in, n_out = sides if _is_transposed(module, sides, role=role, model=model) else sides[::-1]
            found.append(
                Site(
                    name=f"{name}.{own}",
                    layer=_layer(f"{name}.{own}"),
                    role=role,
                    kind="parameter",
                    in_features=n_in,
                    out_features=n_out,
                    has_bias=getattr(module, f"{own}_bias", None) is not None,
                    copies=copies,
                )
            )
    return found


def _is_transposed(module: nn.Module, sides: Sequence[int], *, role: str, model: nn.Module) -> bool:
    flag = getattr(module, "is_transposed", None)
    if flag is not None:
        return bool(flag)
    config = cast(Any, getattr(model, "config", None))
    hidden = getattr(config.get_text_config(), "hidden_size", None) if config is not None else None
    return sides[1 if role in _BACK_TO_HIDDEN else 0] == hidden and sides[0] != sides[1]


def _taken_for_expert(site: Site, model: nn.Module) -> bool:
    """Whether `peft` would read this map's name as that of experts, which are one parameter by now.

    It rewrites LoRA configs for the checkpoints of older transformers versions by the last name
    alone: `shared_expert.up_proj`, a map of its own, becomes all `gate_up_proj` (peft 0.21.2).
    """
    config = LoraConfig(target_modules=[site.name])
    try:
        convert_peft_config_for_transformers(config, model=model, conversions=None)
    except ValueError:  # one half of a fused pair
        return True
    return set(config.target_modules) != {site.name}


def _layer(name: str) -> int | None:
    depth = _LAYER.search(name)
    return int(depth[1]) if depth else None


def _with_depths(sites: Sequence[Site]) -> tuple[Site, ...]:
    """A decoder beside an encoder is further down: its layers count on from the encoder's."""
    encoder = [site.layer for site in sites if "encoder" in site.name.split(".") and site.layer is not None]
    offset = max(encoder) + 1 if encoder else 0
    return tuple(
        site
        if site.layer is None or "decoder" not in site.name.split(".") or not offset
        else replace(site, layer=site.layer + offset)
        for site in sites
    )


def known_role(name: str) -> str | None:
    """By the usual names; BERT's `output.dense` is told apart by what holds it."""
    parts = name.split(".")
    endings = {parts[-1], ".".join(parts[-2:])}
    for role, known in _ROLE_ENDINGS.items():
        if endings.intersection(known):
            return role
    if name.endswith("output.dense"):
        return "o" if "attention" in name else "down"
    return None


def _role(name: str, n_in: int, n_out: int) -> str:
    """By its name, else by its shape."""
    known = known_role(name)
    if known is not None:
        return known
    if not _LAYER.search(name) or n_in == n_out:
        return "dense"
    return "up" if n_out > n_in else "down"
