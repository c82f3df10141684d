"""A search on rows in groups: what its standard errors count, what its report says, what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.errors import DataError
from autopeft.report.progress import Lines
from autopeft.setup.build import prepare
from autopeft.setup.opening import check_comparison
from autopeft.statistics import Examples, mean_and_std_error
from autopeft.types import RunSpec

SIZES = {"train": 3, "validation": 5, "test": 4}  # rows of a speaker


@pytest.fixture
def spoken(model_dir: Path, data_dir: Path, tmp_path: Path) -> RunSpec:
    """A run on the toy's rows, each with its speaker: 40 rows of 8 speakers to confirm, 10 in the test."""
    (tmp_path / "rows").mkdir()
    for part, size in SIZES.items():
        with (data_dir / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with (tmp_path / "rows" / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "speaker"])
            writer.writeheader()
            speakers = (f"{part} {i % (len(rows) // size)}" for i in range(len(rows)))
            writer.writerows({**row, "speaker": who} for row, who in zip(rows, speakers, strict=True))
    settings = {"max_steps": 4, "trials": 2, "budget": "5%", "group_column": "speaker"}
    return run_spec(model_dir, tmp_path / "rows", out=tmp_path / "run", **settings)


def test_a_search_counts_groups_and_its_report_says_so(spoken: RunSpec) -> None:
    result, _ = commands.run_search(spoken, progress=Lines())
    for split, n_groups, records in (("confirm", 8, result.full_runs), ("test", 10, result.test)):
        speakers = Examples(groups=[row % n_groups for row in range(40)])
        for record in records:
            runs = [m for m in result.measurements if m.plan == record.plan and m.fidelity.split == split]
            scores = {m.fidelity.seed: m.example_scores for m in runs}
            table = [scores[seed] for seed in record.seeds]
            expected = mean_and_std_error(table, examples=speakers)
            assert (record.metric_mean, record.metric_std_error) == pytest.approx(expected)
            assert record.metric_std_error != pytest.approx(mean_and_std_error(table)[1])
    splits = result.setting.splits
    assert (splits.confirm, splits.confirm_groups, splits.test, splits.test_groups) == (40, 8, 40, 10)
    out = Path(str(spoken.output.out))
    written = json.loads((out / "result.json").read_text(encoding="utf-8"))["splits"]
    assert (written["confirm_groups"], written["test_groups"]) == (8, 10)
    for page in ("report.md", "report.html"):
        text = (out / page).read_text(encoding="utf-8")
        assert "40 in 8 groups" in text and "40 in 10 groups" in text
        assert "the groups of rows" in text


def test_the_groups_are_those_of_the_evaluated_rows(spoken: RunSpec) -> None:
    some = spoken.model_copy(update={"data": spoken.data.model_copy(update={"max_eval_examples": 12})})
    prepared = prepare(some)
    rows = prepared.bench.splits["confirm"].subset(12)
    groups, speakers = prepared.groups["confirm"], [row % 8 for row in rows]
    assert len(groups) == 12
    assert len(set(zip(groups, speakers, strict=True))) == len(set(speakers)) == len(set(groups))


def test_a_confirm_split_of_one_group_is_refused_in_a_new_run(spoken: RunSpec) -> None:
    path = Path(str(spoken.data.source)) / "validation.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join(line.rpartition(",")[0] + ",one" for line in lines).replace("one", "speaker", 1)
    )
    prepared = prepare(spoken)
    with pytest.raises(DataError, match=r"^The 40 examples of the confirm split are of 1 group, "):
        check_comparison(prepared)
