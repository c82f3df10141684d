"""Do adaptive ranks beat LoRA of equal total rank? AdaLoRA and EVA of peft, in the loop of `sweep.py`.

    python benchmarks/adaptive_ranks.py OUT.csv --data FOLDER [--model NAME] [--sets NAME …]

On the 500 rows of `sweep.py`, with its four learning rates and, for the head, the rate of the best LoRA on
all linear layers in `sweep.csv`. Both methods have the rank of that LoRA, the highest within 0.2 % of the
model. AdaLoRA starts with twice the rank and prunes to it between a tenth and seven tenths of the steps;
`adapter_params` counts it as it starts. EVA starts from the main directions of each module's inputs and gives
it a rank of up to twice that; `eva start` keeps the ranks of LoRA. A row of OUT.csv is a run with its scores
on the validation rows, which choose the rate, and on the test file, which chooses nothing; `lora` is the best
LoRA, trained again. Runs that OUT.csv has are not measured again.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from peft import AdaLoraConfig, EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from rows import SETS, append, measured_keys, read
from sweep import (
    BATCH_SIZE,
    EPOCHS_OF_FEW,
    RATES,
    Adapted,
    Run,
    batches,
    encoded_splits,
    evaluate,
    trained,
    with_lora,
)
from torch import nn

N_ROWS, SEED = 500, 1
FIELDS = (
    *("data", "method", "rate", "head_rate", "adapter_params", "validation", "validation_loss"),
    *("test", "seconds"),
)


def best_lora(sweep: list[dict[str, str]], name: str) -> Run:
    """Return the LoRA on all linear layers with the best score on the validation rows."""
    rows = [row for row in sweep if (row["data"], row["n_rows"], row["kind"]) == (name, str(N_ROWS), "sweep")]
    rows = [row for row in rows if (row["placement"], row["seed"]) == ("all", str(SEED))]
    best = max(rows, key=lambda row: (float(row["validation"]), -float(row["validation_loss"])))
    return Run("all", float(best["rate"]), float(best["head_rate"]))


def main() -> None:
    """Measure the runs that the table does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured, sweep = (
        measured_keys(options.out, ("data", "method", "rate")),
        read(Path(__file__).parent / "sweep.csv"),
    )
    for name in options.sets:
        problem, encoded = encoded_splits(options.data, name, base=options.model, n_rows=N_ROWS, seed=SEED)
        rows, usual = encoded["train"], best_lora(sweep, name)
        n_steps = -(-EPOCHS_OF_FEW * len(rows) // BATCH_SIZE)

        def with_adalora(
            base: nn.Module, targets: list[str], rank: int, task_type: str, n_steps: int = n_steps
        ) -> Adapted:
            config = AdaLoraConfig(
                task_type=task_type, init_r=2 * rank, target_r=rank, lora_alpha=4 * rank,
                target_modules=targets, total_step=n_steps, tinit=n_steps // 10, tfinal=3 * n_steps // 10,
            )  # fmt: skip
            model = get_peft_model(base, config)
            return Adapted(model, rank, model.base_model.update_and_allocate)

        def with_eva(
            base: nn.Module, targets: list[str], rank: int, task_type: str, rho: float, rows: list = rows
        ) -> Adapted:
            config = LoraConfig(
                task_type=task_type, r=rank, lora_alpha=2 * rank, target_modules=targets,
                init_lora_weights="eva", eva_config=EvaConfig(rho=rho, use_label_mask=False),
            )  # fmt: skip
            model = get_peft_model(base, config)
            inputs = [inputs for inputs, _ in batches(rows, range(len(rows)))]
            initialize_lora_eva_weights(model, inputs, show_progress_bar=False)
            return Adapted(model, rank, lambda step: None)

        runs = [("lora", with_lora, usual.rate)]
        adaptive = (
            ("adalora", with_adalora),
            ("eva", partial(with_eva, rho=2.0)),
            ("eva start", partial(with_eva, rho=1.0)),
        )
        runs += [(method, adapt, rate) for method, adapt in adaptive for rate in RATES]
        for method, adapt, rate in runs:
            if (name, method, str(rate)) in measured:
                continue
            started, run = time.perf_counter(), Run("all", rate, usual.head_rate)
            model, _ = trained(options.model, run, rows, n_steps, problem, seed=SEED, adapt=adapt)
            n_params = sum(
                p.numel() for path, p in model.named_parameters() if "lora_" in path and p.requires_grad
            )
            held_out, test = (evaluate(model, encoded[split], problem) for split in ("validation", "test"))
            row = (name, method, rate, usual.head_rate, n_params)
            scores = (f"{held_out.main:.4f}", f"{held_out.loss:.4f}", f"{test.main:.4f}")
            append(options.out, FIELDS, (*row, *scores, f"{time.perf_counter() - started:.1f}"))


if __name__ == "__main__":
    main()
