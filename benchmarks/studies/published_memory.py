"""Published peak memory of training runs, and what a step replayed without weights gives.

    python benchmarks/studies/published_memory.py HISTORY.jsonl [--out FILE.md]

HISTORY.jsonl holds runs of peft's method comparison (MetaMathQA, Llama-3.2-3B in bfloat16, 4 rows a step, at
most 768 tokens a row, AdamW, no checkpointing), one a line: `experiment`, `peft_config`, `max_memory_bytes`,
`packages`. A step is replayed per config, with the loop of that benchmark: adapters as `peft` makes them, no
autocast, logits of all words, the model's outputs kept until the end of the step.

A config counts once, with the median over all its runs. Two constants are fitted on every second config and
tested on the others: the tokens of the longest row, and the allocator's reserve as a share of the peak.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import peft
import torch
import transformers
from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch.overrides import TorchFunctionMode

from autopeft.adapters.skeleton import add_shira_indices, without_initial_values
from autopeft.estimate import Replay, StandInValues, TrainingStep
from autopeft.plugins import Batch

LLAMA_3B: dict[str, Any] = {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
N_ROWS, MAX_TOKENS = 4, 768
REPLAYED = (512, MAX_TOKENS)  # tokens; between them memory is a straight line
NEAR = 0.05
N_VALUES = "_n_values"  # marks a stand-in for a sparse tensor
LORA_FA = "lora-fa"  # an optimizer that trains B alone
RENAMED = {"BONE": "MISS"}  # types that this peft has under another name

# How a type is replayed whose code in peft reads values of tensors.
CURES = {
    "ADAMSS": "random numbers for k-means",
    "BOFT": "fake tensors; a matrix per layer stays on the CPU",
    "FROD": "fake tensors; dense stand-in for the sparse matrix",
    "LOHA": "fake tensors",
    "LOKR": "fake tensors",
    "SHIRA": "given indices; dense stand-in for the sparse matrix",
    "UNILORA": "stand-in counts",
    "VBLORA": "fake tensors",
    "WAVEFT": "a mask that selects all",
}
# Why the replay differs, from the code of peft and from runs of the same shapes.
REASONS = {
    "osf-rank128": "peft 0.21.2 keeps the first values of its three factors next to the trained ones; the "
    "runs under 0.17 to 0.19 took less, as if they did not (not verified: those versions were not run)",
    "prefixtuning-lr_0.005_zero_init": "ran under peft 0.19 alone; prefixtuning-lr_0.001, of the same "
    "shapes, took 20.9 GB in most of its runs and 22.0 GB under 0.19",
}


class Script:
    """The loss as the benchmark's script takes it: logits, keys and values live as long as the loss."""

    def __call__(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the model's own loss."""
        self.outputs = model(**batch)
        loss: torch.Tensor = self.outputs.loss
        return loss


@dataclass(frozen=True)
class Replayed:
    """A config: the median, the newest and the number of its published peaks, and two replayed ones."""

    name: str
    kind: str
    published: int
    newest: int
    n_runs: int
    peaks: tuple[int, int]
    seconds: float

    def predicted(self, tokens: float, reserve: float) -> float:
        """Return the peak at a row length, with the reserve."""
        (low, high), (first, last) = self.peaks, REPLAYED
        return (1 + reserve) * (low + (high - low) * (tokens - first) / (last - first))

    def error(self, tokens: float, reserve: float) -> float:
        """Return the error relative to the published peak."""
        return self.predicted(tokens, reserve) / self.published - 1


def configs_of(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Read each experiment and its runs, the newest peft last."""
    runs = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run["max_memory_bytes"] and run["max_tokens"] == MAX_TOKENS and not run["gradient_checkpointing"]:
            runs[run["experiment"]].append(run)
    for experiment, repeats in sorted(runs.items()):
        yield experiment, sorted(repeats, key=lambda run: str(run["packages"]["peft-version"]))


def config_of(saved: dict[str, Any]) -> PeftConfig:
    """Build a config as far as this peft knows it, without initial values, which take no memory."""
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[RENAMED.get(saved["peft_type"], saved["peft_type"])]
    known = inspect.signature(kind).parameters
    config: PeftConfig = kind(**{k: v for k, v in saved.items() if k in known and k != "peft_type"})
    config.task_type = "CAUSAL_LM"
    return without_initial_values(config)


def model_of(run: dict[str, Any]) -> torch.nn.Module:
    """Build Llama-3.2-3B without weights, with the adapters of a run."""
    with torch.device("meta"), StandInArrays(), StandInValues(attaching=True):
        shape = transformers.LlamaConfig(**LLAMA_3B)
        model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
        if run["peft_config"]:
            model = get_peft_model(model, config_of(run["peft_config"]))
            add_shira_indices(model)
    if run["optimizer"] == LORA_FA:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    return model


class StandInArrays(TorchFunctionMode):
    """A context in which numpy arrays and sparse tensors of fake tensors have stand-ins.

    AdaMSS, FRoD and SHiRA need them. `numpy()` returns random numbers. A sparse tensor is one number,
    repeated over the shape. A tensor from a list of whole numbers, such as a shape, keeps its values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.numpy:
            return np.random.default_rng(0).normal(size=tuple(args[0].shape)).astype(np.float32)
        is_list = func is torch.tensor and isinstance(args[0], list)
        if is_list and all(type(value) is int for value in args[0]):
            return func(*args, **{**(kwargs or {}), "device": "cpu"})
        if func is torch.sparse_coo_tensor:
            sparse = _Sparse.apply(*args[:3])
            setattr(sparse, N_VALUES, args[1].numel())
            return sparse
        n_values = getattr(args[0], N_VALUES, None) if args else None
        if n_values is not None:
            if func is torch.Tensor.coalesce:
                return args[0]
            if func is torch.Tensor._nnz:
                return n_values
            if func is torch.Tensor.to_dense:
                return args[0].clone(memory_format=torch.contiguous_format)
        return func(*args, **(kwargs or {}))


class _Sparse(torch.autograd.Function):
    """A sparse tensor in memory that hardly counts; its indices are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, indices: torch.Tensor, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        ctx.save_for_backward(indices.to(torch.long, copy=True), values)
        return values.new_empty(1).expand(*shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor, None]:
        _, values = ctx.saved_tensors
        return None, torch.empty_like(values), None


def peak_of(run: dict[str, Any], n_tokens: int) -> int:
    """Compute the peak of one replayed step of a run."""
    ids = torch.zeros(N_ROWS, n_tokens, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": ids}
    step = TrainingStep(batch=batch, loss=Script(), foreach=True, on_gpu=True)
    with StandInArrays():
        return Replay(model_of(run)).memory(step).peak_bytes


def replayed(experiment: str, runs: Sequence[dict[str, Any]]) -> Replayed:
    """Replay a config at both row lengths."""
    started, newest = time.process_time(), runs[-1]
    peaks = tuple(peak_of(newest, n_tokens) for n_tokens in REPLAYED)
    return Replayed(
        name=experiment.replace("/llama-3.2-3B", ""),
        kind=(newest["peft_config"] or {}).get("peft_type", ""),
        published=int(median(run["max_memory_bytes"] for run in runs)),
        newest=newest["max_memory_bytes"],
        n_runs=len(runs),
        peaks=(peaks[0], peaks[1]),
        seconds=(time.process_time() - started) / len(REPLAYED),
    )


def fit(configs: Sequence[Replayed]) -> tuple[int, float]:
    """Fit the row length and the reserve with the smallest mean absolute error."""
    grid = itertools.product(range(500, MAX_TOKENS + 1, 4), (i / 200 for i in range(21)))
    return min(grid, key=lambda point: fmean(abs(config.error(*point)) for config in configs))


def summary(configs: Sequence[Replayed], constants: tuple[float, float]) -> str:
    """Format how many are near, and the median of the absolute errors."""
    errors = [abs(config.error(*constants)) for config in configs]
    n_near = sum(error <= NEAR for error in errors)
    share = n_near / len(errors)
    return f"{n_near} of {len(errors)} within {NEAR:.0%} ({share:.1%}), median {median(errors):.2%}"


def table(configs: Sequence[Replayed]) -> str:
    """Format the Markdown page."""
    halves = (configs[::2], configs[1::2])
    constants = fit(halves[0])
    other = fit(halves[1])
    tokens, reserve = constants
    lines = [
        "# Peak memory: published, and replayed without weights",
        "",
        "Made by `python benchmarks/studies/published_memory.py HISTORY.jsonl` with "
        f"peft {peft.__version__}, torch {torch.__version__}, transformers {transformers.__version__}, on a "
        "CPU; see the script.",
        "",
        f"- Fitted on every second config, beginning with the first: rows of {tokens} tokens, a reserve of "
        f"{reserve:.1%}.",
        f"- On those configs: {summary(halves[0], constants)}.",
        f"- **On the others, which the fit has not seen: {summary(halves[1], constants)}.**",
        f"- On all: {summary(configs, constants)}.",
        "- Row length and reserve can hardly be distinguished, since both make the activations larger.",
        f"- Fitted on the others, the constants are {other[0]} tokens and {other[1]:.1%}; on the first "
        f"half they then give {summary(halves[0], other)}.",
        "",
        "| config | runs | published, GB | replayed, GB | error | newest run, GB | half | cure | s |",
        "|---|---:|---:|---:|---:|---:|---|---|---:|",
    ]
    for index, config in enumerate(configs):
        half = "test" if index % 2 else "fit"
        error = config.error(*constants)
        shown = f"**{error:+.1%}**" if abs(error) > NEAR else f"{error:+.1%}"
        lines.append(
            f"| {config.name} | {config.n_runs} | {config.published / 1e9:.2f} | "
            f"{config.predicted(*constants) / 1e9:.2f} | {shown} | {config.newest / 1e9:.2f} | {half} | "
            f"{CURES.get(config.kind, '')} | {config.seconds:.0f} |"
        )
    lines += ["", "Why the others differ by more than 5 %:", ""]
    far = [config for config in configs if abs(config.error(*constants)) > NEAR]
    lines += [f"- {config.name}: {REASONS.get(config.name, 'not explained')}." for config in far]
    return "\n".join(lines) + "\n"


def run_study(
    about: str | None,
    runs_by_config: Callable[[Path], Iterator[tuple[str, list[dict[str, Any]]]]],
    replay_one: Callable[[str, list[dict[str, Any]]], Any],
    page_of: Callable[[list[Any]], str],
) -> None:
    """Replay every config of a history, and print the page of a study, whose docstring is `about`."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("history", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    configs = []
    for experiment, runs in runs_by_config(given.history):
        configs.append(replay_one(experiment, runs))
        print(configs[-1].name, configs[-1].published, flush=True)
    page = page_of(configs)
    print(page)
    if given.out is not None:
        given.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    run_study(__doc__, configs_of, replayed, table)
