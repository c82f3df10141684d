"""The modules, parameters, hooks and flags of a model, to put back later; weights are not copied."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def note_modules(root: nn.Module) -> Callable[[], None]:
    """A function that puts back the module objects and flags that a model has now, frozen, without gradients.

    `peft`'s `unload()` leaves trained copies of `modules_to_save` in the base model (peft 0.21.2); putting
    the original objects back cannot. Parameters are put back in their order too: LoRA on a parameter takes
    it out and in again at every forward, and a safe merge gives it another tensor.
    """
    modules = list(root.modules())
    modes = [(module, module.training) for module in modules]
    names = ("_modules", "_parameters", "_forward_pre_hooks", "_forward_hooks")
    contents = [getattr(module, name) for module in modules for name in names]
    copies = [(content, dict(content)) for content in contents]
    plain = (parameter for parameter in root.parameters() if type(parameter) is nn.Parameter)
    tensors = [(parameter, parameter.data) for parameter in plain]  # no copies
    attributes = set(vars(root))

    def restore() -> None:
        for content, before in copies:
            content.clear()
            content.update(before)
        for module, is_training in modes:
            module.training = is_training
        for parameter, tensor in tensors:
            if parameter.data_ptr() != tensor.data_ptr():
                parameter.data = tensor
        for name in set(vars(root)) - attributes:
            delattr(root, name)
        for parameter in root.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None

    return restore
