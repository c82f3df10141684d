"""Compare the results of tiny searches between two checkouts, to show that a change to the code kept them.

Usage:
    python tools/toy_searches.py run CHECKOUT OUT     # with the code of CHECKOUT
    python tools/toy_searches.py compare OUT_A OUT_B  # exit 1 where results differ

There is one search for each task, one of a mix of methods and one of a model in 4 bits (needs the extra
`quantize`). Models and rows are made from a fixed seed. `compare` reads `trials.csv` and `result.json`,
leaves out seconds and versions, and prints each key or cell that differs. Sentences whose words differ are
printed too, but do not count.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = "awful bad dull poor fine good great lovely a an and at day film food for in is it of on one".split()
BAD, GOOD = WORDS[:4], WORDS[4:8]
LENGTH = "--max-steps 40 --batch-size 8 --trials 8 --seeds 2 --max-length 24 --dtype float32".split()
SEARCHES = {
    "mix": ["bert", "--budget", "6%", "--space", "mix.yaml"],
    "language_model": ["llama", "--budget", "6%", "--task", "text-generation"],
    "quantized": ["bert", "--budget", "6%", "--quantize", "4bit", "--methods", "lora,ia3"],
}
SEARCHES |= {
    "tokens": ["bert", "--budget", "6%", "--task", "token-classification"],
    "text_to_text": ["t5", "--budget", "6%", "--task", "text2text-generation"],
    "images": ["vit", "--budget", "6%", "--task", "image-classification"],
}
MIX = """schema_version: 1
about: one budget for two methods
methods: {lora: {placement: [all, attention], options: {dora: [false, true]}}, ia3: {placement: [mlp, all]}}
mixes: {both: [{method: lora, placement: [attention, q+v]}, {method: ia3, placement: [mlp]}]}
"""
# What two runs of the same code do not share.
UNSTABLE = ("seconds", "full_runs", "environment", "command", "run")


def make_model(architecture: str, folder: Path) -> None:
    """Write a tiny model and its tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]", "bos_token": "[CLS]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=32, **special)
    size: dict[str, Any] = {"vocab_size": len(names), "hidden_size": 64, "intermediate_size": 128}
    size |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}
    torch.manual_seed(0)
    if architecture == "vit":
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        shape = {"image_size": 16, "patch_size": 8, "hidden_size": 64, "intermediate_size": 128}
        config = transformers.ViTConfig(**shape, num_hidden_layers=2, num_attention_heads=4)
        transformers.ViTModel(config).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
        return
    if architecture == "t5":
        shape = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}
        ids = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=len(names), **shape, **ids)
        )
    elif architecture == "bert":
        model = transformers.AutoModel.from_config(transformers.BertConfig(**size, pad_token_id=0))
    else:
        ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**size, **ids))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def row_of(text: str, label: int, task: str) -> dict[str, Any]:
    """Make a row of a task: a label, a tag per word, or reversed words."""
    words = text.split()
    if task == "token-classification":
        return {"tokens": words, "tags": ["B-X" if word in BAD + GOOD else "O" for word in words]}
    if task.endswith("-generation"):
        return {"prompt": text, "completion": " ".join(reversed(words))}
    return {"text": text, "label": label}


def make_images(folder: Path) -> None:
    """Write folders of images by split and class: noise that is lighter on the left or on the right."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, n in {"train": 90, "validation": 24, "test": 24}.items():
        for index in range(2 * n):
            pixels = draw.integers(0, 160, (16, 16, 3))
            half = slice(0, 8) if index % 2 else slice(8, 16)
            pixels[:, half] += 60
            path = folder / split / ("right", "left")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_rows(folder: Path, task: str) -> None:
    """Write train, validation and test of a task."""
    if task == "image-classification":
        make_images(folder)
        return
    draw = random.Random(0)
    texts: dict[str, int] = {}
    while len(texts) < 260:
        label = len(texts) % 2
        words = draw.choices(WORDS[8:], k=draw.randint(3, 8)) + draw.choices((BAD, GOOD)[label], k=3)
        draw.shuffle(words)
        texts[" ".join(words)] = label
    rows = list(texts.items())
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in {"train": rows[:180], "validation": rows[180:220], "test": rows[220:]}.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for text, label in part:
                file.write(json.dumps(row_of(text, label, task)) + "\n")


def run(checkout: Path, out: Path) -> None:
    """Run every search with the code of a checkout, in a process of its own."""
    for name, (architecture, *flags) in SEARCHES.items():
        inputs = out / "inputs" / name
        make_model(architecture, inputs / "model")
        task = flags[flags.index("--task") + 1] if "--task" in flags else "text-classification"
        make_rows(inputs / "data", task)
        words = [sys.executable, "-m", "autopeft", "search", "--quiet", "--out", str(out / name)]
        (inputs / "mix.yaml").write_text(MIX, encoding="utf-8")
        words += ["--model", str(inputs / "model"), "--data", str(inputs / "data"), *LENGTH]
        words += [str(inputs / flag) if flag == "mix.yaml" else flag for flag in flags]
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        subprocess.run(words, check=True, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
        print(f"{name}: done", flush=True)


def stable(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Return the values of a JSON document by path, without those that differ between equal runs."""
    if any(word in path.rpartition(".")[2] for word in UNSTABLE):
        return
    if isinstance(content, dict):
        for key, value in content.items():
            yield from stable(value, f"{path}.{key}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from stable(value, f"{path}.{index}")
    else:
        yield path, content


def read(folder: Path) -> dict[str, Any]:
    """Read the stable values of a run's `trials.csv` and `result.json`."""
    root = str(folder.resolve().parent)
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answer = json.loads((folder / "result.json").read_text(encoding="utf-8").replace(root, "OUT"))
    return dict([*stable(rows, "trials"), *stable(answer, "result")])


def compare(left: Path, right: Path) -> int:
    """Print what differs between two folders of runs, and count values, without reworded sentences."""
    n_different = 0
    for name in SEARCHES:
        a, b = read(left / name), read(right / name)
        different = [key for key in sorted({*a, *b}) if a.get(key, "absent") != b.get(key, "absent")]
        reworded = [key for key in different if "sentence" in key and key in a and key in b]
        n_different += len(different) - len(reworded)
        print(
            f"{name}: {len(a)} values, {len(different) - len(reworded)} different, {len(reworded)} reworded"
        )
        for key in different[:40]:
            print(f"  {key}: {a.get(key, 'absent')!r} -> {b.get(key, 'absent')!r}")
    return n_different


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=["run", "compare"])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.first, arguments.second.resolve())
    elif compare(arguments.first, arguments.second):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
