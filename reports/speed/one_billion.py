"""A search on a model of Llama-3.2-1B's shape: its peak memory, and its time against bare passes.

    python reports/speed/one_billion.py --tokenizer FILE_OR_FOLDER --data gsm8k [--quick] [--out FILE.csv]

The model has random weights in bfloat16 (1.24 billion, 2.5 GB), written to a temporary folder. The search
makes 2 proposals of 4 steps of 8 rows of at most 256 tokens, without confirmation. Its memory is the peak
resident size of its process. Its time is set against that of exactly its passes (training steps, evaluated
examples, examples of the sensitivity) on the same rows, timed by a plain loop. --tokenizer is a folder, or a
GGUF file with a tokenizer.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from torch import nn

from autopeft.extension import Batch
from autopeft.pipeline.prepare import prepare
from autopeft.records import SearchResult
from autopeft.store import RunDir
from autopeft.train import EncodedSplit
from autopeft.train.encoding import train_rows

SHAPE: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
QUICK = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
QUICK |= {"head_dim": 16, "intermediate_size": 128, "vocab_size": 50000}
N_TOKENS, BATCH_SIZE, STEPS = 256, 8, 4


def write_model(folder: Path, tokenizer: Path, shape: dict[str, Any]) -> int:
    """Write a model of random bfloat16 weights, one layer a file; returns the bytes of its weights."""
    config = transformers.LlamaConfig(**shape, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    generator, files, total = torch.Generator().manual_seed(0), {}, 0
    shards: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        shards.setdefault(parts[2] if parts[1] == "layers" else parts[1], []).append((name, parameter.shape))
    for shard, entries in shards.items():
        tensors = {}
        for name, size in entries:
            tensor = torch.ones(size, dtype=torch.bfloat16)
            if "norm" not in name:
                tensor.normal_(0.0, 0.02, generator=generator)
            tensors[name] = tensor
            files[name] = f"model-{shard}.safetensors"
            total += tensor.numel() * tensor.element_size()
        save_file(tensors, folder / f"model-{shard}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config.save_pretrained(folder)
    where: dict[str, Any] = {"pretrained_model_name_or_path": tokenizer}
    if tokenizer.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": tokenizer.parent, "gguf_file": tokenizer.name}
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return total


def seconds_of_passes(result: SearchResult) -> tuple[float, int, int, int]:
    """Seconds of the passes of a search by the plain loop, and its steps, evaluated and scored examples.

    All plans of a search see the same rows, so each of its steps is timed once; so is one evaluation. A pass
    of the sensitivity goes forward and backward over its examples, as a training step does.
    """
    prepared = prepare(result.spec)
    bench, train, search = prepared.bench, prepared.bench.splits["train"], prepared.bench.splits["search"]
    config = LoraConfig(r=8, target_modules="all-linear", task_type=TaskType.CAUSAL_LM)
    model = get_peft_model(prepared.base.module, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def batch_of(split: EncodedSplit, rows: Sequence[int]) -> Batch:
        examples, labels = [split.examples[i] for i in rows], [split.labels[i] for i in rows]
        return prepared.task.collate(examples, labels, prepared.base.pad_token_id)

    def step(batch: Batch) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    runs = [m for m in result.measurements if m.fidelity.split == "search"]
    n_steps = max(m.fidelity.train_steps for m in runs)
    rows = train_rows(train.lengths, n_steps=n_steps, batch_size=bench.batch_size, seed=runs[0].fidelity.seed)
    batches = [batch_of(train, indices) for indices in rows]
    step(batches[0])  # a warm-up
    by_step = [step(batch) for batch in batches]
    n_judged = max(m.fidelity.eval_examples for m in runs)
    judged = sorted(search.subset(n_judged), key=lambda i: int(search.lengths[i]))
    started = time.perf_counter()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for i in range(0, n_judged, BATCH_SIZE):
            model(**batch_of(search, judged[i : i + BATCH_SIZE]))
    by_example = (time.perf_counter() - started) / n_judged
    n_evaluated = sum(m.fidelity.eval_examples for m in runs)
    n_scored = max((score.n_examples for score in result.scores), default=0)
    trained = sum(
        sum(by_step[m.fidelity.train_steps - m.trained_steps : m.fidelity.train_steps]) for m in runs
    )
    scored = n_scored * sum(by_step) / (len(by_step) * bench.batch_size)
    seconds = trained + scored + n_evaluated * by_example
    return seconds, sum(m.trained_steps for m in runs), n_evaluated, n_scored


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--data", required=True, help="gsm8k: a folder of prompts and completions")
    parser.add_argument("--max-examples", type=int, default=40, help="rows of train and search together")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model, run = Path(name) / "model", Path(name) / "run"
        model.mkdir()
        weights_bytes = write_model(model, given.tokenizer, SHAPE | (QUICK if given.quick else {}))
        command = [sys.executable, "-m", "autopeft", "search", "--model", str(model), "--data", given.data]
        command += ["--task", "text-generation", "--budget", "0.5%", "--trials", "2"]
        command += ["--max-steps", str(STEPS), "--batch-size", str(BATCH_SIZE), "--max-length", str(N_TOKENS)]
        command += [
            "--max-examples",
            str(given.max_examples),
            "--confirm",
            "none",
            "--out",
            str(run),
            "--quiet",
        ]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        result = RunDir.open(run).load_result()
        bare, n_steps, n_evaluated, n_scored = seconds_of_passes(result)
    rows = [
        ("weights, GB", f"{weights_bytes / 1e9:.2f}"),
        ("peak resident memory, GB", f"{peak_bytes / 1e9:.2f}"),
        ("peak / weights", f"{peak_bytes / weights_bytes:.2f}"),
        ("training steps", n_steps),
        ("evaluated examples", n_evaluated),
        ("examples of the sensitivity", n_scored),
        ("seconds of the run", f"{seconds:.1f}"),
        ("seconds of its bare passes", f"{bare:.1f}"),
        ("run / passes", f"{seconds / bare:.2f}"),
        ("  loading", f"{result.cost.load_seconds:.1f}"),
        ("  sensitivity", f"{result.cost.sensitivity_seconds:.1f}"),
        ("  training", f"{result.cost.train_seconds:.1f}"),
        ("  evaluation", f"{result.cost.eval_seconds:.1f}"),
    ]
    print("| what | value |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    if given.out is not None:
        with given.out.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("what", "value"), *rows])


if __name__ == "__main__":
    main()
