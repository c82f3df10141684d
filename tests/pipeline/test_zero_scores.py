"""A score that is 0 at every site, or below 0, is named for what it is."""

from __future__ import annotations

import pytest
from toys.specs import run_spec
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.errors import SpecError
from autopeft.extension import discover
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.scoring import logged_scores

CONSTANT_SCORE = """
from types import SimpleNamespace

def constant(name, value):
    def reducer(sites):
        values = lambda n_examples: {} if value is None else {site.name: value for site in sites}
        return SimpleNamespace(values=values, update=None, add=None)
    return SimpleNamespace(name=name, summary="", unit="", reads_examples=False, reducer=reducer)

ZERO, BELOW, EMPTY = constant("zero", 0.0), constant("below", -1.0), constant("empty", None)
"""


@pytest.fixture(autouse=True)
def constant_scores(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "constant_scores.py").write_text(CONSTANT_SCORE, encoding="utf-8")
    metadata = tmp_path / "package" / "constant_scores-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: constant-scores\nVersion: 1.0\n", encoding="utf-8")
    names = "".join(f"{name} = constant_scores:{name.upper()}\n" for name in ("zero", "below", "empty"))
    (metadata / "entry_points.txt").write_text(f"[autopeft.sensitivity]\n{names}", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "package")
    discover.cache_clear()
    yield
    discover.cache_clear()


@pytest.mark.parametrize("name", ["zero", "empty"])
def test_a_score_of_zeros_gets_no_credit_for_the_suggestion(name, model_dir, data_dir, tmp_path):
    settings = ("--model", model_dir, "--data", data_dir, "--budget", "5%", "--out", tmp_path / "out")
    result = CliRunner().invoke(app, ["analyze", *map(str, settings), "--scores", name])
    assert result.exit_code == 0, result.output
    assert f"{name}: 0 at every site" in result.stdout
    assert f"suggestion without a score ({name} tells nothing)" in result.stdout
    header = (tmp_path / "out" / "suggestion.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert f"without a score, as {name} is 0 at every site" in header and "by the score" not in header


def test_a_search_warns_of_a_score_of_zeros_and_of_no_other(model_dir, data_dir, caplog):
    prepared = prepare(run_spec(model_dir, data_dir, budget="5%"))
    logged_scores(prepared, ["zero", "parameters"])
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "The score zero is 0 at every site" in said and "--score" in said


def test_a_score_below_0_is_no_matter_of_the_number_format(model_dir, data_dir):
    prepared = prepare(run_spec(model_dir, data_dir, budget="5%"))
    with pytest.raises(SpecError, match=r"score below is -1\.0 at .*; a score gives at least 0") as caught:
        logged_scores(prepared, ["below"])
    assert "fp32" not in str(caught.value)
