"""Models of fake tensors: they have shapes and number formats, lie on a pretended CPU, and hold no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICE = torch.device("cpu")  # autocast and fused attention know it, and do not know the meta device
_IS_FALSE = "_autopeft_is_false"  # marks an answer about many values


def make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace the parameters and buffers of a model on the meta device by fake tensors, in place.

    What is shared stays shared, and what is trained stays trained.
    """
    known: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                if id(parameter) not in known:
                    fake = _fake(parameter.data, mode)
                    known[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                child._parameters[name] = known[id(parameter)]
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = _fake(buffer, mode)


def _fake(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    fake: torch.Tensor = FakeTensor(mode, tensor.to("meta"), _DEVICE)
    return fake


class StandInValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that answers where code reads a value of a fake tensor: 1, or True for a truth value.

    "Are all of them true?" and "is any?" are answered by False: a mask has padding, and no value is infinite.
    Where code asks which are true, the first `n_true` are; None leaves that question to torch, which raises.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n_true: int | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, or give the stand-in for the value that it reads."""
        if func is torch.ops.aten._local_scalar_dense.default:
            (tensor,) = args
            if tensor.dtype == torch.bool:
                return not getattr(tensor, _IS_FALSE, False)
            return 1.0 if tensor.is_floating_point() else 1
        if func is torch.ops.aten.nonzero.default and self.n_true is not None:
            return args[0].new_empty((self.n_true, args[0].ndim), dtype=torch.long)
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.all.default, torch.ops.aten.any.default):
            setattr(result, _IS_FALSE, True)
        return result
