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
        modules = list(root.modules())
        self._modes = [(module, module.training) for module in modules]
        names = ("_modules", "_parameters", "_forward_pre_hooks", "_forward_hooks")
        contents = [getattr(module, name) for module in modules for name in names]
        self._contents = [(content, dict(content)) for content in contents]
        plain = (parameter for parameter in root.parameters() if type(parameter) is nn.Parameter)
        self._tensors = [(parameter, parameter.data) for parameter in plain]  # no copies
        self._attributes = set(vars(root))

    def restore(self) -> None:
        """Put `root` back; its parameters are frozen and have no gradient afterwards."""
        for content, before in self._contents:
            content.clear()
            content.update(before)
        for module, is_training in self._modes:
            module.training = is_training
        for parameter, tensor in self._tensors:
            if parameter.data_ptr() != tensor.data_ptr():
                parameter.data = tensor
        for name in set(vars(self._root)) - self._attributes:
            delattr(self._root, name)
        for parameter in self._root.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
