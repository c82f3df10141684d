"""Results of kernels on fake tensors, made anew from those of an earlier call with the same shapes.

Torch finds out what a kernel gives in about 0.2 ms, of which most is Python. A step calls tens of thousands
of kernels, and few of them differ in more than the values that fake tensors lack.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from autopeft.errors import SpecError

log = logging.getLogger(__name__)

# Kernels of a replay, about 10 seconds of one core: from here on a user is told what takes so long; chosen by
# hand. They are counted in place of seconds, so that the same is printed on every machine.
SLOW_KERNELS = 100_000
_CPU = torch.device("cpu")
_SPACES = ("aten", "prims")  # torch's own kernels, whose results follow from shapes
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_UNKNOWN = object()


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What a result looks like; `argument` is the tensor whose storage it has, None for one of its own."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int = 0
    argument: int | None = None


class SlowReplayError(SpecError):
    """The replay of a training step takes more kernels than it may."""

    def __init__(self, max_kernels: int) -> None:
        super().__init__(
            f"The memory of a training step is left out, since its replay takes more than {max_kernels:,} "
            "kernels for this model; `autopeft estimate` computes it in a minute or more."
        )


class _ValuesCountError(Exception):
    """The result of a call cannot be made from shapes alone."""


@dataclass(kw_only=True)
class KnownResults:
    """The forms of the results of calls, for the fake tensors of one mode.

    More than `max_kernels` calls raise a SlowReplayError. Without it, the call after `slow_kernels` logs what
    takes so long.
    """

    mode: FakeTensorMode
    max_kernels: int | None = None
    slow_kernels: int = SLOW_KERNELS
    _forms: dict[Any, Any] = field(default_factory=dict)
    _n_calls: int = 0

    def of(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a kernel gives, as torch does; from the second call with the same shapes on without torch."""
        self._n_calls += 1
        if self.max_kernels is not None and self._n_calls > self.max_kernels:
            raise SlowReplayError(self.max_kernels)
        if self.max_kernels is None and self._n_calls == self.slow_kernels + 1:
            log.info(
                "Still replaying a training step for its memory; a model whose code goes over tokens or "
                "experts one by one (Mamba) takes a minute or more."
            )
        tensors: list[FakeTensor] = []
        try:
            key = (func, _key(args, tensors), _key(tuple(kwargs.items()), tensors))
        except _ValuesCountError:
            return func(*args, **kwargs)
        form = self._forms.get(key)
        if form is None:
            result = func(*args, **kwargs)
            self._forms[key] = _form(result, tensors) if func.namespace in _SPACES else _UNKNOWN
            return result
        return func(*args, **kwargs) if form is _UNKNOWN else self._made(form, tensors)

    def _made(self, form: Any, tensors: list[FakeTensor]) -> Any:
        if isinstance(form, int):
            return tensors[form]
        if isinstance(form, _Form):
            return self._tensor(form, tensors)
        return type(form)(None if each is None else self._made(each, tensors) for each in form)

    def _tensor(self, form: _Form, tensors: list[FakeTensor]) -> FakeTensor:
        guard = torch._C._DisableTorchDispatch()
        try:
            if form.argument is None:
                plain = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device="meta")
            else:
                storage = tensors[form.argument].untyped_storage()
                plain = torch.empty(0, dtype=form.dtype, device="meta")
                plain.set_(storage, form.offset, form.shape, form.stride)
            return FakeTensor(self.mode, plain, _CPU)
        finally:
            del guard


def _key(value: Any, tensors: list[FakeTensor]) -> Any:
    """What of an argument decides a result; tensors are put into the list in their order."""
    kind = type(value)
    if kind is FakeTensor:
        if value.constant is not None or value.layout is not torch.strided or value.dtype.is_complex:
            raise _ValuesCountError
        tensors.append(value)
        return value.shape, value.stride(), value.storage_offset(), value.dtype
    if kind in (tuple, list):
        return kind, *[_key(each, tensors) for each in value]
    if kind in _PLAIN:
        return kind, value
    raise _ValuesCountError


def _form(result: Any, tensors: list[FakeTensor]) -> Any:
    """The form of a result, from which it can be made again: a number is that of an argument itself."""
    if type(result) in (tuple, list):
        forms = [None if each is None else _form(each, tensors) for each in result]
        return _UNKNOWN if any(form is _UNKNOWN for form in forms) else type(result)(forms)
    if type(result) is not FakeTensor or result.fake_device != _CPU or result.constant is not None:
        return _UNKNOWN
    if result.layout is not torch.strided or result.dtype.is_complex:
        return _UNKNOWN
    storage = result.untyped_storage()
    for i, tensor in enumerate(tensors):
        if tensor is result:
            return i
    shared = [i for i, each in enumerate(tensors) if each.untyped_storage()._cdata == storage._cdata]
    form = _Form(
        shape=result.shape,
        stride=result.stride(),
        dtype=result.dtype,
        offset=int(result.storage_offset()),
        argument=shared[0] if shared else None,
    )
    if not shared and storage.nbytes() != _least_bytes(result):
        return _UNKNOWN
    return form


def _least_bytes(tensor: torch.Tensor) -> int:
    """The bytes from the start of a storage to the last element of a tensor in it."""
    if 0 in tensor.shape:
        return 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return int((tensor.storage_offset() + last + 1) * tensor.element_size())
