"""Attaches adapters to a model, saves, loads, merges and removes them."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autopeft.errors import SpecError
from autopeft.model.light_layers import lighten
from autopeft.plugins import MIXES_SINCE_PEFT, missing_in_peft
from autopeft.store import read_record, sync_files

_TASK_TYPES = {  # by the ending of a class of transformers
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",  # of models that read images too: CAUSAL_LM
}
WEIGHTS = "adapter_model.safetensors"
_MOST_ENDINGS = 12  # in a list of targets; hybrids such as Jamba have 9 to 11; heuristic
# Warnings of a deprecated name that peft asks for, of a mix of methods, and of one on norms.
_HARMLESS = (
    "`is_gradient_checkpointing`",
    "Already found a `peft_config`",
    "Unsupported layer type",
    "The following (rank|alpha)_pattern keys",  # peft 0.21.2 does not look for them in target_parameters
)


def attach(
    module: nn.Module,
    configs: Sequence[PeftConfig],
    *,
    task_type: str | None,
    head_names: Sequence[str],
    lightened: bool = True,
) -> PeftModel:
    """Attach the adapters of a plan, in order, and make the task head trainable; this changes `module`.

    With `lightened`, layers of `peft` are replaced by those of `light_layers`, which take less memory.
    """
    stack = for_task(configs, module, task_type=task_type, head_names=head_names)
    adapted = attach_configs(module, stack, names=adapter_names(stack))
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()  # peft took the format of a 4-bit layer's bias
    # Each injection activates its own name in the head's wrapper and in all layers of its tuner, even if
    # they have another adapter. The head and the earlier of two LoRA configs would then count, but not be
    # trained (peft 0.21.2).
    for layer in adapted.modules():
        if isinstance(layer, ModulesToSaveWrapper):
            layer.set_adapter(list(layer.modules_to_save))
        elif isinstance(layer, BaseTunerLayer):
            held = {name for kind in layer.adapter_layer_names for name in getattr(layer, kind)}
            layer.set_adapter(sorted(held))
    if lightened:
        lighten(adapted)
    return adapted


def attach_configs(
    module: nn.Module,
    configs: Sequence[PeftConfig],
    *,
    names: Sequence[str],
    context_of: Callable[[PeftConfig], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> PeftModel:
    """Attach configs of `for_task`: the first makes a `PeftModel`, others are injected.

    `names` are the adapters' names inside the model. `context_of` returns the context in which `peft` makes
    the tensors of a config. Raises SpecError for several configs if the installed `peft` takes one.
    """
    if len(configs) > 1 and (missing := missing_in_peft("A plan of several peft configs", MIXES_SINCE_PEFT)):
        raise SpecError(missing)
    adapted: PeftModel | None = None
    for config, name in zip(configs, names, strict=True):
        with context_of(config), warnings.catch_warnings():
            for message in _HARMLESS:
                warnings.filterwarnings("ignore", message=message)
            if adapted is None:
                adapted = peft.get_peft_model(module, config, adapter_name=name)
            else:
                peft.inject_adapter_in_model(config, module, name)
    assert adapted is not None, "there is at least one config"
    return adapted


def for_task(
    configs: Sequence[PeftConfig],
    module: nn.Module | None,
    *,
    task_type: str | None,
    head_names: Sequence[str],
) -> list[PeftConfig]:
    """Copy configs, one for the head alone if there are none; add task and head to the first.

    If `module` is passed, a LoRA config names its targets by at most twelve endings, such as q_proj, that
    match no other module. If that needs more, or `peft` would rewrite them, it keeps its pattern, or has full
    names if `peft` would rewrite that too.
    """
    copies: list[Any] = [copy.deepcopy(config) for config in configs] or [head_only_config()]
    for config in copies:
        pattern = config.target_modules if isinstance(config, LoraConfig) else None
        if module is None or not isinstance(pattern, str):
            continue
        modules = [name for name, _ in module.named_modules()]
        targets = {name for name in modules if re.fullmatch(pattern, name)}
        endings = set(plain_names(targets, modules))
        if 0 < len(endings) <= _MOST_ENDINGS and not rewrites_targets(endings, module):
            config.target_modules = sorted(endings)  # peft writes a set in another order each time
        elif rewrites_targets(pattern, module):
            config.target_modules = sorted(targets) or pattern  # "all-linear" matches no name
        if getattr(config, "target_parameters", None):
            config.target_parameters = plain_names(config.target_parameters, dict(module.named_parameters()))
    copies[0].task_type, copies[0].modules_to_save = task_type, list(head_names) or None
    return copies


def task_type_of(module: nn.Module) -> str | None:
    """Return `peft`'s task type of a model by the names of its classes, else None."""
    for kind in type(module).__mro__:
        for ending, task_type in _TASK_TYPES.items():
            if kind.__name__.endswith(ending):
                is_encoder_decoder = getattr(module.config, "is_encoder_decoder", False)
                return "CAUSAL_LM" if task_type == "SEQ_2_SEQ_LM" and not is_encoder_decoder else task_type
    return None


