"""Lists the target modules of a model: linear layers, norms and stacked experts."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import nn

from autopeft.model.attaching import rewrites_targets
from autopeft.model.components import components, is_norm
from autopeft.model.linear_layers import is_quantized, linear_shape, output_layer_names, role_by_name, role_of
from autopeft.types import ROLE_GROUPS, Component, Target, layer_name
from autopeft.types.plans import LAYER

# Roles of layers whose outputs have the hidden size; in other layers of experts the inputs have it.
_BACK_TO_HIDDEN = ("down", "o")
# Models in stages restart the count of blocks in each: `layers.2.blocks.0` (Swin), `stages.2.layers.0`
# (ConvNeXt), `block.2.0` (SegFormer). A T5 has sub-layers in `block.2.layer.0`.
_BLOCK = re.compile(r"\.(?:stages\.(\d+)\.(?:blocks|layers)|layers\.(\d+)\.blocks|blocks?\.(\d+))\.(\d+)\.")
_AFTER_BLOCKS = 10**6  # the block number of a layer between two stages


def untrained_modules(module: nn.Module, untrained: Iterable[str], *, head: Sequence[str]) -> tuple[str, ...]:
    """List linear layers and norms outside the head without weights, such as a pooler."""
    parents = dict.fromkeys(name.rpartition(".")[0] for name in sorted(untrained))
    outside = [name for name in parents if not f"{name}.".startswith(tuple(f"{h}." for h in head))]
    return tuple(name for name in outside if _target(name, module.get_submodule(name)) is not None)


def list_targets(
    module: nn.Module,
    *,
    exclude: Sequence[str] = (),
    parts: Mapping[str, Component] | None = None,
) -> tuple[Target, ...]:
    """List linear layers, norms and stacked experts with role and depth, in model order.

    Not listed are the output layer of a language model, routers, layers that `peft` refuses, and what is in
    modules of `exclude`, such as the task head. The numbers of a decoder's layers continue those of its
    encoder, as do those of several lists of layers in modules of one class. `parts` are the `components` of
    the model. Meta tensors are fine.
    """
    parts = components(module) if parts is None else parts
    targets: list[Target] = []
    for name, child in _base_modules(module, exclude):
        found = _target(name, child)
        targets += [
            _with_component(target, parts)
            for target in ([found] if found is not None else _expert_targets(name, child, module))
        ]
    linear = [target for target in targets if target.kind == "linear"]
    rewritten = {end for end in {_last_part(t.name) for t in linear} if rewrites_targets({end}, module)}
    refused = {target.name for target in linear if _is_refused(target.name, module)}
    targets = [
        replace(target, by_weight=target.kind == "linear" and _last_part(target.name) in rewritten)
        for target in targets
        if target.name not in refused and target.component != "router"
    ]
    return _with_depths(targets, module)


def _with_component(target: Target, parts: Mapping[str, Component]) -> Target:
    """Return a target with its component; the roles of a recurrent part are its inputs and outputs."""
    owner = target.name.rpartition(".")[0] if target.kind == "parameter" else target.name
    component = parts.get(owner, "other")
    role = target.role
    if component == "recurrent" and target.kind != "norm":
        role = "in_proj" if "in_proj" in owner else "out_proj" if role == "o" else "dense"
    return replace(target, component=component, role=role)


def _base_modules(module: nn.Module, exclude: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules, except excluded ones and a language model's output layer.

    The output layer of torch's MultiheadAttention is left out too: the attention reads its weight directly,
    so an adapter there would do nothing.
    """
    attentions = [name for name, child in module.named_modules() if isinstance(child, nn.MultiheadAttention)]
    names = (*exclude, *output_layer_names(module), *(f"{name}.out_proj" for name in attentions))
    starts = tuple(f"{name}." for name in names)
    for name, child in module.named_modules():
        if not f"{name}.".startswith(starts):
            yield name, child


def _target(name: str, module: nn.Module) -> Target | None:
    """Make the target of a linear layer or norm, without its depth; else None."""
    shape, weight = linear_shape(module), getattr(module, "weight", None)
    if shape is None and isinstance(weight, nn.Parameter) and _is_plain_norm(module) and weight.ndim == 1:
        shape = "norm", weight.numel(), weight.numel()
    if shape is None:
        return None
    kind, n_in, n_out = shape
    role = "norm" if kind == "norm" else role_of(name, n_in, n_out)
    if role == "router":
        return None  # most return the indices of experts too, which no adapter takes
    return Target(
        name=name,
        layer=None,
        role=role,
        kind=kind,
        in_features=n_in,
        out_features=n_out,
        has_bias=getattr(module, "bias", None) is not None,
        quantized=is_quantized(module),
    )


