"""The gain of a search on the test split, measured by a training loop that shares no code with the search.

    python reports/studies/real_gains.py OUT_DIR EPOCHS MAX_EXAMPLES BUDGET,BUDGET,... DATA [DATA ...]
    python reports/studies/real_gains.py --summary OUT_DIR

Each search runs at the default settings, without a confirmation. Then the best plan, the smallest plan and
the baseline are trained in full with five fresh seeds by the loop below: batches of similar length in
random order, AdamW, linear decay, number labels in units of their spread. They are scored on the test
file, which no search has read, by the metric of the search (accuracy, macro-F1 where labels are uneven, or
Pearson's r), computed by scikit-learn and scipy. Results that OUT_DIR holds are not computed again.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from autopeft import pipeline
from autopeft.adapters import compile_plan
from autopeft.data import LabelledData, load
from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.model import load as load_model
from autopeft.records import (
    BudgetSpec,
    ConfirmSpec,
    DataSpec,
    Measurement,
    ModelSpec,
    OutputSpec,
    Plan,
    RunSpec,
    SearchResult,
    TaskSpec,
)
from autopeft.store import RunDir

SEEDS = (101, 102, 103, 104, 105)
FIELDS = (
    *("data", "budget", "plan", "params", "learning_rate", "seed"),
    *("metric", "score", "accuracy", "search_r", "arm"),
)


class Silence:
    """A display that shows nothing."""

    def phase(self, name: str, n_measurements: int) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def searched(spec: RunSpec, out: Path) -> SearchResult:
    """The result of a search, run now or read from the folder."""
    if (out / "result.json").is_file():
        return RunDir.open(out).load_result()
    resume = out.is_dir()
    return pipeline.search(spec, resume=resume, progress=Silence())[0]


def trained_predictions(
    plan: Plan, base: BaseModel, data: LabelledData, *, epochs: float, batch_size: int, seed: int
) -> np.ndarray:
    """Predictions for the test split after a full training run: a class or a number per row."""
    is_number = data.target.kind == "number"
    mean, spread = (np.mean(data.train.labels), np.std(data.train.labels)) if is_number else (0, 1)
    stack = compile_plan(plan, discover("autopeft.methods"))
    with base.attached(stack.configs, plan=plan, task_type="SEQ_CLS", seed=seed) as model:
        factors = {}
        for adapter in plan.adapters:
            factors[adapter.method] = adapter.rate_factor
        head, groups = [], defaultdict(list)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if "modules_to_save" in name:
                head.append(parameter)
            else:
                pairs = zip(stack.names, stack.configs, strict=False)
                of = next((config for site, config in pairs if f".{site}" in name), None)
                method = {"ln_tuning": "ln_tuning"}.get(
                    of.peft_type.value.lower(), of.peft_type.value.lower()
                )
                groups[factors.get(method, 1.0)].append(parameter)
        width = base.module.config.hidden_size
        parts = [{"params": p, "lr": plan.learning_rate * factor} for factor, p in groups.items()]
        parts.append({"params": head, "lr": 10 / width if plan.adapters else plan.learning_rate})
        optimizer = torch.optim.AdamW(parts, weight_decay=0.0)
        per_epoch = max(1, len(data.train.labels) // batch_size)
        n_steps = max(1, math.ceil(epochs * per_epoch))
        warmup = max(1, round(0.06 * n_steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda t: min((t + 1) / warmup, max(0.0, (n_steps - t) / (n_steps - warmup + 1)))
        )
        rng = np.random.default_rng(seed)
        model.train()
        torch.manual_seed(seed)
        waiting: list[list[int]] = []
        for _ in range(n_steps):
            waiting = waiting or epoch(data, batch_size=batch_size, rng=rng)
            chosen = waiting.pop()
            logits = model(**tokens(base, [data.train.inputs[i] for i in chosen])).logits
            labels = torch.tensor([data.train.labels[i] for i in chosen])
            if is_number:
                loss = nn.functional.mse_loss(logits[:, 0], ((labels - mean) / spread).float())
            else:
                loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_([p for part in parts for p in part["params"]], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        predicted = np.zeros(len(data.test.labels))
        order = sorted(range(len(predicted)), key=lambda i: len(data.test.inputs[i][0]))
        with torch.inference_mode():
            for start in range(0, len(order), 64):
                chosen = order[start : start + 64]
                logits = model(**tokens(base, [data.test.inputs[i] for i in chosen])).logits
                predicted[chosen] = (logits[:, 0] if is_number else logits.argmax(-1)).numpy()
    return predicted * spread + mean


def epoch(data: LabelledData, *, batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """Whole batches of every row once, in random order; rows of eight batches are sorted by length first."""
    rows = rng.permutation(len(data.train.labels)).tolist()
    batches = []
    for start in range(0, len(rows), 8 * batch_size):
        near = sorted(rows[start : start + 8 * batch_size], key=lambda i: len(" ".join(data.train.inputs[i])))
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    return [whole[i] for i in rng.permutation(len(whole))]


def scored(metric: str, truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float | str]:
    """The metric of the search, and the accuracy of classes."""
    if metric == "pearson":
        return float(stats.pearsonr(truth, predicted).statistic), ""
    accuracy = float(accuracy_score(truth, predicted))
    return (
        float(f1_score(truth, predicted, average="macro")) if metric == "macro-f1" else accuracy
    ), accuracy


def tokens(base: BaseModel, texts: list[tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """One padded batch."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = base.tokenizer(*columns, truncation=True, max_length=128, padding=True, return_tensors="pt")
    return dict(encoded)


