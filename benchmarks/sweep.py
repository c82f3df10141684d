"""What a careful person gets by hand: a sweep of LoRA in a plain loop, which imports nothing of autopeft.

    python benchmarks/sweep.py OUT.csv --data FOLDER [--model NAME] [--sets NAME …] [--rows 500 2500]

MiniLM-L6 with a new head, on the rows that `returned.py` gives to `autopeft search`. Sixteen runs: LoRA on q
and v and on all linear layers, each at the highest rank within 0.2 % of the model, alpha twice the rank, at
four learning rates and two of the head; AdamW, batches of 32, a warm-up of 6 % and linear decay, 10 epochs up
to 1,000 rows and 5 beyond, rows of a like length together. The run with the best score on the validation rows
(the loss decides equal ones) is trained once more on train and validation rows together. A row of OUT.csv is
a run; `kind` is `sweep` or, for the last one, `refit`, which has the rates of the best of the sweep. The test
file chooses nothing; it scores the runs that are the best so far, and the refit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from rows import SETS, TAGS, Rows, append, are_numbers, as_a_user_has_them, read
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

BUDGET = 0.002
BATCH_SIZE, WARMUP = 32, 0.06
MOST_FEW_ROWS, EPOCHS_OF_FEW, EPOCHS_OF_MANY = 1000, 10, 5
GROUPED_BATCHES = 8  # of which the rows are sorted by length
PLACEMENTS = {
    "q+v": ["query", "value"],
    "all": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
}
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
HEAD_RATES = (5e-3, 3e-2)
FIELDS = (
    *("data", "n_rows", "seed", "kind", "placement", "rank", "rate", "head_rate", "n_steps"),
    *("validation", "validation_loss", "test", "test_macro_f1", "seconds"),
)


class Problem(NamedTuple):
    """A dataset: its classes or tags, none for numbers, and whether each word has a tag."""

    names: tuple[str, ...]
    has_tags: bool


class Run(NamedTuple):
    """What the sweep varies."""

    placement: str
    rate: float
    head_rate: float


class Scores(NamedTuple):
    """Scores of a run; `main` is the F1 of entities, the rank correlation of numbers, or the accuracy."""

    main: float
    macro_f1: float
    loss: float


def encode(rows: Rows, problem: Problem, tokenizer: Any) -> list[tuple[dict[str, list[int]], Any]]:
    """Turn rows into inputs and labels; a word's tag is at its first token, -100 elsewhere."""
    encoded = []
    for row in rows:
        if problem.has_tags:
            inputs = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=128)
            words = [-1 if word is None else word for word in inputs.word_ids()]
            starts = [word >= 0 and word != before for word, before in zip(words, [-1, *words], strict=False)]
            tags = [problem.names.index(tag) if tag in problem.names else 0 for tag in row["tags"]]
            label = [tags[word] if is_start else -100 for word, is_start in zip(words, starts, strict=True)]
        else:
            texts = [row["text"]] if "text" in row else [row["text_a"], row["text_b"]]
            inputs = tokenizer(*texts, truncation=True, max_length=128)
            label = problem.names.index(row["label"]) if problem.names else float(row["label"])
        encoded.append((dict(inputs), label))
    return encoded


def batches(encoded: Sequence[tuple[dict[str, list[int]], Any]], order: Sequence[int]) -> Iterator[Any]:
    """Yield padded inputs and labels of `BATCH_SIZE` rows."""
    for start in range(0, len(order), BATCH_SIZE):
        rows = [encoded[i] for i in order[start : start + BATCH_SIZE]]
        length = max(len(inputs["input_ids"]) for inputs, _ in rows)

        def padded(values: list[int], filler: int, length: int = length) -> list[int]:
            return values + [filler] * (length - len(values))

        inputs = {
            key: torch.tensor([padded(inputs[key], 0) for inputs, _ in rows])
            for key in ("input_ids", "attention_mask", "token_type_ids")
        }
        labels = [padded(label, -100) if isinstance(label, list) else label for _, label in rows]
        yield inputs, torch.tensor(labels)


