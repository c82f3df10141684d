"""README and docs say what the code is: tables, links, and Python that runs."""

from __future__ import annotations

import csv
import math
import re
import shutil
from pathlib import Path
from statistics import fmean, stdev

import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from autopeft.store import read_plan
from tools.docs.method_tables import PAGE, filled

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    *(path for name in ("docs", "research", "examples") for path in sorted((ROOT / name).glob("*.md"))),
]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(code: str, names: dict[str, object], *, origin: Path) -> None:
    exec(compile(code, str(origin), "exec"), names)


def test_tables_are_those_of_the_parts() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == filled(text), "run: python tools/docs/method_tables.py"


def table_after(text: str, title: str) -> list[list[str]]:
    """The cells of the first table after a title, without its header."""
    table = re.search(r"^(\|.*\n)+", text[text.index(title) :], re.MULTILINE)
    assert table, title
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in table[0].splitlines()][2:]


def read_runs(name: str, steps: str = "300") -> list[dict[str, str]]:
    with (ROOT / "benchmarks/studies" / name).open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["steps"] == steps]


def best_of(runs: list[dict[str, str]]) -> dict[str, str]:
    return max(runs, key=lambda row: float(row["confirm"]))


def test_scores_in_the_readme_are_those_of_the_measured_tables() -> None:
    races, recipes = read_runs("race_gains.csv"), read_runs("usual_recipe.csv")
    cells = table_after(README.read_text(encoding="utf-8"), "## What it gains")
    assert len(cells) == 6
    for data, *shown in cells:
        columns: list[list[float]] = [[], [], []]
        for seed in ("0", "1", "2"):
            guides = [row for row in recipes if (row["data"], row["seed"]) == (data.split()[0], seed)]
            runs = [
                row
                for row in races
                if (row["data"], row["budget"], row["seed"]) == (data.split()[0], "0.5%", seed)
            ]
            (suggested,) = (row for row in runs if row["plan"].endswith("LoRA on all linear layers at 0.38"))
            (search,) = (row for row in runs if row["what"] == "search")
            assert len(guides) == 2
            for column, run in zip(columns, (best_of(guides), suggested, search), strict=True):
                column.append(100 * float(run["test"]))
        assert shown == [f"{fmean(column):.1f}" for column in columns], data
    (longer,) = read_runs("usual_recipe.csv", steps="3000")
    said = f"With 3,000 steps, {longer['data']} reaches {100 * float(longer['test']):.1f}."
    assert said in README.read_text(encoding="utf-8")


def test_gains_over_a_sweep_are_those_of_the_measured_table() -> None:
    rows = read_runs("race_gains.csv")
    gains, costs = [], []
    page = (ROOT / "research/2026-11-30-54-searches.md").read_text(encoding="utf-8")
    for data, *scores in table_after(page, "**Measured.**"):
        for budget, shown in zip(("0.1%", "0.2%", "0.5%"), scores, strict=True):
            points = []
            for seed in ("0", "1", "2"):
                cell = (data.split()[0], budget, seed)
                runs = [row for row in rows if (row["data"], row["budget"], row["seed"]) == cell]
                (search,) = (row for row in runs if row["what"] == "search")
                sweep = [row for row in runs if row["what"] == "sweep"]
                assert len(sweep) == 4
                points.append([100 * float(row["test"]) for row in (search, best_of(sweep))])
                costs.append(float(search["r"]))
            gains += [ours - theirs for ours, theirs in points]
            gain = f"{fmean(ours - theirs for ours, theirs in points):+.1f}".replace("-0.0", "+0.0")
            assert shown == gain.replace("-", "−"), cell
    by_dataset = [fmean(gains[at : at + 9]) for at in range(0, 54, 9)]
    half = 2.571 * stdev(by_dataset) / math.sqrt(6)  # Student's t, five degrees of freedom
    mean, low, high = (f"{gain:+.1f}".replace("-", "−") for gain in (fmean(gains), min(gains), max(gains)))
    n_ahead, n_behind = sum(gain >= 1 for gain in gains), sum(gain <= -1 for gain in gains)
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"gained {mean[1:]} points on average (95 % interval ± {half:.1f}), from {low} to {high}" in text
    assert f"{n_ahead} were at least a point ahead, {n_behind} at least a point behind" in text
    assert f"costs {fmean(costs):.1f} full runs" in text and len(gains) == 54


