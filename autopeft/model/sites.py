"""Where a model can take adapters: linear maps, norms and experts in one parameter, with role and depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from autopeft.model.roles import ROLE_GROUPS, known_role, role_of
from autopeft.model.shapes import is_quantised, map_shape
from autopeft.records import Site

_LANGUAGE_MODELS = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM", "MTModel")
TASK_MODELS = ("Classification", "MultipleChoice")
_HEADS = ("classifier", "score", "head")
_LAYER = re.compile(r"\.(\d+)\.")
# Roles of maps that end in the hidden size; those of the other experts' maps begin there.
_BACK_TO_HIDDEN = ("down", "o")
# A ParametrizationList is how torch keeps the normed weights of a convolution.
_NO_MAPS = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, ParametrizationList)


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The children with parameters that stand beside the base model inside a task model.

    A language model's output layer is part of the base model: it was pretrained with it. CLIP's and
    SigLIP's image classifiers hold their tower under another name than `base_model_prefix`.
    """
    prefix = getattr(module, "base_model_prefix", "")
    if type(module).__name__.endswith(_LANGUAGE_MODELS):
        return ()
    children = dict(module.named_children())
    if prefix not in children:
        return tuple(
            name for name in _HEADS if name in children and type(module).__name__.endswith(TASK_MODELS)
        )
    return tuple(
        name for name, child in children.items() if name != prefix and any(True for _ in child.parameters())
    )


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
    family = str(getattr(getattr(module, "config", None), "model_type", ""))
    for name, child in _inside(module, exclude):
        site = _site(name, child, family=family)
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
    """The modules of the base model by name.

    Without the output map of torch's own attention, which reads its weight past what is attached there.
    """
    attentions = [name for name, child in module.named_modules() if isinstance(child, nn.MultiheadAttention)]
    exclude = (*exclude, *(f"{name}.out_proj" for name in attentions))
    output_layer = cast(Any, getattr(module, "get_output_embeddings", lambda: None))()
    for name, child in module.named_modules():
        excluded = any(f"{name}.".startswith(f"{other}.") for other in exclude)
        if not excluded and child is not output_layer:
            yield name, child


def _site(name: str, module: nn.Module, *, family: str = "") -> Site | None:
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
        role="norm" if kind == "norm" else role_of(name, n_in, n_out, family=family),
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
