"""Finds the component of each module, such as attention or recurrent, and the topology of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from autopeft.model.linear_layers import linear_shape, output_layer_names, role_of
from autopeft.types import ROLE_GROUPS, Component, layer_name

_LANGUAGE_MODELS = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM", "MTModel")
_TASK_MODELS = ("Classification", "MultipleChoice")  # in names: PerceiverForImageClassificationLearned
_HEADS = ("classifier", "score", "head")

# What the classes of transformers are called, after the name of their model, in the order of the test:
# `JambaTopKRouter` is a TopKRouter, and `KimiLinearAttention` an Attention.
_CLASSES: tuple[tuple[re.Pattern[str], Component], ...] = (
    (re.compile(r"Router|TopK|Gating$|Mo[eE]\w*Gate$"), "router"),
    (re.compile(r"Shared\w*Expert"), "shared_expert"),
    (re.compile(r"Expert"), "routed_experts"),
    (re.compile(r"Mamba|SSM|DeltaNet|(?:Delta|Lightning|Linear)Attention|ShortConv$"), "recurrent"),
    (re.compile(r"RecurrentBlock|Rglru"), "recurrent"),
    (re.compile(r"Indexer"), "other"),  # picks the positions that sparse attention reads; trained apart
    (re.compile(r"Attention|Attn"), "attention"),
    (re.compile(r"MLP|Mlp|FeedForward|FFN|Ffn|LayerFF|Dense(?:Gated)?Act|Intermediate|Pooler"), "mlp"),
    (re.compile(r"Embed"), "embedding"),
)
# Parameters of a recurrent state: of Mamba and gated delta nets, and of RWKV.
_STATES = ("A_log", "dt_bias", "time_decay")
_LAYERS = re.compile(r"(?:Decoder|Encoder|Hybrid)(?:Layer|Block)$")  # not all are checkpointing layers
_PROJECTORS = re.compile(r"Merger|Projector|Resampler|Connector|Aligner|PixelShuffle")
_MODALITIES: Mapping[str, Component] = {
    "vision": "vision",
    "image": "vision",
    "vq": "vision",
    "audio": "audio",
}
_TRANSPARENT = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The component of a module, and the name of the module whose class or structure shows it."""

    component: Component
    owner: str


def components(model: nn.Module) -> dict[str, Component]:
    """Return the component of each module that holds parameters, in model order.

    Classes and structure decide: the innermost module around it that is an attention, a router and so on.
    Names of leaves decide only in layers that hold linear layers of their own, such as OPT's `fc1`. Meta
    tensors are fine.
    """
    return {name: place.component for name, place in _places(model).items()}


def topology(model: nn.Module) -> str:
    """Return how the model is built, such as `sequential hybrid, mixture of experts`.

    A hybrid is parallel if attention and recurrent part are next to each other in one module, which gives
    both the same input.
    """
    places = _places(model).values()
    parents: dict[str, set[str]] = {"attention": set(), "recurrent": set()}
    for place in places:
        if place.component in parents and layer_name(f"{place.owner}.") is not None:
            parents[place.component].add(place.owner.rpartition(".")[0])
    if not parents["recurrent"]:
        words = ["dense"]
    elif not parents["attention"]:
        words = ["recurrent"]
    elif parents["attention"].isdisjoint(parents["recurrent"]):
        words = ["sequential hybrid"]
    else:
        words = ["parallel hybrid"]
    found = {place.component for place in places}
    if "routed_experts" in found:
        words = [*(words if parents["recurrent"] else ()), "mixture of experts"]
    words += [f"{kind}-language" for kind in ("vision", "audio") if kind in found]
    return ", ".join(words)


def sizes_of(model: nn.Module, parts: Mapping[str, Component]) -> dict[Component, tuple[int, int]]:
    """Count the modules and plain parameters of each component, the largest component first.

    Outside the component `norm` only modules with a matrix count, so that attention has its linear layers.
    """
    sizes: dict[Component, tuple[int, int]] = {}
    seen: set[int] = set()  # tied weights count once
    for name, component in parts.items():
        module = model.get_submodule(name)
        own = list(module.parameters(recurse=False))
        tensors = [tensor for tensor in own if id(tensor) not in seen]
        seen.update(map(id, tensors))
        has_matrix = any(sum(size > 1 for size in tensor.shape) > 1 for tensor in own)
        is_counted = has_matrix or component == "norm" or linear_shape(module) is not None
        n_modules, total = sizes.get(component, (0, 0))
        sizes[component] = (n_modules + is_counted, total + sum(tensor.numel() for tensor in tensors))
    return dict(sorted(sizes.items(), key=lambda item: -item[1][1]))


