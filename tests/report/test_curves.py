"""The chart of losses, and the page that shows it while other processes train."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.report.charts import LossCurve, curves_chart, read_points
from autopeft.report.progress import Lines, LivePage


def points(losses):
    return [{"step": 10 * n, "loss": loss, "tokens_per_second": 5} for n, loss in enumerate(losses, start=1)]


def test_the_later_line_of_a_step_counts_and_a_line_that_is_cut_off_does_not(tmp_path):
    path = tmp_path / "run.jsonl"
    assert read_points(path) == []
    lines = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 20, "loss": 1.0}]
    cut_off = '{"step": 30, "lo'
    path.write_text(cut_off + "\n".join(["", *map(json.dumps, lines), cut_off]))
    assert read_points(path) == [lines[0], lines[2]]


def test_losses_lie_at_their_steps_between_the_labelled_ticks():
    losses = [4.0, 3.0, 2.5, 2.25, 2.0]
    curves = [LossCurve("A", 100, points(losses)), LossCurve("B", 50, points([2.0])), LossCurve("C", 9, [])]
    root = ElementTree.fromstring(str(curves_chart(curves)))
    drawn = [path.get("d") for path in root.iter("path") if path.get("class").startswith("ring")]
    assert len(drawn) == 2  # the third has not begun
    places = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", drawn[0])][:5]
    ticks = [text for text in root.iter("text") if text.get("class") == "left"]
    (low_y, low), (high_y, high) = ((float(t.get("y")) - 4, float(t.text)) for t in ticks)
    shown = [low + (y - low_y) / (high_y - low_y) * (high - low) for _, y in places]
    assert shown == pytest.approx(losses, abs=0.02)
    gaps = [right[0] - left[0] for left, right in pairwise(places)]
    assert gaps == pytest.approx([gaps[0]] * 4, abs=0.11) and 8 * gaps[0] < places[0][0] + 9 * gaps[0] < 400


@pytest.mark.parametrize("executor", ["serial", "process"])
def test_a_page_has_the_losses_of_full_runs(executor, model_dir, data_dir, tmp_path, monkeypatch):
    seen, write = [], LivePage.write

    def writing(self, status):
        write(self, status)
        seen.append((self._run.path / "report.html").read_text(encoding="utf-8"))

    monkeypatch.setattr(LivePage, "write", writing)
    monkeypatch.setattr("autopeft.report.progress._PAUSE_SECONDS", 0.0)
    workers = {} if executor == "serial" else {"executor": executor, "workers": 2}
    settings = {"budget": "5%", "max_steps": 60, "batch_size": 8, "effort": "quick", **workers}
    commands.run_search(run_spec(model_dir, data_dir, out=tmp_path / "run", **settings), progress=Lines())
    shown = [re.findall(r"step (\d+) of 60, loss", text) for text in seen]
    assert len({tuple(steps) for steps in shown}) > 2 and any(len(steps) == 2 for steps in shown)