def plain_names(targets: Collection[str], modules: Iterable[str]) -> list[str]:
    """List the shortest endings of names that match the targets and no other module.

    Example:
        >>> plain_names(["h.0.q", "h.1.q", "h.0.o.dense"], ["h.0.q", "h.1.q", "h.0.o.dense", "h.0.dense"])
        ['o.dense', 'q']
    """

    def endings(name: str) -> list[str]:
        path = name.split(".")
        return [".".join(path[start:]) for start in reversed(range(len(path)))]

    n_targets = Counter(ending for target in targets for ending in endings(target))
    n_modules = Counter(ending for name in modules for ending in endings(name))
    return sorted({next((e for e in endings(s) if n_modules[e] == n_targets[e]), s) for s in targets})


def adapter_names(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """Return the names of adapters inside the model: `default`, or `ia3_0`, `lora_1` ….

    `peft` saves `default` in the folder itself and any other name in a folder of that name. Without the
    number `peft` would warn, since the name is part of a tuner's prefix.
    """
    if len(configs) <= 1:
        return ("default",)
    return tuple(f"{config.peft_type.value.lower()}_{index}" for index, config in enumerate(configs))


def head_only_config() -> LoraConfig:
    """Make a config that adapts no module, for a plan that trains the task head alone."""
    return LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES)


def rewrites_targets(targets: str | set[str], module: nn.Module) -> bool:
    """Return whether `peft` rewrites LoRA targets (names or a pattern) of this model type.

    Mixtral, Qwen-MoE, OLMoE and others once had a module for each expert and now have one parameter for all.
    For these model types `peft` 0.21.2 treats every config as one of an older checkpoint and keeps the last
    component of each name: one layer's q_proj becomes the q_proj of all layers.
    """
    config = LoraConfig(target_modules=targets)
    try:
        rewrite_targets(config, module)
    except ValueError:  # peft misses the other half of a fused pair
        return True
    return bool(config.target_modules != targets)


def rewrite_targets(config: PeftConfig, module: nn.Module) -> None:
    """Rewrite a config in place as `peft` does to attach it; `peft` 0.18 leaves it as it is.

    Raises ValueError if the config names half of a pair of modules that transformers fused.
    """
    try:
        conversion = importlib.import_module("peft.utils.transformers_weight_conversion")
    except ModuleNotFoundError:
        return
    conversion.convert_peft_config_for_transformers(config, model=module, conversions=None)


def note_state(root: nn.Module) -> Callable[[], None]:
    """Return a function that restores modules, hooks, flags and gradients of a model.

    `peft`'s `unload()` leaves trained copies of `modules_to_save` in the base model (peft 0.21.2); the
    original objects hold none. Parameters are restored in their order too: LoRA on a parameter takes it out
    and in again at every forward, and a safe merge gives it another tensor.
    """
    modules = list(root.modules())
    modes = [(module, module.training) for module in modules]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in root.parameters()]
    names = ("_modules", "_parameters", "_forward_pre_hooks", "_forward_hooks")
    contents = [getattr(module, name) for module in modules for name in names]
    copies = [(content, dict(content)) for content in contents]
    plain = (parameter for parameter in root.parameters() if type(parameter) is nn.Parameter)
    tensors = [(parameter, parameter.data) for parameter in plain]  # no copies
    attributes = set(vars(root))

    def restore() -> None:
        for content, original in copies:
            content.clear()
            content.update(original)
        for module, is_training in modes:
            module.training = is_training
        for parameter, tensor in tensors:
            if parameter.data_ptr() != tensor.data_ptr():
                parameter.data = tensor
        for name in set(vars(root)) - attributes:
            delattr(root, name)
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient

    return restore