def head_names(module: nn.Module) -> tuple[str, ...]:
    """List the modules of a task model that make up its head.

    1. A language model has none: its output layer was pretrained with the base model and belongs to it.
    2. A timm model inside its wrapper of transformers names its head itself.
    3. Otherwise the head is what is next to the base model and has parameters. CLIP's and SigLIP's image
       classifiers have the base model under another name than `base_model_prefix`.
    """
    prefix = getattr(module, "base_model_prefix", "")
    if type(module).__name__.endswith(_LANGUAGE_MODELS):
        return ()
    if is_task_model(module) and hasattr(getattr(module, prefix, None), "get_classifier"):
        classifiers = cast(Any, module.get_submodule(prefix)).get_classifier()
        if not isinstance(classifiers, list | tuple):  # a distilled model returns two
            classifiers = [classifiers]
        named = [entry for entry in module.named_modules() if any(entry[1] is c for c in classifiers)]
    else:
        named = [(name, child) for name, child in module.named_children() if name != prefix]
        if prefix not in dict(module.named_children()):
            return tuple(name for name, _ in named if name in _HEADS and is_task_model(module))
    return tuple(name for name, child in named if any(True for _ in child.parameters()))


def is_task_model(module: nn.Module) -> bool:
    """Return whether a model has a head for a task, by the name of its class."""
    return any(task in type(module).__name__ for task in _TASK_MODELS)


def _places(model: nn.Module) -> dict[str, _Place]:
    """Find the component of each module with parameters of its own, and of packed linear layers."""
    modules = dict(model.named_modules())
    sections = _sections(model, modules)
    prefixes = _class_prefixes(modules)
    places: dict[str, _Place] = {}
    for name, module in modules.items():
        if not any(True for _ in module.parameters(recurse=False)) and linear_shape(module) is None:
            continue
        ancestors = [name, *_parents(name)]
        section = next((sections[parent] for parent in ancestors if parent in sections), None)
        if section in ("vision", "audio") and any(
            _PROJECTORS.search(type(modules[a]).__name__) for a in ancestors
        ):
            section = "projector"
        if section is not None:
            places[name] = _Place(component=section, owner=name)
        elif isinstance(module, nn.Embedding):
            places[name] = _Place(component="embedding", owner=name)
        else:
            places[name] = _by_ancestors(name, modules, prefixes)
    return _with_experts(places, modules)


