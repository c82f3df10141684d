"""One frozen base model in memory, lent to one plan at a time and taken back as it was."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import peft
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from autopeft.errors import SiteError
from autopeft.model.sites import head_names, list_sites, untrained_modules
from autopeft.records import Adapter, Plan


class BaseModel:
    """One frozen base model in memory, lent to one plan at a time.

    `module` is the model with a task head, on `device`, in fp32; `head_names` are the
    children that hold the head; `base_params` counts the rest, tied weights once.
    """

    def __init__(self, module: nn.Module, tokenizer: Any, *, name: str, untrained: frozenset[str]) -> None:
        """Freeze the module and list its sites.

        Args:
            module: A transformers model with a task head.
            tokenizer: Its tokenizer, or None where only counting is wanted.
            name: What to call the model in reports.
            untrained: Parameter names that the checkpoint lacked. Linear maps and norms among
                them are trained and kept with the head, for every plan alike: at random they
                would differ in every process that loads the base model.
        """
        self.module = module.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.name = name
        self.untrained = untrained
        head = head_names(module)
        self.base_params = _n_params(module) - sum(_n_params(module.get_submodule(name)) for name in head)
        self.head_names = (*head, *untrained_modules(module, untrained, head=head))
        self.head_params = sum(_n_params(module.get_submodule(name)) for name in self.head_names)
        self.sites = list_sites(module, exclude=self.head_names)
        self.model_type = str(getattr(module.config, "model_type", "unknown"))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.module.parameters()).device

    def sha256(self) -> str:
        """Digest of every parameter and buffer, by name; equal exactly where the weights are."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @contextlib.contextmanager
    def attached(
        self, configs: Sequence[PeftConfig], *, plan: Plan, task_type: str, seed: int
    ) -> Iterator[PeftModel]:
        """Lend the base model with a plan's adapters on it, and take it back as it was.

        Args:
            configs: The plan's adapters as `peft` configs; empty for the head alone.
            plan: What the configs stand for; its count is checked against what `peft` attached.
            task_type: `peft`'s word for the task, such as `SEQ_CLS`; it makes `peft` keep the head.
            seed: Decides the adapters' and the head's first values.

        Raises:
            SiteError: `peft` attached something else than the plan says.
        """
        tree = _Tree(self.module)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = _attach(self.module, configs, task_type=task_type, head_names=self.head_names)
                self._initialise_head(model)
            self._check(model, plan)
            yield model
        finally:
            tree.restore()

    def _initialise_head(self, model: PeftModel) -> None:
        """Draw the trained copy of the head anew; the head of the base model is never touched.

        What the checkpoint already held of the head (ModernBERT's pooling layer, say) stays,
        but the output layer is drawn for every seed. Normal(0, initializer_range) as in BERT.
        """
        std = float(getattr(self.module.config, "initializer_range", 0.02))
        n_labels = int(cast(Any, self.module.config).num_labels)
        for name, wrapper in model.base_model.model.named_modules():
            if not isinstance(wrapper, ModulesToSaveWrapper):
                continue
            trained = next(iter(wrapper.modules_to_save.values()))
            for inner, layer in trained.named_modules():
                full = ".".join(part for part in (name, inner, "weight") if part)
                if isinstance(layer, nn.Linear) and (
                    full in self.untrained or layer.out_features == n_labels
                ):
                    nn.init.normal_(layer.weight, std=std)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def _check(self, model: PeftModel, plan: Plan) -> None:
        """Predicted count and attached count are one integer, the head taken off."""
        attached = sum(p.numel() for p in model.parameters() if p.requires_grad) - self.head_params
        if attached != plan.trainable_params:
            raise SiteError(
                f"The plan says {plan.trainable_params:,} trainable parameters, but peft {peft.__version__} "
                f"attached {attached:,} to {self.name}; the plan was made for another model or peft version."
            )


def _n_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _attach(
    module: nn.Module, configs: Sequence[PeftConfig], *, task_type: str, head_names: Sequence[str]
) -> PeftModel:
    """The first config through `get_peft_model`, which also keeps the head; the others injected beside it."""
    chosen = list(configs) or [head_only_config()]
    chosen[0].task_type = task_type
    chosen[0].modules_to_save = list(head_names) or None
    first, *others = adapter_names(chosen)
    model = peft.get_peft_model(module, chosen[0], adapter_name=first)
    for config, name in zip(chosen[1:], others, strict=True):
        peft.inject_adapter_in_model(config, model.base_model.model, name)
    _activate(model)
    return model


def _activate(model: PeftModel) -> None:
    """Let every layer and the head use the adapter that they hold.

    An injection makes its own name the active one in the head's wrapper and in all layers of its
    tuner, also where another name lies: the head and the earlier config of two LoRA configs
    would stand still, and still be counted (seen in peft 0.21.2).
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.set_adapter(list(module.modules_to_save))
        elif isinstance(module, BaseTunerLayer):
            held = {name for kind in module.adapter_layer_names for name in getattr(module, kind)}
            module.set_adapter(sorted(held))


def head_only_config() -> LoraConfig:
    """A config that adapts no module, for a plan that trains the task head alone."""
    return LoraConfig(r=1, target_modules=DUMMY_TARGET_MODULES)


def adapter_names(configs: Sequence[PeftConfig]) -> tuple[str, ...]:
    """What a plan's configs are called inside the model: `default` alone, else `ia3_0`, `lora_1` and so on.

    `peft` saves `default` in the folder itself and any other name in a folder of that name;
    it warns of a name that is contained in a tuner's prefix, hence the number.
    """
    if len(configs) <= 1:
        return ("default",)
    return tuple(f"{config.peft_type.value.lower()}_{index}" for index, config in enumerate(configs))


class _Tree:
    """The module objects of a model and their flags, to put back after `peft` has replaced some.

    `peft`'s own `unload()` leaves trained copies of `modules_to_save` in the base model
    (peft 0.21.2); putting the original objects back cannot.
    """

    def __init__(self, root: nn.Module) -> None:
        self._children = [(module, dict(module._modules), module.training) for module in root.modules()]
        self._attributes = (root, set(vars(root)))
        self._hooks = [
            (module, dict(module._forward_pre_hooks), dict(module._forward_hooks))
            for module in root.modules()
        ]

    def restore(self) -> None:
        for module, children, training in self._children:
            module._modules.clear()
            module._modules.update(children)
            module.training = training
        for module, before, after in self._hooks:
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(before)
            module._forward_hooks.clear()
            module._forward_hooks.update(after)
        root, known = self._attributes
        for name in set(vars(root)) - known:
            delattr(root, name)
        for parameter in root.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None


def check_sites(adapters: Sequence[Adapter], base: BaseModel) -> None:
    """Refuse adapters at sites that the base model lacks, or two at one site.

    Raises:
        SiteError: The message names the site and the nearest ones there are.
    """
    known = {site.name for site in base.sites}
    seen: set[str] = set()
    for adapter in adapters:
        if adapter.site not in known:
            near = [name for name in known if name.split(".")[-1] == adapter.site.split(".")[-1]]
            hint = f"; nearest: {', '.join(sorted(near)[:3])}" if near else ""
            raise SiteError(
                f"{base.name} has no site {adapter.site!r}{hint}. Use the base model of the plan."
            )
        if adapter.site in seen:
            raise SiteError(f"Two adapters share the site {adapter.site!r}; one site takes one method.")
        seen.add(adapter.site)