def save_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Write adapters and head of a trained plan to a folder; several get sub-folders, and an `order.json`."""
    for name in names:
        config = model.peft_config[name]
        if getattr(config, "modules_to_save", None):  # peft adds names of heads that are there already
            config.modules_to_save = list(dict.fromkeys(config.modules_to_save))
        # Without an explicit False, peft would ask the hub for the base model's vocabulary.
        model.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty template of a model card
    if len(names) > 1:
        (folder / "order.json").write_text(json.dumps(list(names)) + "\n", encoding="utf-8")
    sync_files(folder)


def load_weights(model: PeftModel, names: Sequence[str], folder: Path) -> None:
    """Load what `save_weights` wrote; raise SpecError for a missing file or the tensors of another plan."""
    for name in names:
        path = folder / name if len(names) > 1 else folder
        stored = read_weights(path)
        if stored is None:
            raise SpecError(f"{path / WEIGHTS} does not exist; pass the folder of this plan's weights.")
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        require_shapes(stored, state, path=path)
        set_peft_model_state_dict(model, stored, adapter_name=name)


def read_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """Read the tensors of an adapter's folder by name; None if it has no file of weights.

    Raises SpecError if the file is damaged or a pickle, or has numbers that are not finite.
    """
    path = folder / WEIGHTS
    if not path.exists():
        if (pickle := folder / "adapter_model.bin").exists():
            raise SpecError(
                f"{pickle} is a pickle, which can run code when it is read; if you trust it, load it with "
                f"peft and save it again, which writes {WEIGHTS}."
            )
        return None
    try:
        tensors = dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise SpecError(f"{path} is damaged ({error}); it must be a file that safetensors wrote.") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise SpecError(f"{name} in {path} is not finite; train it again at a lower learning rate.")
    return tensors


def require_shapes(
    stored: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, path: Path
) -> None:
    """Raise SpecError if tensors from `path` have other names or shapes than an adapter's."""
    for key in sorted({*stored, *expected}):
        held, needed = (
            " × ".join(map(str, tensors[key].shape)) if key in tensors else "nothing"
            for tensors in (stored, expected)
        )
        if held != needed:
            raise SpecError(
                f"The weights in {path} have {held} as {key}, the config needs {needed}; use the config and "
                "weights of one adapter, and --model with its base model."
            )


def modules_kept_whole(folder: Path) -> frozenset[str]:
    """Read the `modules_to_save` of all adapter configs in a folder or one below it."""
    files = [file for pattern in ("", "*/") for file in folder.glob(f"{pattern}adapter_config.json")]
    configs = [read_record(file, dict[str, Any], remedy="train the adapter again") for file in files]
    return frozenset(name for config in configs for name in config.get("modules_to_save") or ())


def merge(model: PeftModel) -> nn.Module:
    """Merge adapters and trained head into the base model; return it, `model` is used up.

    Layers with an unloading method of their own are merged first. For heads of several layers and for
    experts in one parameter, another tuner of `peft` 0.21.2 would look for a `weight` that they do not have.
    Raises NotImplementedError, AttributeError or SpecError for an adapter that does not change weights.
    """
    inner = model.get_base_model()
    was_tied = getattr(cast(Any, inner).config, "tie_word_embeddings", False)
    for layer in inner.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "merge"):
            cast(Any, layer).merge = partial(_merge_in_float32, layer, layer.merge)
    unloaded: tuple[str, ...] = ()
    for name, layer in list(inner.named_modules()):
        if hasattr(layer, "unload_and_optionally_merge_module") and not name.startswith(unloaded):
            parent, _, child = name.rpartition(".")
            plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
            setattr(inner.get_submodule(parent), child, plain)
            unloaded = (*unloaded, f"{name}.")
    merged = cast(Any, model.merge_and_unload(safe_merge=True))
    # peft declares T5Gemma untied, whose output layer has the weight of the decoder's embeddings.
    if was_tied and all(
        merged.get_parameter(name).data_ptr() == merged.get_parameter(source).data_ptr()
        for name, source in merged.all_tied_weights_keys.items()
    ):
        merged.config.tie_word_embeddings = True
    return cast(nn.Module, merged)


def _merge_in_float32(layer: BaseTunerLayer, merge: Callable[..., None], *args: Any, **settings: Any) -> None:
    """Merge a layer in float32, so that 16-bit weights are rounded once."""
    narrow = {
        name: parameter.dtype
        for name, parameter in layer.get_base_layer().named_parameters()
        if parameter.dtype in (torch.bfloat16, torch.float16)
    }
    for name in narrow:
        parameter = layer.get_base_layer().get_parameter(name)
        parameter.data = parameter.data.float()
    merge(*args, **settings)
    for name, dtype in narrow.items():  # looked up again, as the merge may have replaced parameters
        parameter = layer.get_base_layer().get_parameter(name)
        parameter.data = parameter.data.to(dtype)