def _parents(name: str) -> Iterator[str]:
    """Yield the names of the modules around a module, from the inside out; the last one is empty."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _sections(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, Component]:
    """Return the modules whose whole content is one component: head, towers and projectors.

    A tower is a model of images or audio inside a model that also has one of text: its config is another one
    than the whole model's. What is next to a tower and is not a model of text is a projector.
    """
    sections: dict[str, Component] = dict.fromkeys(head_names(model), "head")
    for name in output_layer_names(model):
        top = name.partition(".")[0]  # BERT's `cls` holds more than the output layer
        sections[name if isinstance(modules[top], PreTrainedModel) else top] = "head"
    of_config = _modalities_of_configs(getattr(model, "config", None))
    towers: dict[str, Component] = {}
    for name, child in modules.items():
        if not isinstance(child, PreTrainedModel) or type(child.config) is type(model.config):
            continue
        modality = of_config.get(type(child.config))
        if modality and not any(parent in towers for parent in _parents(name)):
            towers[name] = modality
    models = {name for name, child in modules.items() if isinstance(child, PreTrainedModel)}
    around = {parent for name in towers for parent in _parents(name)}
    if all(name in around or not towers.keys().isdisjoint((name, *_parents(name))) for name in models):
        return sections  # a model of images or audio alone: its layers are attention and so on
    for holder in {name.rpartition(".")[0] for name in towers}:
        for child_name, child in modules[holder].named_children():
            is_model = any(isinstance(each, PreTrainedModel) for each in child.modules())
            if not is_model and not isinstance(child, nn.Embedding):
                sections.setdefault(f"{holder}.{child_name}".lstrip("."), "projector")
    return sections | towers


def _modalities_of_configs(config: Any) -> dict[type, Component]:
    """Return the modality of each type of sub-config, from names such as `vision_config`."""
    found: dict[type, Component] = {}
    for name in getattr(config, "sub_configs", None) or ():
        if (part := getattr(config, name, None)) is None:
            continue
        modality = next((value for word, value in _MODALITIES.items() if word in name), None)
        found |= {type(part): modality} if modality else _modalities_of_configs(part)
    return found


def _class_prefixes(modules: Mapping[str, nn.Module]) -> re.Pattern[str]:
    """Match what names of classes begin with in this model: `KimiLinear` of `KimiLinearConfig`."""
    configs = {
        type(child.config).__name__ for child in modules.values() if isinstance(child, PreTrainedModel)
    }
    names = sorted((name.removesuffix("Config") for name in configs), key=len, reverse=True)
    return re.compile("|".join(f"^{re.escape(name)}" for name in names) or "^$")


def _by_ancestors(name: str, modules: Mapping[str, nn.Module], prefixes: re.Pattern[str]) -> _Place:
    """Find the innermost module around a module that shows its component, up to its layer.

    An MLP inside of experts is one of them.
    """
    found: _Place | None = None
    for owner in (name, *_parents(name)):
        module = modules[owner]
        is_layer = isinstance(module, GradientCheckpointingLayer | PreTrainedModel)
        if is_layer or _LAYERS.search(type(module).__name__):
            break
        component = _shown_by(module, owner, prefixes) if owner != name or not is_norm(module) else None
        if component is not None and (found is None or component == "routed_experts"):
            found = _Place(component=component, owner=owner)
        if found is not None and found.component != "mlp":
            break
    if found is None or (found.component == "embedding" and is_norm(modules[name])):
        return _Place(component=_by_role(name, modules), owner=name)
    return found


def _shown_by(module: nn.Module, name: str, prefixes: re.Pattern[str]) -> Component | None:
    """Return the component that the class or structure of a module shows, if any."""
    class_name, leaf = prefixes.sub("", type(module).__name__), name.rpartition(".")[2]
    if "adapter" in leaf:  # inside a block that layers share (Zamba2)
        return "other"
    if _has_state(module, class_name) or "mlstm" in leaf:  # xLSTM's class without its model's name is Layer
        return "recurrent"
    if isinstance(module, nn.ModuleList) and leaf == "experts":
        return "routed_experts"
    return next((component for pattern, component in _CLASSES if pattern.search(class_name)), None)


def _has_state(module: nn.Module, class_name: str) -> bool:
    """Return whether a module keeps a recurrent state, or is a causal convolution of each channel alone."""
    parameters = dict(module.named_parameters(recurse=False))
    if any(name in parameters for name in _STATES):
        return True
    return "Att" not in class_name and any(
        isinstance(child, nn.Conv1d)
        and child.groups == child.in_channels > 1
        and child.padding == (child.kernel_size[0] - 1,)
        for child in module.children()
    )


def is_norm(module: nn.Module) -> bool:
    """Return whether the name of a module's class says that it is a norm."""
    return "norm" in type(module).__name__.lower()


def _by_role(name: str, modules: Mapping[str, nn.Module]) -> Component:
    """Return the component of a module directly in a layer, or in BERT's `output`: by its role there."""
    if is_norm(modules[name]):
        return "norm"
    shape = linear_shape(modules[name])
    if shape is not None and name.endswith("pooler"):  # ALBERT's has no class of its own
        return "mlp"
    if shape is None or layer_name(name) is None:
        return "other"
    parent = next(p for p in _parents(name) if not isinstance(modules[p], _TRANSPARENT))
    if parent.rpartition(".")[2].isdigit() or type(modules[parent]).__name__.endswith("Output"):
        role = role_of(name, *shape[1:])
        if role in ROLE_GROUPS["attention"]:
            return "attention"
        if role in ROLE_GROUPS["mlp"]:
            return "mlp"
    return "other"


def _with_experts(places: dict[str, _Place], modules: Mapping[str, nn.Module]) -> dict[str, _Place]:
    """Correct what is next to experts: MLPs are shared experts, gates with few outputs are routers."""
    owners = {place.owner for place in places.values() if place.component == "routed_experts"}
    layers = {layer_name(f"{owner}.") for owner in owners} - {None}
    blocks = {owner.rpartition(".")[0]: owner for owner in owners}
    for name, place in places.items():
        parent, shape = name.rpartition(".")[0], linear_shape(modules[name])
        is_block = parent in blocks and not parent.rpartition(".")[2].isdigit()  # not the layer itself
        if is_block and shape is not None and place.owner in (name, parent):
            experts = modules[blocks[parent]]
            n_experts = {p.shape[0] for p in experts.parameters() if p.ndim == 3} | {
                len(list(experts.children()))
            }
            is_gate = shape[2] in n_experts | {1}
            places[name] = _Place(component="router" if is_gate else "other", owner=name)
        elif place.component == "mlp" and layer_name(name) in layers and not is_norm(modules[name]):
            places[name] = _Place(component="shared_expert", owner=place.owner)
    return places
