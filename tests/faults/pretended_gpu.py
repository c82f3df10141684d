"""Runs commands on a GPU that is pretended: its tensors are computed on the CPU, and do not mix with others.

    PYTHONPATH=.:tests python tests/faults/pretended_gpu.py [--only NAME …]

A tensor of `cuda:0` holds one of the CPU. Each operation of torch is refused, as a GPU would refuse it, where
it gets tensors of both; and what torch.cuda says is made up: 80 GiB, bfloat16. So the paths for GPUs run with
true numbers: wrong devices show, and slips in what only a GPU runs. Kernels, memory, time and formats of few
bits do not. Tiny models; five to ten minutes on two cores. Needs g++ and a torch for CPUs, as it brings a
device that such a torch lacks (`pretended_gpu.cpp`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.utils._device
import transformers
from PIL import Image
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_flatten, tree_map_only
from toys.bases import AUTO_CLASSES, toy_config
from toys.folders import word_tokenizer, write_data, write_model
from toys.words import VOCABULARY

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MEMORY = 80 << 30
ATEN = torch.ops.aten
COPIES = (ATEN.copy_.default, ATEN._to_copy.default)
INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)  # indices may be of the CPU

LM = "--task text-generation --trials 9 --max-steps 6 --budget 8%"
SHORT = "--trials 9 --max-steps 6 --budget 8%"
WIDE = "--space everything --trials 60 --max-steps 6 --budget 8% --confirm none"
CASES = {  # in this order, as later ones take what earlier ones wrote
    "methods": f"search --model bert --data reviews {WIDE} --out methods",
    "llama": f"search --model llama --data pairs {LM} --metric exact-match --out chosen",
    "resume": "search --resume --out chosen",
    "train": "train --plan chosen/best/plan.yaml --out full",
    "merge": "export --run chosen --to merged --out merged",
    "verify": "verify merged --run chosen",
    "packed": f"search --model gpt2 --data plain {LM} --checkpointing on --out packed",
    "experts": f"search --model moe --data pairs {LM} --checkpointing on --out experts",
    "t5": f"search --model t5 --data pairs --task text2text-generation {SHORT} --out pairs-t5",
    "images": f"search --model vit --data images --task image-classification {SHORT} --out of-images",
    "tags": f"search --model bert --data tags --task token-classification {SHORT} --out of-tags",
    "regression": f"search --model bert --data scores.csv --label-column score {SHORT} --out of-scores",
    "scores": "analyze --model bert --data reviews --scores fisher,gradient,parameters",
}


class OnGpu(torch.Tensor):
    """A tensor of `cuda:0`: what it holds is in `inner`, a tensor of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation outside of `PretendedGpu`, as in the threads of the backward pass."""
        return compute(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            copied: torch.Tensor = OnGpu(self.inner.detach().clone())
            is_parameter = getattr(self, "_is_param", False)
            copied = torch.nn.Parameter(copied) if is_parameter else copied
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __getitem__(self, index: Any) -> torch.Tensor:
        """With lists as tensors, which torch otherwise makes on the device itself."""
        indices = tuple(torch.tensor(i) if isinstance(i, list) else i for i in _tuple(index))
        return super().__getitem__(indices if isinstance(index, tuple) else indices[0])

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def as_subclass(self, cls: type) -> OnGpu:
        made = OnGpu(self.inner)
        is_one = isinstance(self, cls)
        made.__class__ = type(self) if is_one else type(cls.__name__, (cls, OnGpu), {})
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()


class PretendedGpu(TorchDispatchMode):
    """A context in which tensors can be made on `cuda:0`, and moved there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The result of an operation, on `cuda:0` if a tensor of its arguments or the wanted device is."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    is_on_gpu = any(isinstance(tensor, OnGpu) for tensor in tensors)
    wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    if is_on_gpu:
        require_one_device(func, tensors)
    plain_args, plain_kwargs = tree_map_only(OnGpu, lambda tensor: tensor.inner, (args, dict(kwargs)))
    plain_kwargs.pop("pin_memory", None)
    if wanted is not None:
        plain_kwargs["device"] = CPU if wanted == "cuda" else kwargs["device"]
    if func is ATEN._pin_memory.default:
        return args[0].clone()
    result = func(*plain_args, **plain_kwargs)
    if wanted == "cpu" or not (is_on_gpu or wanted == "cuda"):
        return result
    if func is ATEN.copy_.default and not isinstance(args[0], OnGpu):
        return args[0]
    placed = tree_map_only(torch.Tensor, lambda t: t if isinstance(t, OnGpu) else OnGpu(t), result)
    return return_and_correct_aliasing(func, args, kwargs, placed) if is_on_gpu else placed