def rows_of(spec: RunSpec, out: Path, done: set[tuple[str, ...]]) -> Iterator[tuple[object, ...]]:
    """The runs that are not done yet of one search."""
    result = searched(spec, out)
    data = load(spec.data, seed=spec.search.seed)
    name, budget = Path(spec.data.source or "").name, spec.budget.requested
    base = None
    for plan_name in ("best", "smallest", "baseline"):
        plan: Plan = getattr(result, plan_name)
        same = next((n for n in ("best", "smallest") if getattr(result, n) == plan), plan_name)
        arm = next(str(p.arm) for p in result.proposals if p.plan == plan)
        for seed in SEEDS:
            if (name, budget, plan_name, str(seed)) in done or same != plan_name:
                continue
            if base is None:
                base = load_model(
                    ModelSpec(),
                    auto_class="AutoModelForSequenceClassification",
                    label_names=data.label_names,
                )
            predicted = trained_predictions(
                plan,
                base,
                data,
                epochs=spec.task.epochs,
                batch_size=min(spec.task.batch_size, len(data.train.labels)),
                seed=seed,
            )
            metric = result.setting.metric
            score, accuracy = scored(metric, np.array(data.test.labels), predicted)
            rate, cost = f"{plan.learning_rate:.3g}", f"{result.cost.full_runs:.2f}"
            known = (name, budget, plan_name, plan.trainable_params, rate, seed)
            yield (*known, metric, f"{score:.5f}", accuracy and f"{accuracy:.5f}", cost, arm)
        if same != plan_name and (name, budget, plan_name, f"= {same}") not in done:
            yield (name, budget, plan_name, plan.trainable_params, "", f"= {same}", "", "", "", "", arm)


def main(out: Path, epochs: float, max_examples: int, budgets: list[str], sources: list[str]) -> None:
    """Search and measure what is missing."""
    table = out / "gains.csv"
    for source in sources:
        for budget in budgets:
            done = set()
            if table.exists():
                with table.open(encoding="utf-8") as file:
                    done = {
                        tuple(row[n] for n in ("data", "budget", "plan", "seed"))
                        for row in csv.DictReader(file)
                    }
            folder = out / f"{Path(source).name}-{budget.rstrip('%')}"
            spec = RunSpec(
                data=DataSpec(source=source, max_examples=max_examples),
                task=TaskSpec(epochs=epochs),
                budget=BudgetSpec(requested=budget),
                confirm=ConfirmSpec(fidelity="none"),
                output=OutputSpec(out=str(folder)),
            )
            for row in rows_of(spec, folder, done):
                is_new = not table.exists()
                with table.open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([FIELDS, row] if is_new else [row])


def summary(out: Path) -> None:
    """Best and smallest plan against the baseline, paired by seed, with Holm's correction over the table."""
    by_cell: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    first_rows: dict[tuple[str, str, str], dict[str, str]] = {}
    with (out / "gains.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            first_rows.setdefault((row["data"], row["budget"], row["plan"]), row)
            if row["seed"].startswith("= "):
                same = by_cell[row["data"], row["budget"]][row["seed"][2:]]
                by_cell[row["data"], row["budget"]][row["plan"]] = same
            else:
                by_cell[row["data"], row["budget"]][row["plan"]][row["seed"]] = float(row["score"])
    cells = []
    for (data, budget), plans in sorted(by_cell.items()):
        for name in ("best", "smallest"):
            scores, base = plans[name], plans["baseline"]
            gaps = np.array([100 * (scores[seed] - base[seed]) for seed in scores if seed in base])
            p = float(stats.ttest_1samp(gaps, 0).pvalue) if gaps.any() and len(gaps) > 1 else 1.0
            cells.append((data, budget, name, plans, gaps, p))
    order = sorted(range(len(cells)), key=lambda i: cells[i][5])
    holm, worst = {}, 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, cells[index][5] * (len(cells) - place)))
        holm[index] = worst
    print(
        "| data | budget | plan | arm | parameters | baseline's | metric | score | gain (95 % interval) "
        "| Holm p | search R |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for index, (data, budget, name, plans, gaps, _) in enumerate(cells):
        half = 0.0
        if len(gaps) > 1:
            half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
        mean = 100 * sum(plans[name].values()) / max(1, len(plans[name]))
        row, base = first_rows[data, budget, name], first_rows[data, budget, "baseline"]
        cost = next(
            (
                r["search_r"]
                for (d, b, _), r in first_rows.items()
                if (d, b) == (data, budget) and r["search_r"]
            ),
            "",
        )
        print(
            f"| {data} | {budget} | {name} | {row['arm']} | {row['params']} | {base['params']} "
            f"| {row['metric'] or first_rows[data, budget, 'best']['metric']} | {mean:.1f} "
            f"| {gaps.mean():+.1f} ({gaps.mean() - half:+.1f} to {gaps.mean() + half:+.1f}) "
            f"| {holm[index]:.2f} | {cost} |"
        )
    pooled = np.array([gaps.mean() for *_, name, _, gaps, _ in cells if name == "best"])
    half = (
        stats.t.ppf(0.975, len(pooled) - 1) * pooled.std(ddof=1) / math.sqrt(len(pooled))
        if len(pooled) > 1
        else 0
    )
    low, high = pooled.mean() - half, pooled.mean() + half
    print(
        f"\nPooled over {len(pooled)} cells: best less baseline {pooled.mean():+.2f} "
        f"({low:+.2f} to {high:+.2f}) points."
    )


if __name__ == "__main__":
    if sys.argv[1] == "--summary":
        summary(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","), sys.argv[5:])
