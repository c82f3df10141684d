"""The modules, parameters, hooks and flags of a model, to put back later; weights are not copied."""

from __future__ import annotations

from torch import nn


class Snapshot:
    """The module objects of a model and their flags, to put back after `peft` has replaced some.

    `peft`'s `unload()` leaves trained copies of `modules_to_save` in the base model (peft 0.21.2); putting
    the original objects back cannot. Parameters are put back in their order too: LoRA on a parameter takes
    it out and in again at every forward, and a safe merge gives it another tensor.
    """

    def __init__(self, root: nn.Module) -> None:
        """Note the state of `root`."""
        self._root = root
        self._children = [(module, dict(module._modules), module.training) for module in root.modules()]
        self._parameters = [(module, dict(module._parameters)) for module in root.modules()]
        plain = (parameter for parameter in root.parameters() if type(parameter) is nn.Parameter)
        self._tensors = [(parameter, parameter.data) for parameter in plain]  # no copies
        self._attributes = set(vars(root))
        self._hooks = [
            (module, dict(module._forward_pre_hooks), dict(module._forward_hooks))
            for module in root.modules()
        ]

    def restore(self) -> None:
        """Put `root` back; its parameters are frozen and have no gradient afterwards."""
        for module, children, training in self._children:
            module._modules.clear()
            module._modules.update(children)
            module.training = training
        for module, parameters in self._parameters:
            module._parameters.clear()
            module._parameters.update(parameters)
        for parameter, tensor in self._tensors:
            if parameter.data_ptr() != tensor.data_ptr():
                parameter.data = tensor
        for module, before, after in self._hooks:
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(before)
            module._forward_hooks.clear()
            module._forward_hooks.update(after)
        for name in set(vars(self._root)) - self._attributes:
            delattr(self._root, name)
        for parameter in self._root.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