def test_losses_of_smaller_budgets_are_those_of_the_measured_table() -> None:
    rows = [row for row in read_runs("race_gains.csv") if row["budget"] == "0.5%"]
    cells = table_after((ROOT / "docs/searching.md").read_text(encoding="utf-8"), "**How small can it be?**")
    for data, score, *losses in cells:
        of_data = [row for row in rows if row["data"] == data.split()[0] and row["seed"] == "0"]
        # The sizes of tags are of searches with the list of before 2026-11-30, 16:00.
        searches = {row["what"]: row for row in of_data}
        search = searches.get("former search", searches["search"])
        assert score == f"{100 * float(search['confirm']):.1f}"
        sizes = [row["verdict"] for row in of_data if row["what"].startswith("size")]
        for shown, verdict in zip(losses, sizes, strict=True):
            mean, low, high = (100 * float(each) for each in re.findall(r"[+-][\d.]+", verdict))
            assert shown.strip("*") == f"{mean:+.1f}".replace("-", "−"), data
            assert ("*" in shown) == (low > 0 or high < 0)


def test_policies_in_the_concepts_are_those_of_the_replays() -> None:
    results = (ROOT / "benchmarks/tabular/results.md").read_text(encoding="utf-8")
    regret = {row[0]: (row[5], row[1]) for row in table_after(results, "## The race")}
    names = {
        "LoRA on q and v": "plain default",
        "sweep of two full runs": "sweep of two",
        "sweep of eight full runs": "sweep",
        "Hyperband with as much to spend": "Hyperband 7 R",
        "autopeft search --effort quick": "quick",
        "autopeft search": "search",
        "--effort thorough --seeds 1": "thorough, one seed",
    }
    rows = table_after((ROOT / "docs/concepts.md").read_text(encoding="utf-8"), "## What it costs")
    for policy, cost, points in rows:
        expected = [f"{float(value):.1f}" for value in regret[names[policy.strip("*`")]]]
        assert [cost, points] == expected, policy


def test_links_of_pages_lead_to_files() -> None:
    repository, missing = "https://github.com/autopeft/autopeft/blob/main/", []
    for page in PAGES:
        links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        here = [page.parent / link for link in links if "://" not in link]
        here += [ROOT / link.removeprefix(repository) for link in links if link.startswith(repository)]
        missing += [(page.name, str(path)) for path in here if not path.exists()]
    assert missing == []


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and MkDocs make them of its headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {title.strip().lower().replace(" ", "-") for title in plain}


def test_anchors_of_links_are_headings() -> None:
    found = [
        ((page.parent / path if path else page), anchor)
        for page in PAGES
        for path, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(found) > 10
    assert [(page.name, anchor) for page, anchor in found if anchor not in headings(page)] == []


@pytest.fixture
def reviews(model_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and data of the names that the pages use, which is the working directory."""
    shutil.copytree(model_dir, tmp_path / "bert-base-uncased")
    shutil.copytree(data_dir, tmp_path / "reviews")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_of_the_readme_runs(reviews: Path) -> None:
    load, search = blocks(README.read_text(encoding="utf-8"), "python")
    names: dict[str, object] = {}
    run(search, names, origin=README)
    shutil.copytree(reviews / "reports/reviews", reviews / "reports/RUN")
    loaded: dict[str, object] = {}
    run(load, loaded, origin=README)
    assert isinstance(loaded["model"], PeftModel) and isinstance(names["adapted"], PeftModel)
    assert len(set(loaded["config"].id2label.values())) == 2


def test_python_page_runs(reviews: Path, model_dir: Path) -> None:
    page = ROOT / "docs" / "python.md"
    names: dict[str, object] = {}
    first, *others = blocks(page.read_text(encoding="utf-8"), "python")
    run(first, names, origin=page)
    plan = read_plan(reviews / "reports" / "reviews")
    base = AutoModelForSequenceClassification.from_pretrained(model_dir, num_labels=2)
    adapted = PeftModel.from_pretrained(base, reviews / "trained" / "adapter", is_trainable=True)
    n_trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert n_trained == plan.plan.trainable_params + plan.head_params
    for code in others:
        run(code, names, origin=page)
    assert isinstance(names["trainable"], PeftModel)