def require_one_device(func: Any, tensors: Sequence[torch.Tensor]) -> None:
    """Raise the error of a GPU where an operation gets tensors of it and of the CPU, single numbers apart."""
    if func in COPIES:
        return
    if func in INDEXING:
        tensors = tensors[:1]
    strangers = [
        tensor for tensor in tensors if not isinstance(tensor, OnGpu) and (tensor.dim() or func in INDEXING)
    ]
    if strangers or func is ATEN._pin_memory.default:
        shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} of {shapes}")


def pretend() -> None:
    """Let torch.cuda speak of one GPU, and let models and weights move there."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.utils._device._device_constructors()  # keeps the functions that are replaced below
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()
    nothing = "reset_peak_memory_stats empty_cache synchronize set_device set_per_process_memory_fraction"
    for name in f"{nothing} manual_seed manual_seed_all _lazy_init set_rng_state".split():
        setattr(torch.cuda, name, lambda *args, **kwargs: None)
    facts = SimpleNamespace(
        name="pretended", total_memory=MEMORY, major=8, minor=0, multi_processor_count=100
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": facts.name,
        "get_device_capability": (facts.major, facts.minor),
        "get_device_properties": facts,
        "mem_get_info": (MEMORY, MEMORY),
        "get_per_process_memory_fraction": 1.0,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "memory_reserved": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    torch.cuda.get_rng_state = lambda *args: torch.get_rng_state()
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _then_moved(getattr(torch, name)))
    histc = torch.histc  # of whole numbers on GPUs alone
    torch.histc = lambda x, *args, **kwargs: histc(x.float(), *args, **kwargs)
    data: Any = torch.Tensor.data
    torch.Tensor.data = property(data.__get__, _set_data(data))
    read = transformers.PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():  # they slow the reading down
            return read(cls, *args, **kwargs)

    transformers.PreTrainedModel.from_pretrained = classmethod(from_pretrained)


def _then_moved(make: Any) -> Any:
    """A function that makes tensors of numbers, which torch would make on the GPU itself."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        tensor = make(data, *args, **kwargs)
        if device is None:
            return tensor
        return tensor.to(GPU if torch.device(device).type == "cuda" else device)

    return made


def _set_data(data: Any) -> Any:
    """What assigns to `tensor.data`, for tensors that come to the GPU, leave it or stay."""

    def assign(self: torch.Tensor, value: torch.Tensor) -> None:
        if isinstance(self, OnGpu) == isinstance(value, OnGpu):
            data.__set__(self, value)
            if isinstance(self, OnGpu):
                self.inner = value.inner
            return
        moved = value.detach()
        if isinstance(self, torch.nn.Parameter):
            moved = torch.nn.Parameter(moved, requires_grad=self.requires_grad)
        moved.__dict__.update({name: own for name, own in self.__dict__.items() if name != "inner"})
        torch.utils.swap_tensors(self, moved)

    return assign


