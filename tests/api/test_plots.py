"""`result.plot`: the charts of the report as figures, in the page's light colours."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from toys.results import BASELINE, BEST, RANKS, SMALLEST, toy_result, with_head

import autopeft
from autopeft.api.result import with_path
from autopeft.errors import SpecError
from autopeft.report.charts import canvas

STYLE = Path(autopeft.__file__).parent / "templates" / "page" / "style.css.j2"
NAMES = "front seeds difference rates rungs ranks sensitivity".split()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return with_path(with_head(toy_result()), tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("name", NAMES)
def test_every_chart_is_a_figure_that_a_notebook_shows_without_stand_ins(result, name):
    figure = getattr(result.plot, name)()
    assert isinstance(figure, Figure)
    image = Image.open(io.BytesIO(figure._repr_png_()))
    assert image.format == "PNG" and min(image.size) > 200
    text = io.StringIO()
    figure.savefig(text, format="svg")
    assert re.findall(r"#0000[0-9a-f]{2}|#0001[0-9a-f]{2}", text.getvalue().replace("#000000", "")) == []


def test_points_of_the_front_are_the_confirmed_plans(result):
    (axes,) = result.plot.front().axes
    points = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() not in ("None", "_", "|") and len(line.get_xdata()) == 1
    }
    means = {record.plan: record.metric_mean for record in result.confirmations}
    assert points >= {(plan.trainable_params, means[plan]) for plan in (BEST, BASELINE, SMALLEST)}


def test_cells_of_the_rank_map_hold_the_ranks_of_the_best_plan(result):
    (axes,) = result.plot.ranks().axes
    roles = [label.get_text() for label in axes.get_xticklabels()]
    layers = [label.get_text() for label in axes.get_yticklabels()]
    cells = {
        (layers[round(text.get_position()[1])], roles[round(text.get_position()[0])]): text.get_text()
        for text in axes.texts
    }
    assert (cells["0", "q"], cells["0", "v"]) == (str(RANKS["h.0.q"]), str(RANKS["h.0.v"]))
    assert cells["outside", "dense"] == str(RANKS["pooler.dense"])
    assert cells["0", "k"] == "·"


def test_colours_of_the_figures_are_those_of_the_light_page():
    (light,) = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), flags=re.DOTALL)[:1]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))
    variables = {canvas.INK: "ink", canvas.SOFT: "soft", canvas.CARD: "card", canvas.BAND: "band"}
    assert {name: colours[variables[name]] for name in canvas.LIGHT_COLOURS} == canvas.LIGHT_COLOURS
    groups = [colours[f"g{number}"] for number in range(len(canvas.LIGHT_GROUPS))]
    assert (groups, f"g{len(groups)}" in colours) == (list(canvas.LIGHT_GROUPS), False)


def test_chart_without_enough_to_draw_is_refused_with_what_it_needs(result):
    bare = replace(result, confirmations=(), measurements=())
    for name in ("front", "seeds", "rates", "rungs"):
        with pytest.raises(SpecError, match="too little for this chart, which needs two"):
            getattr(bare.plot, name)()
    with pytest.raises(SpecError, match=r"a score 'snr' that is above 0 \(its scores: .*gradient"):
        result.plot.sensitivity("snr")


def test_plots_name_their_charts(result):
    assert repr(result.plot) == f"Plots({', '.join(NAMES)})"
