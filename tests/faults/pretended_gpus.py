"""Runs one command of autopeft on two pretended GPUs: tensors are computed on the CPU and do not mix.

    LD_PRELOAD=pretended_gpus.so python tests/faults/pretended_gpus.py search --device balanced …

A tensor of `cuda:1` holds one of the CPU. As true GPUs do, an operation refuses tensors of two devices, and
each GPU draws random numbers of its own. The answers of torch.cuda are made up: 80 GiB, bfloat16. So numbers
are true and wrong devices show; kernels, memory, time and quantized formats do not. A torch for CPUs has no
such device, which `pretended_gpus.cpp` adds. The last line counts the operations of each GPU.
"""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import torch
import torch.utils._device
import transformers
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_flatten, tree_map_only
from transformers.integrations.accelerate import _get_device_map, accelerate_dispatch

import autopeft.commands  # before torch has GPUs: bitsandbytes would take them for true ones
from autopeft.cli import main

assert autopeft.commands
N_GPUS, CPU, MEMORY = 2, torch.device("cpu"), 80 << 30
ATEN = torch.ops.aten
COPIES = (ATEN.copy_.default, ATEN._to_copy.default)
INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)  # by indices of the CPU too

n_calls = [0] * N_GPUS
states = [torch.Generator().manual_seed(gpu).get_state() for gpu in range(N_GPUS)]  # of random numbers
current = [0]


class OnGpu(torch.Tensor):
    """A tensor of a GPU by its number; what it holds is in `inner`, a tensor of the CPU."""

    @staticmethod
    def __new__(cls, inner, gpu):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("cuda", gpu),
        )
        made.inner, made.gpu = inner, gpu
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """An operation outside of `PretendedGpus`, as in the threads of the backward pass."""
        return compute(func, args, kwargs or {})

    def __repr__(self, **_):
        return f"OnGpu({self.inner}, {self.gpu})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = OnGpu(self.inner.detach().clone(), self.gpu)
            copied = torch.nn.Parameter(copied) if getattr(self, "_is_param", False) else copied
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __getitem__(self, index):
        """With lists as tensors, which torch otherwise makes on the device itself."""
        entries = index if isinstance(index, tuple) else (index,)
        entries = tuple(torch.tensor(i) if isinstance(i, list) else i for i in entries)
        return super().__getitem__(entries if isinstance(index, tuple) else entries[0])

    def __contains__(self, element):
        return bool((self == element).any())

    def as_subclass(self, cls):
        made = OnGpu(self.inner, self.gpu)
        made.__class__ = type(self) if isinstance(self, cls) else type(cls.__name__, (cls, OnGpu), {})
        return made

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def data_ptr(self):
        return self.inner.data_ptr()


class PretendedGpus(TorchDispatchMode):
    """A context in which tensors can be made on GPUs, and moved there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """The result of an operation, on the GPU of its tensors, or on the device that it asks for."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    gpus = {tensor.gpu for tensor in tensors if isinstance(tensor, OnGpu)}
    strangers = [
        t for t in tensors[: 1 if func in INDEXING else None] if not isinstance(t, OnGpu) and t.dim()
    ]
    if func not in COPIES and (len(gpus) > 1 or (gpus and strangers)):
        shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {shapes}")
    if func is ATEN._pin_memory.default:
        return args[0].clone()
    wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    plain_args, plain_kwargs = tree_map_only(OnGpu, lambda tensor: tensor.inner, (args, dict(kwargs)))
    plain_kwargs.pop("pin_memory", None)
    gpu = next(iter(gpus), None)
    if func is ATEN.copy_.default:
        gpu = getattr(args[0], "gpu", None)
    if wanted is not None:
        plain_kwargs["device"] = CPU if wanted.type == "cuda" else wanted
        gpu = number_of(wanted) if wanted.type == "cuda" else None
    with drawing_on(gpu if torch.Tag.nondeterministic_seeded in func.tags else None):
        result = func(*plain_args, **plain_kwargs)
    if gpu is None:
        return args[0] if func is ATEN.copy_.default else result
    n_calls[gpu] += 1
    placed = tree_map_only(torch.Tensor, lambda t: t if isinstance(t, OnGpu) else OnGpu(t, gpu), result)
    return return_and_correct_aliasing(func, args, kwargs, placed) if gpus else placed