def _tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def write_toys() -> None:
    """Models and data of the cases, in the working directory."""
    draw = random.Random(0)
    write_model(Path("bert"))
    write_data(Path("reviews"))
    for name in ("gpt2", "llama", "t5", "moe"):
        torch.manual_seed(0)
        auto_class = getattr(transformers, AUTO_CLASSES[f"{name}-lm"])
        auto_class.from_config(toy_config(name, hidden=32)).save_pretrained(name)
        tokenizer = word_tokenizer()
        tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
        tokenizer.save_pretrained(name)
    vit = transformers.AutoModel.from_config(toy_config("vit", hidden=32))
    vit.save_pretrained("vit")
    size = vit.config.image_size
    transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained("vit")
    words = [word for word in VOCABULARY if word.isalpha()]
    for split, n_rows in {"train": 160, "validation": 40, "test": 40}.items():
        texts = [draw.sample(words, 4) for _ in range(n_rows)]
        tags = [["B-X" if words.index(word) % 3 == 0 else "O" for word in text] for text in texts]
        tables: dict[str, list[dict[str, object]]] = {
            "pairs": [{"prompt": " ".join(text), "completion": " ".join(text[:2])} for text in texts],
            "plain": [{"text": " ".join(draw.choices(words, k=30))} for _ in texts],
            "tags": [{"tokens": text, "ner_tags": own} for text, own in zip(texts, tags, strict=True)],
        }
        for name, rows in tables.items():
            Path(name).mkdir(exist_ok=True)
            Path(name, f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        for label in ("dark", "light"):
            folder = Path("images", split, label)
            folder.mkdir(parents=True)
            for number in range(n_rows // 4):
                light = np.random.default_rng(number).integers(0, 100, (size, size, 3)) + 120 * (
                    label == "light"
                )
                Image.fromarray(light.astype("uint8")).save(folder / f"{number}.png")
    texts = [draw.choices(words, k=5) for _ in range(200)]
    rows = [f"{' '.join(text)},{sum(map(words.index, text)) / 10}" for text in texts]
    Path("scores.csv").write_text("\n".join(["text,score", *rows]), encoding="utf-8")


def library(folder: Path) -> Path:
    """The compiled `pretended_gpu.cpp`."""
    torch_folder, target = Path(torch.__file__).parent, folder / "pretended_gpu.so"
    source = Path(__file__).resolve().with_suffix(".cpp")
    command = [
        "g++",
        "-std=c++20",
        "-shared",
        "-fPIC",
        f"-I{torch_folder}/include",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run([*command, f"-L{torch_folder}/lib", "-lc10", "-ltorch_cpu"], check=True)
    return target


def run(words: Sequence[str]) -> None:
    """A command of autopeft in this process, on the pretended GPU."""
    import autopeft.pipeline  # before `pretend`: bitsandbytes would take the GPU for a true one

    assert autopeft.pipeline
    from autopeft.cli import main

    pretend()
    sys.argv = ["autopeft", *words]
    with PretendedGpu():
        main()


def main() -> None:
    """Run the cases, and say which failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    chosen = parser.parse_args().only
    script = Path(__file__).resolve()
    paths = os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_toys()
        lib = Path(torch.__file__).parent / "lib"
        preloaded = {
            "LD_PRELOAD": str(library(Path(folder))),
            "LD_LIBRARY_PATH": str(lib),
            "PYTHONPATH": paths,
        }
        failed = []
        for name in chosen:
            words = shlex.split(CASES[name])
            done = subprocess.run(
                [sys.executable, str(script), "--", *words],
                env={**os.environ, **preloaded},
                capture_output=True,
                text=True,
                check=False,
            )
            lines = (done.stdout + done.stderr).splitlines()
            odd = [line for line in lines if "failed" in line or line.startswith("error")]
            print(f"{name}: exit code {done.returncode}", *odd, sep="\n  ", flush=True)
            if done.returncode or odd:
                failed.append(name)
                print("\n".join(lines[-30:]))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--"]:
        run(sys.argv[2:])
    else:
        main()
