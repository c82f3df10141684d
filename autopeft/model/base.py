"""A frozen base model in memory, with the adapters of one plan at a time."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from autopeft.errors import TargetError
from autopeft.model.attaching import attach, note_state
from autopeft.model.components import components as components_of
from autopeft.model.components import head_names, sizes_of, topology
from autopeft.model.devices import Precision, devices_of, forked_rng
from autopeft.model.light_layers import keep_format, leave_casts_to_autocast
from autopeft.model.linear_layers import hidden_size, n_bits, n_params
from autopeft.model.placement import adapted_components, left_out_sentences, weights_read_directly
from autopeft.model.quantization import drop_weights
from autopeft.model.targets import list_targets, untrained_modules
from autopeft.model.weight_comparison import bit_sums, compare_with_checkpoint, weight_digests
from autopeft.types import Component, Plan, Target, digest_of, listed

log = logging.getLogger(__name__)


class BaseModel:
    """One frozen base model in memory, with adapters for one plan at a time.

    Attributes:
        module: The model with its task head, on `device`, in the `precision` that it computes in.
        head_names: The modules that are trained as the head.
        missing: Those of `head_names` that are not in the checkpoint.
        base_params: Parameters outside the head; tied weights count once.
        output_layer: The name of the linear layer at the end of the head; None without one.
        max_tokens: The longest text; None without a limit.
        targets: All modules that adapters can attach to.
        parts: The component of each module with parameters.
        part_sizes: The modules and parameters of each component.
        topology: How the model is built, such as `sequential hybrid`.
        components: The components that are adapted.
        untrainable: Target modules where adapters would train nothing.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        untrained: frozenset[str],
        precision: Precision | None = None,
        is_in_memory: bool = False,
        components: Sequence[Component] = (),
    ) -> None:
        """Freeze the module and list its target modules.

        Without a `tokenizer` or image processor, the model is only counted. `untrained` are the parameters
        that are not in the checkpoint. Their values are random, so linear layers and norms among them are
        trained and kept with the head. Forward passes compute in `precision`, whatever format the weights
        have. A model that `is_in_memory` may have been trained since it was loaded. Without `components` the
        topology of the model decides which are adapted.
        """
        self.is_in_memory = is_in_memory
        self.module = module.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.name = name
        self.untrained = untrained
        self.precision = precision or Precision()
        head = head_names(module)
        self.base_params = n_params(module) - sum(n_params(module.get_submodule(name)) for name in head)
        self.missing = untrained_modules(module, untrained, head=head)
        self.head_names = (*head, *self.missing)
        self.head_params = sum(n_params(module.get_submodule(name)) for name in self.head_names)
        self.parts = components_of(module)
        self.part_sizes = sizes_of(module, self.parts)
        self.targets = list_targets(module, exclude=self.head_names, parts=self.parts)
        # The head's last linear layer with one output per label, or else its last linear layer.
        layers = [entry for h in head for entry in module.get_submodule(h).named_modules(prefix=h)]
        linear = {name: layer.out_features for name, layer in layers if isinstance(layer, nn.Linear)}
        n_labels = getattr(module.config, "num_labels", None)
        fitting = [name for name, n_outputs in linear.items() if n_outputs == n_labels]
        self.output_layer = next(reversed(fitting or list(linear)), None)
        self.output_scale, self.output_shift = 1.0, 0.0
        self.predicts_numbers = False
        self.max_tokens = _n_positions(module)
        self.topology = topology(module)
        self.components = adapted_components(self.targets, self.topology, components)
        self.untrainable = weights_read_directly(module, self.targets)
        self.model_type = str(getattr(module.config, "model_type", "unknown"))

    @property
    def chosen(self) -> tuple[Target, ...]:
        """The target modules of the components that are adapted."""
        return tuple(
            target
            for target in self.targets
            if target.component in self.components and target.name not in self.untrainable
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sentences on the target modules that are not adapted, by component."""
        return left_out_sentences(self.targets, self.components, self.untrainable)

    @property
    def pad_token_id(self) -> int:
        """The token that pads rows to one length; 0 for a model that reads no tokens."""
        return int(getattr(self.tokenizer, "pad_token_id", None) or 0)

    @cached_property
    def differs_from_checkpoint(self) -> bool:
        """Whether a model in memory differs, outside its head, from the checkpoint that it names."""
        if not self.is_in_memory:
            return False
        missing, changed = compare_with_checkpoint(self.module, self.name, exclude=self.head_names)
        name = changed or min(missing, default=None)
        if name is None:
            return False
        log.warning(
            f"The model in memory has another {name} than {self.name}: adapters for it fit only this model; "
            "to share them, write it with save_pretrained and search that folder."
        )
        return True

    @property
    def hidden_size(self) -> int:
        """The width on which the ranges of learning rates depend."""
        return hidden_size(self.module.config, self.chosen)

    @property
    def n_bits(self) -> int:
        """4 or 8 if bitsandbytes quantized any linear layer to that many bits, else 0."""
        return max(map(n_bits, self.module.modules()))

    @property
    def device(self) -> torch.device:
        """The device of batches and losses: the last one of a model that is spread over several."""
        return self.devices[-1]

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The devices of the weights, in the order of the layers."""
        return devices_of(self.module)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, as they are held."""
        return sum(p.numel() * p.element_size() for p in self.module.parameters())

    def leave_device(self) -> None:
        """Move the weights to the CPU for good; a quantized model drops them."""
        vars(self.module).pop("hf_device_map", None)
        if self.n_bits:
            drop_weights(self.module)
        else:
            self.module.cpu()

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for one forward pass of float32 adapters on weights in `precision`."""
        return self.precision.autocast(self.device)

    def widen_head(self) -> None:
        """Convert the head to float32, from which its trained copy starts."""
        for name in self.head_names:
            self.module.get_submodule(name).float()

    @property
    def lacking(self) -> str:
        """Sentences on the weights outside the head that the checkpoint does not have; often empty."""
        start, sentences = "The checkpoint of the base model has no weights for", []
        if self.missing:
            names = ", ".join(self.missing)
            sentences.append(f"{start} {names}; all plans train them, and keep them with the adapter.")
        if random := sorted(key for key in self.untrained if not key.startswith(self.head_names)):
            sentences.append(
                f"{start} {listed(random)}; they stay random, and another load draws others: share the base "
                "model together with the adapter."
            )
        return " ".join(sentences)

    def sha256(self) -> str:
        """Digest the names and values of all weights but those of quantized layers."""
        return digest_of(bit_sums(self.module))

    @cached_property
    def weight_digests(self) -> dict[str, str]:
        """Digests of the weights outside the head, as they were when this property was first read."""
        return weight_digests(self.module, exclude=self.head_names)

    @cached_property
    def first_sums(self) -> dict[str, int]:
        """The sums of the weights' bits, as they were when this property was first read."""
        return bit_sums(self.module)

    @contextlib.contextmanager
    def attached(
        self, configs: Sequence[PeftConfig], *, plan: Plan, task_type: str | None, seed: int
    ) -> Iterator[PeftModel]:
        """Attach a plan's adapters within a context; afterwards the base model is as it was.

        `task_type` is that of `peft`, such as `SEQ_CLS`, if it has one. The seed decides the initial values;
        those of the head depend on nothing else, so that all plans of one seed start from the same head.
        Raises TargetError if `peft` attached another number of parameters than the plan has.
        """
        restore = note_state(self.module)
        try:
            model = self.attach_for_good(configs, plan=plan, task_type=task_type, seed=seed)
            self._initialize_head(model, seed=seed)
            if self.precision.dtype != "float32":
                leave_casts_to_autocast(model)
                if self.n_bits:
                    keep_format(model, self.precision.torch_dtype)
            yield model
        finally:
            restore()

    def attach_for_good(
        self, configs: Sequence[PeftConfig], *, plan: Plan, task_type: str | None, seed: int
    ) -> PeftModel:
        """Attach a plan's adapters permanently; the head keeps its values. Raises as `attached` does."""
        is_other_model = self.differs_from_checkpoint  # read before names of modules change
        with forked_rng():
            torch.manual_seed(seed)
            model = attach(self.module, configs, task_type=task_type, head_names=self.head_names)
        if is_other_model:
            for config in model.peft_config.values():
                # Empty, so that no config names the checkpoint: for None peft would fill in its path.
                config.base_model_name_or_path = ""
        attached = sum(p.numel() for p in model.parameters() if p.requires_grad) - self.head_params
        if attached != plan.trainable_params:
            raise TargetError(
                f"The plan has {plan.trainable_params:,} trainable parameters, but peft {peft.__version__} "
                f"attached {attached:,} to {self.name}; the plan was made for another model or peft version."
            )
        return model

    def to_train(self, model: nn.Module) -> nn.Module:
        """Put the model with adapters into train mode, except its frozen batch norms."""
        model.train()
        for child in self.module.modules():
            if hasattr(child, "running_mean"):
                child.eval()
        return model

    @contextlib.contextmanager
    def in_train_mode(self) -> Iterator[None]:
        """Put the base model into train mode within a context; torch's generators are restored."""
        with forked_rng():
            try:
                self.to_train(self.module)
                yield
            finally:
                self.module.eval()

    def body_to_eval(self) -> None:
        """Put the model's children into eval mode, except task head and the dropout before it."""
        for name, child in self.module.named_children():  # the dropout is the child without weights
            if name not in self.head_names and any(True for _ in child.parameters()):
                child.eval()

    def scale_output_to(self, *, mean: float, std: float) -> None:
        """Make the head predict numbers: start at the labels' `mean`, scale its weights by `std`.

        This holds for heads that are drawn later. An output layer that is not in the checkpoint is scaled in
        the base model at once, since sensitivity is measured through it.
        """
        self.output_scale, self.output_shift = std, mean
        self.predicts_numbers = True
        if self.output_layer is not None and f"{self.output_layer}.weight" in self.untrained:
            layer = cast(nn.Linear, self.module.get_submodule(self.output_layer))
            layer.weight.data.mul_(std)
            if layer.bias is not None:
                layer.bias.data.fill_(mean)

    def _initialize_head(self, model: PeftModel, *, seed: int) -> None:
        """Draw the output layer of the head's trained copy, and layers without a checkpoint.

        Weights are drawn from Normal(0, initializer_range), biases are 0, as in BERT; outputs are scaled. The
        head has a generator of its own, since each plan's adapters draw a different count of numbers, on the
        CPU, whose numbers are the same on every machine.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(f"task head {seed}".encode()))
        std = float(getattr(self.module.config, "initializer_range", 0.02))
        for name, wrapper in model.get_base_model().named_modules():
            if not isinstance(wrapper, ModulesToSaveWrapper):
                continue
            trained = next(iter(wrapper.modules_to_save.values()))
            for full_name, layer in trained.named_modules(prefix=name):
                is_output = full_name == self.output_layer
                is_drawn = is_output or f"{full_name}.weight" in self.untrained
                if isinstance(layer, nn.Linear) and is_drawn:
                    scale, shift = (self.output_scale, self.output_shift) if is_output else (1.0, 0.0)
                    drawn = torch.empty(layer.weight.shape).normal_(std=std * scale, generator=generator)
                    layer.weight.data.copy_(drawn)
                    if layer.bias is not None:
                        nn.init.constant_(layer.bias, shift)


def _n_positions(module: nn.Module) -> int | None:
    """Return the number of positions of a model; None if there is no limit (T5, Bloom)."""
    config = cast(Any, module.config).get_text_config()
    names = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")  # LED's, MPT's
    limits = (getattr(config, name, None) for name in names)
    limit = next((limit for limit in limits if isinstance(limit, int)), None)
    if limit is None or limit <= 0:  # XLNet says -1
        return None
    for name, child in module.named_modules():
        if name.endswith("position_embeddings") and getattr(child, "padding_idx", None) is not None:
            return limit - cast(int, child.padding_idx) - 1  # RoBERTa's positions begin after this index
    return limit