def _is_plain_norm(module: nn.Module) -> bool:
    """Return whether a module normalizes the last dimension of each position by itself.

    Batch norms keep statistics, which stay frozen. Adapters scale the last dimension, and group norms have
    their channels in the second one, as have some layer norms of models of images.
    """
    is_channels_first = (
        isinstance(module, nn.GroupNorm) or getattr(module, "data_format", "") == "channels_first"
    )
    return is_norm(module) and not hasattr(module, "running_mean") and not is_channels_first


def _expert_targets(name: str, module: nn.Module, model: nn.Module) -> list[Target]:
    """Make the targets of experts that are stacked in one parameter by role.

    The shape is (experts, out, in), or (experts, in, out) by the module's flag `is_transposed`. Llama 4 uses
    the latter without a flag; there the hidden size decides.
    """
    targets = []
    for parameter_name, parameter in module.named_parameters(recurse=False):
        full_name = f"{name}.{parameter_name}"
        role = role_by_name(full_name)
        if parameter.ndim != 3 or role is None or role not in ROLE_GROUPS["mlp"]:
            continue
        copies, *sides = parameter.shape
        is_transposed = getattr(module, "is_transposed", None)
        if is_transposed is None:
            config = cast(Any, getattr(model, "config", None))
            hidden = None if config is None else getattr(config.get_text_config(), "hidden_size", None)
            is_transposed = sides[1 if role in _BACK_TO_HIDDEN else 0] == hidden and sides[0] != sides[1]
        n_in, n_out = sides if is_transposed else sides[::-1]
        targets.append(
            Target(
                name=full_name,
                layer=None,
                role=role,
                kind="parameter",
                in_features=n_in,
                out_features=n_out,
                has_bias=getattr(module, f"{parameter_name}_bias", None) is not None,
                copies=copies,
            )
        )
    return targets


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _is_refused(name: str, model: nn.Module) -> bool:
    """Return whether `peft` refuses LoRA at a layer: Mamba's kernels read that of `out_proj`."""
    config = LoraConfig(target_modules=[name])
    try:
        LoraModel._check_target_module_compatiblity(None, config, model, _last_part(name))
    except ValueError:
        return True
    return False


def _with_depths(targets: Sequence[Target], module: nn.Module) -> tuple[Target, ...]:
    """Number the layers of target modules; a decoder's numbers continue its encoder's.

    So do those of later lists of layers in a module of the same class: CANINE has three encoders.
    """
    numbers = layer_numbers([target.name for target in targets])
    # The module that holds a list of layers: `bert.encoder` of `bert.encoder.layer.3.output`.
    parents = {name: ".".join((layer_name(name) or "").split(".")[:-2]) for name in numbers}
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    for parent in dict.fromkeys(parents.values()):
        is_decoder, kind = "decoder" in parent.split("."), type(module.get_submodule(parent))
        before = [
            end
            for lower, end in ends.items()
            if type(module.get_submodule(lower)) is kind or (is_decoder and "encoder" in lower.split("."))
        ]
        starts[parent] = max(before, default=0)
        ends[parent] = starts[parent] + 1 + max(n for name, n in numbers.items() if parents[name] == parent)
    return tuple(
        replace(target, layer=numbers[target.name] + starts[parents[target.name]])
        if target.name in numbers
        else target
        for target in targets
    )


def layer_numbers(names: Iterable[str]) -> dict[str, int]:
    """Number the layers of modules by name; blocks of stages are one sequence.

    A layer between two stages belongs to the last block before it; modules outside the layers are left out.

    Example:
        >>> layer_numbers(["bert.layer.0.q", "bert.layer.1.q", "pooler"])
        {'bert.layer.0.q': 0, 'bert.layer.1.q': 1}
        >>> layer_numbers(["m.layers.0.blocks.1.q", "m.layers.0.downsample.out", "m.layers.1.blocks.0.q"])
        {'m.layers.0.blocks.1.q': 0, 'm.layers.0.downsample.out': 0, 'm.layers.1.blocks.0.q': 1}
    """
    numbers = {name: int(match[1]) for name in names if (match := LAYER.search(name))}
    decoder = {name: number for name, number in numbers.items() if "decoder" in name.split(".")}
    in_stages = {name: block for name in numbers if name not in decoder and (block := _BLOCK.search(name))}
    if not in_stages:
        return numbers
    places = {name: (number, _AFTER_BLOCKS) for name, number in numbers.items() if name not in decoder}
    places |= {name: (int(b[1] or b[2] or b[3]), int(b[4])) for name, b in in_stages.items()}
    blocks = sorted({place for place in places.values() if place[1] < _AFTER_BLOCKS})
    return decoder | {name: max(0, bisect_right(blocks, place) - 1) for name, place in places.items()}