def grouped_by_length(encoded: Sequence[Any], rng: np.random.Generator) -> list[int]:
    """Shuffle rows, sort those of a few batches by length, and shuffle the batches."""
    order, at_once = rng.permutation(len(encoded)).tolist(), GROUPED_BATCHES * BATCH_SIZE
    for start in range(0, len(order), at_once):
        order[start : start + at_once] = sorted(
            order[start : start + at_once], key=lambda i: len(encoded[i][0]["input_ids"])
        )
    full = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    return [i for batch in rng.permutation(len(full)).tolist() for i in full[batch]]


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Find the spans of tags in the BIO scheme: first and last position, and type."""
    spans, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            spans.add((start, i - 1, tags[start][2:]))
            start = None
        if start is None and tag != "O":
            start = i
    return spans


def evaluate(model: nn.Module, encoded: Sequence[Any], problem: Problem) -> Scores:
    """Score a model on encoded rows."""
    model.eval()
    losses, truth, guesses = list[float](), list[Any](), list[Any]()
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]["input_ids"]))
    with torch.no_grad():
        for inputs, labels in batches(encoded, order):
            output = model(**inputs, labels=labels)
            losses.append(output.loss.item() * len(labels))
            outputs = output.logits.squeeze(-1) if not problem.names else output.logits.argmax(-1)
            guesses += outputs.tolist()
            truth += labels.tolist()
    loss = sum(losses) / len(encoded)
    if problem.has_tags:
        found, known, both = 0, 0, 0
        for row, guess in zip(truth, guesses, strict=True):
            spans = [
                entities([problem.names[tags[i]] for i, tag in enumerate(row) if tag >= 0])
                for tags in (guess, row)
            ]
            found, known, both = found + len(spans[0]), known + len(spans[1]), both + len(spans[0] & spans[1])
        f1 = 2 * both / max(1, found + known)
        return Scores(f1, f1, loss)
    if not problem.names:
        correlation = float(pearsonr(truth, guesses).statistic)
        return Scores(correlation, correlation, loss)
    macro_f1 = f1_score(truth, guesses, average="macro", labels=sorted(set(truth)), zero_division=0)
    return Scores(float(accuracy_score(truth, guesses)), float(macro_f1), loss)


class Adapted(NamedTuple):
    """A base model with an adapter, its rank, and what to call after each step of the optimizer."""

    model: Any
    rank: int
    after_step: Callable[[int], None]


def with_lora(base: nn.Module, targets: list[str], rank: int, task_type: str) -> Adapted:
    """Add a LoRA of twice the rank as alpha."""
    config = LoraConfig(task_type=task_type, r=rank, lora_alpha=2 * rank, target_modules=targets)
    return Adapted(get_peft_model(base, config), rank, lambda step: None)


def trained(
    name: str,
    run: Run,
    encoded: Sequence[Any],
    n_steps: int,
    problem: Problem,
    *,
    seed: int,
    adapt: Callable[[nn.Module, list[str], int, str], Adapted] = with_lora,
) -> tuple[Any, int]:
    """Train one adapter with a new head, and return the model and its rank."""
    torch.manual_seed(seed)
    auto = AutoModelForTokenClassification if problem.has_tags else AutoModelForSequenceClassification
    base = auto.from_pretrained(name, num_labels=max(1, len(problem.names)))
    n_params = sum(parameter.numel() for parameter in base.parameters())
    targets = PLACEMENTS[run.placement]
    layers = [
        module
        for path, module in base.named_modules()
        if isinstance(module, nn.Linear) and path.endswith(tuple(targets))
    ]
    rank = max(1, int(BUDGET * n_params / sum(layer.in_features + layer.out_features for layer in layers)))
    task_type = "TOKEN_CLS" if problem.has_tags else "SEQ_CLS"
    model, rank, after_step = adapt(base, targets, rank, task_type)
    groups: dict[float, list[nn.Parameter]] = {run.rate: [], run.head_rate: []}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[run.rate if "lora_" in path else run.head_rate].append(parameter)
    optimizer = torch.optim.AdamW([{"params": p, "lr": lr} for lr, p in groups.items()], weight_decay=0.0)
    n_warmup = max(1, round(WARMUP * n_steps))
    schedule = LambdaLR(
        optimizer, lambda step: min((step + 1) / n_warmup, (n_steps - step) / max(1, n_steps - n_warmup))
    )
    rng, n_done = np.random.default_rng(seed), 0
    model.train()
    while n_done < n_steps:
        for inputs, labels in batches(encoded, grouped_by_length(encoded, rng)):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            after_step(n_done)
            schedule.step()
            optimizer.zero_grad()
            n_done += 1
            if n_done == n_steps:
                break
    return model, rank


def encoded_splits(
    folder: Path, name: str, *, base: str, n_rows: int, seed: int
) -> tuple[Problem, dict[str, list[tuple[dict[str, list[int]], Any]]]]:
    """Draw rows of a dataset and encode those of each split."""
    splits = as_a_user_has_them(folder / name, n_rows, seed)
    has_tags = name in TAGS
    labels = sorted({t for row in splits["train"] for t in (row["tags"] if has_tags else [row["label"]])})
    problem = Problem(() if are_numbers(labels) else tuple(labels), has_tags)
    tokenizer = AutoTokenizer.from_pretrained(base)
    return problem, {split: encode(rows, problem, tokenizer) for split, rows in splits.items()}


def measure(
    folder: Path, name: str, *, base: str, n_rows: int, seed: int, measured: Sequence[dict[str, str]]
) -> Iterator[tuple[object, ...]]:
    """Yield the runs of the sweep on one draw of rows, but those already measured, and the refit."""
    problem, encoded = encoded_splits(folder, name, base=base, n_rows=n_rows, seed=seed)
    n_train, n_all = len(encoded["train"]), len(encoded["train"]) + len(encoded["validation"])
    epochs = EPOCHS_OF_FEW if n_train <= MOST_FEW_ROWS else EPOCHS_OF_MANY
    n_steps = -(-epochs * n_train // BATCH_SIZE)
    orders = {
        Run(row["placement"], float(row["rate"]), float(row["head_rate"])): (
            float(row["validation"]),
            -float(row["validation_loss"]),
        )
        for row in measured
    }
    for run in (Run(*values) for values in product(PLACEMENTS, RATES, HEAD_RATES)):
        if run in orders:
            continue
        started = time.perf_counter()
        model, rank = trained(base, run, encoded["train"], n_steps, problem, seed=seed)
        held_out, tested = evaluate(model, encoded["validation"], problem), ("", "")
        orders[run] = (round(held_out.main, 4), -round(held_out.loss, 4))
        if orders[run] == max(orders.values()):
            test = evaluate(model, encoded["test"], problem)
            tested = (f"{test.main:.4f}", f"{test.macro_f1:.4f}")
        yield (
            *(name, n_rows, seed, "sweep", run.placement, rank, run.rate, run.head_rate, n_steps),
            *(f"{held_out.main:.4f}", f"{held_out.loss:.4f}", *tested),
            f"{time.perf_counter() - started:.1f}",
        )
    started, n_refit = time.perf_counter(), round(n_steps * n_all / n_train)
    run = max(orders, key=lambda run: orders[run])
    model, rank = trained(base, run, encoded["train"] + encoded["validation"], n_refit, problem, seed=seed)
    test = evaluate(model, encoded["test"], problem)
    yield (
        *(name, n_rows, seed, "refit", run.placement, rank, run.rate, run.head_rate, n_refit, "", ""),
        *(f"{test.main:.4f}", f"{test.macro_f1:.4f}", f"{time.perf_counter() - started:.1f}"),
    )


def main() -> None:
    """Measure the runs that the table does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = read(options.out) if options.out.exists() else []
    for seed, n_rows, name in product(options.seeds, options.rows, options.sets):
        draw = (name, str(n_rows), str(seed))
        measured = [row for row in table if (row["data"], row["n_rows"], row["seed"]) == draw]
        if all(row["kind"] != "refit" for row in measured):
            for row in measure(
                options.data, name, base=options.model, n_rows=n_rows, seed=seed, measured=measured
            ):
                append(options.out, FIELDS, row)


if __name__ == "__main__":
    main()
