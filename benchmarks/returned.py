"""What is the returned adapter worth? Searches on real datasets: the judged adapter next to the refit.

    python benchmarks/returned.py OUT.csv --data FOLDER [--sets NAME …] [--rows 500 2500] [--seeds 1]

Each run is `autopeft search --budget 0.2%` on MiniLM-L6 with `n_rows` rows of a train file, a fifth as many
of the validation file, and the whole test file. A row of OUT.csv has the test scores of the adapter that was
judged and of the one that was trained again on all rows. The test files choose nothing. Rows that OUT.csv
holds are not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path

import torch
from rows import SETS, TAGS, append, as_a_user_has_them, measured_keys, write_splits

import autopeft

FIELDS = (
    *("data", "n_rows", "seed", "metric", "verdict", "plan", "n_train", "n_all", "judged", "judged_error"),
    *("refit", "refit_error", "baseline_plan", "baseline"),
)


def measure(folder: Path, name: str, *, n_rows: int, seed: int, effort: str) -> tuple[object, ...]:
    """Search on one draw of rows, and return a row of the table."""
    splits = as_a_user_has_them(folder / name, n_rows, seed)
    with tempfile.TemporaryDirectory() as scratch:
        write_splits(splits, Path(scratch))
        result = autopeft.search(
            None,
            scratch,
            "0.2%",
            task="token-classification" if name in TAGS else "text-classification",
            effort=effort,
            seed=seed,
            out=f"{scratch}/run",
            quiet=True,
        )
    judged = next(record for record in result.test if record.plan == result.best)
    baseline = next(record for record in result.test if record.plan == result.baseline)
    refit, sizes = result.refit, result.setting.splits
    assert refit is not None and refit.test is not None
    return (
        *(name, n_rows, seed, result.setting.metric, result.verdict.label, result.best.lead_method),
        *(sizes.train, refit.train_rows, judged.metric_mean, judged.metric_std_error),
        *(refit.test.metric_mean, refit.test.metric_std_error),
        *(baseline.name, baseline.metric_mean),
    )


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--effort", default="normal")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = measured_keys(options.out, ("data", "n_rows", "seed"))
    for seed, n_rows, name in product(options.seeds, options.rows, options.sets):
        if (name, str(n_rows), str(seed)) in measured:
            continue
        row = measure(options.data, name, n_rows=n_rows, seed=seed, effort=options.effort)
        append(options.out, FIELDS, row)


if __name__ == "__main__":
    main()
