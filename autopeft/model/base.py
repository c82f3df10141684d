"""One frozen base model in memory, lent to one plan at a time and taken back as it was."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from autopeft.errors import SiteError
from autopeft.model.attaching import attach, attached_names
from autopeft.model.shapes import n_bits, n_params
from autopeft.model.sites import head_names, list_sites, unreachable, untrained_modules
from autopeft.model.tree import Tree
from autopeft.model.virtual import model_sites, n_positions, n_virtual_tokens
from autopeft.model.weights import load_weights, require_weights
from autopeft.records import Adapter, Plan

log = logging.getLogger(__name__)

MIN_TOKENS = 2  # of a text beside virtual tokens; one is what marks its beginning in most models


class BaseModel:
    """One frozen base model in memory, lent to one plan at a time.

    `module` is the model with a task head, on `device`, in fp32, its maps quantised where it was asked;
    `head_names` are the children that hold the head; `base_params` counts the rest, tied weights once.
    `output_layer` is the last linear map of the head, None where there is none.
    """

    def __init__(self, module: nn.Module, tokenizer: Any, *, name: str, untrained: frozenset[str]) -> None:
        """Freeze the module and list its sites.

        Args:
            module: A transformers model with a task head.
            tokenizer: Its tokenizer (of images, its processor), or None where only counting is wanted.
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
        self.base_params = n_params(module) - sum(n_params(module.get_submodule(name)) for name in head)
        self.head_names = (*head, *untrained_modules(module, untrained, head=head))
        self.head_params = sum(n_params(module.get_submodule(name)) for name in self.head_names)
        held = list_sites(module, exclude=self.head_names)
        self.sites = (*held, *model_sites(module, held))
        self.output_layer = self._find_output_layer(head)
        self.output_scale, self.output_shift = 1.0, 0.0
        self._n_positions = n_positions(module)
        self._tell_unreachable()
        self.model_type = str(getattr(module.config, "model_type", "unknown"))

    @property
    def pad_token_id(self) -> int:
        """What fills rows of tokens up; 0 where the model reads none."""
        return int(getattr(self.tokenizer, "pad_token_id", None) or 0)

    @property
    def n_bits(self) -> int:
        """4 or 8 where bitsandbytes holds maps in so many bits, else 0."""
        return max(map(n_bits, self.module.modules()))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.module.parameters()).device

    def max_tokens(self, plan: Plan | None = None) -> int | None:
        """How many tokens a text may have, beside a plan's virtual tokens; None where there is no limit.

        Raises:
            SiteError: The virtual tokens leave no place for a text.
        """
        if self._n_positions is None:
            return None
        n_taken = n_virtual_tokens(plan.adapters) if plan else 0
        if self._n_positions - n_taken < MIN_TOKENS:
            raise SiteError(
                f"{n_taken} virtual tokens leave {max(0, self._n_positions - n_taken)} of the "
                f"{self._n_positions} positions of {self.name} for a text; at most "
                f"{self._n_positions - MIN_TOKENS} can be taken, choose a smaller rank."
            )
        return self._n_positions - n_taken

    def sha256(self) -> str:
        """Digest of every parameter and buffer, by name; equal exactly where the weights are."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @contextlib.contextmanager
    def attached(
        self, configs: Sequence[PeftConfig], *, plan: Plan, task_type: str | None, seed: int
    ) -> Iterator[PeftModel]:
        """Lend the base model with a plan's adapters on it, and take it back as it was.

        Args:
            configs: The plan's adapters as `peft` configs; empty for the head alone.
            plan: What the configs stand for; its count is checked against what `peft` attached.
            task_type: `peft`'s word for the task, such as `SEQ_CLS`; it makes `peft` keep the head. None
                where it has no word.
            seed: Decides the adapters' and the head's first values.

        Raises:
            SiteError: `peft` attached something else than the plan says.
        """
        tree = Tree(self.module)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = attach(self.module, configs, task_type=task_type, head_names=self.head_names)
                self._initialise_head(model)
            self._check(model, plan)
            yield model
        finally:
            tree.restore()

    def attach_for_good(
        self,
        configs: Sequence[PeftConfig],
        *,
        plan: Plan,
        task_type: str | None,
        seed: int,
        weights: Path | None = None,
    ) -> PeftModel:
        """The base model with a plan's adapters on it, never taken back; its head goes on as it is.

        Args:
            configs: As for `attached`.
            plan: As for `attached`.
            task_type: As for `attached`.
            seed: Decides the adapters' first values.
            weights: Folder from which adapters and head are read.

        Raises:
            SiteError: `peft` attached something else than the plan says; the base model is as it was.
            SpecError: The weights are not those of the plan; the base model is as it was.
        """
        tree = Tree(self.module)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = attach(self.module, configs, task_type=task_type, head_names=self.head_names)
            self._check(model, plan)
            if weights is not None:
                require_weights(model, weights)
                load_weights(model, attached_names(model), weights)
        except BaseException:
            tree.restore()
            raise
        return model

    def expect(self, *, mean: float, std: float) -> None:
        """Let the head start from numbers of this mean and spread, which training need not find then.

        The output layer's first bias is the mean, and its first weights are so much larger. So are those of
        the base model where its checkpoint had none: the sensitivity looks through them.
        """
        self.output_scale, self.output_shift = std, mean
        if self.output_layer is not None and f"{self.output_layer}.weight" in self.untrained:
            layer = cast(nn.Linear, self.module.get_submodule(self.output_layer))
            layer.weight.data.mul_(std)
            if layer.bias is not None:
                layer.bias.data.fill_(mean)

    def _find_output_layer(self, head: Sequence[str]) -> str | None:
        """The last linear map of the head proper that has an output for each label, or else the last."""
        maps = [
            (f"{name}.{inner}" if inner else name, layer.out_features)
            for name in head
            for inner, layer in self.module.get_submodule(name).named_modules()
            if isinstance(layer, nn.Linear)
        ]
        n_labels = getattr(self.module.config, "num_labels", None)
        fitting = [name for name, n_outputs in maps if n_outputs == n_labels]
        return next(reversed(fitting or [name for name, _ in maps]), None)

    def _draw(self, layer: nn.Linear, *, is_output: bool) -> None:
        """First values: Normal(0, initializer_range) as in BERT, biases 0; of numbers, about their mean."""
        std = float(getattr(self.module.config, "initializer_range", 0.02))
        nn.init.normal_(layer.weight, std=std * (self.output_scale if is_output else 1.0))
        if layer.bias is not None:
            nn.init.constant_(layer.bias, self.output_shift if is_output else 0.0)

    def _initialise_head(self, model: PeftModel) -> None:
        """Draw the trained copy of the head anew; the head of the base model is never touched.

        What the checkpoint already held of the head (ModernBERT's pooling layer, say) stays,
        but the output layer is drawn for every seed.
        """
        for name, wrapper in model.get_base_model().named_modules():
            if not isinstance(wrapper, ModulesToSaveWrapper):
                continue
            trained = next(iter(wrapper.modules_to_save.values()))
            for inner, layer in trained.named_modules():
                full = ".".join(part for part in (name, inner) if part)
                is_output = full == self.output_layer
                if isinstance(layer, nn.Linear) and (is_output or f"{full}.weight" in self.untrained):
                    self._draw(layer, is_output=is_output)

    def _tell_unreachable(self) -> None:
        """Say which weights stay as they are whatever the plan, so that none is left out in silence."""
        names = unreachable(self.module, self.sites, exclude=self.head_names)
        if names:
            log.info("%s holds weights at which no method of autopeft fits: %s.", self.name, ", ".join(names))

    def _check(self, model: PeftModel, plan: Plan) -> None:
        """Predicted and attached count are one integer, the head taken off; and there is place for a text."""
        self.max_tokens(plan)
        attached = sum(p.numel() for p in model.parameters() if p.requires_grad) - self.head_params
        if attached != plan.trainable_params:
            raise SiteError(
                f"The plan says {plan.trainable_params:,} trainable parameters, but peft {peft.__version__} "
                f"attached {attached:,} to {self.name}; the plan was made for another model or peft version."
            )


def check_sites(adapters: Sequence[Adapter], base: BaseModel) -> None:
    """Refuse adapters at sites that the base model lacks, or two at one site.

    Raises:
        SiteError: The message names the site and the nearest ones there are.
    """
    known = {site.name for site in base.sites}
    seen: set[str] = set()
    for adapter in adapters:
        if adapter.site not in known:
            near = difflib.get_close_matches(adapter.site, sorted(known), n=3)
            near = near or sorted(name for name in known if _last(name) == _last(adapter.site))[:3]
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise SiteError(
                f"{base.name} has no site {adapter.site!r}{hint}. Use the base model of the plan."
            )
        if adapter.site in seen:
            raise SiteError(f"Two adapters share the site {adapter.site!r}; one site takes one method.")
        seen.add(adapter.site)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