@contextlib.contextmanager
def drawing_on(gpu):
    """Draw from a GPU's random numbers within the context, and not from the CPU's; None changes nothing."""
    if gpu is None:
        yield
        return
    with _disable_current_modes():
        of_cpu = torch.random.get_rng_state()
        torch.random.set_rng_state(states[gpu])
        try:
            yield
        finally:
            states[gpu] = torch.random.get_rng_state()
            torch.random.set_rng_state(of_cpu)


def number_of(device):
    number = device if isinstance(device, int) else torch.device(device).index
    return current[0] if number is None else number


def make_current(device):
    before, current[0] = current[0], number_of(device) if number_of(device) >= 0 else current[0]
    return before


def seed_all(seed):
    states[:] = [torch.Generator().manual_seed(seed + 1 + gpu).get_state() for gpu in range(N_GPUS)]


def pretend():
    """Let torch.cuda speak of two GPUs, and let models and weights move there."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.utils._device._device_constructors()  # keeps the functions that are replaced below
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()
    facts = SimpleNamespace(
        name="pretended", total_memory=MEMORY, major=8, minor=0, multi_processor_count=100
    )
    answers = dict.fromkeys(
        "reset_peak_memory_stats empty_cache synchronize set_per_process_memory_fraction _lazy_init".split()
    )
    answers |= dict.fromkeys(["is_available", "is_initialized", "is_bf16_supported"], True)
    answers |= dict.fromkeys(["memory_allocated", "max_memory_allocated", "memory_reserved"], 0)
    answers |= {"device_count": N_GPUS, "get_device_name": "pretended", "get_device_capability": (8, 0)}
    answers |= {"get_device_properties": facts, "mem_get_info": (MEMORY, MEMORY)}
    answers |= {"get_per_process_memory_fraction": 1.0}
    functions = {name: lambda *args, answer=answer, **_: answer for name, answer in answers.items()}
    functions |= dict.fromkeys(["set_device", "_exchange_device", "_maybe_exchange_device"], make_current)
    functions |= dict.fromkeys(["manual_seed", "manual_seed_all"], seed_all)
    functions["current_device"] = lambda: current[0]
    functions["get_rng_state"] = lambda device="cuda": states[number_of(device)].clone()
    functions["set_rng_state"] = lambda state, device="cuda": states.__setitem__(
        number_of(device), state.clone()
    )
    for name, function in functions.items():
        setattr(torch.cuda, name, function)
    torch.cuda._initialized = True  # which checkpointing looks at
    for name in ("tensor", "as_tensor"):  # of numbers, which torch would make on the GPU itself
        setattr(torch, name, then_moved(getattr(torch, name)))
    data = torch.Tensor.data
    torch.Tensor.data = property(data.__get__, set_data(data))
    transformers.PreTrainedModel.from_pretrained = classmethod(
        then_spread(transformers.PreTrainedModel.from_pretrained.__func__)
    )


def then_moved(make):
    def made(data, *args, device=None, **kwargs):
        tensor = make(data, *args, **kwargs)
        return tensor if device is None else tensor.to(torch.device(device))

    return made


def set_data(data):
    """What assigns to `tensor.data`, for tensors that come to a GPU, leave it or stay."""

    def assign(self, value):
        if isinstance(self, OnGpu) == isinstance(value, OnGpu):
            data.__set__(self, value)
            if isinstance(self, OnGpu):
                self.inner, self.gpu = value.inner, value.gpu
            return
        moved = value.detach()
        if isinstance(self, torch.nn.Parameter):
            moved = torch.nn.Parameter(moved, requires_grad=self.requires_grad)
        moved.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("inner", "gpu")})
        torch.utils.swap_tensors(self, moved)

    return assign


def then_spread(read):
    """`from_pretrained` on the CPU; then the device map and the hooks are those of transformers itself."""

    def from_pretrained(cls, *args, device_map=None, **kwargs):
        with _disable_current_modes():  # they slow the reading down
            answer = read(cls, *args, **kwargs)
        module = answer[0] if isinstance(answer, tuple) else answer
        if device_map == "balanced":
            device_map = _get_device_map(module, device_map, dict.fromkeys(range(N_GPUS), MEMORY), None)
        for name, place in (device_map or {}).items():
            module.get_submodule(name).to(torch.device("cuda", place) if isinstance(place, int) else place)
        if len(set((device_map or {}).values())) > 1:
            accelerate_dispatch(module, None, device_map, None, None, False)
        return answer

    return from_pretrained


if __name__ == "__main__":
    pretend()
    with PretendedGpus():
        try:
            main()
        finally:
            print("operations", *n_calls, file=sys.stderr)
