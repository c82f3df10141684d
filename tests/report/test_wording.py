"""Sentences and numbers of a report: true of the run at hand, and as its reader calls things."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from toys.pages import Page
from toys.results import WORDS, of_language_model, toy_result

from autopeft import report
from autopeft.cli.tables import print_result
from autopeft.records import IN_MEMORY
from autopeft.report import WeightFolders
from autopeft.report.words import difference, metric, plus_minus

BOTH = (report.report_md, report.report_html)


@pytest.fixture
def result():
    return toy_result()


def unconfirmed(result):
    empty = {"label": "none", "mean_difference": None, "interval_95": None, "fidelity": "none"}
    return replace(result, confirmations=(), test=(), verdict=replace(result.verdict, **empty))


def in_memory(result):
    model = result.spec.model.model_copy(update={"id": IN_MEMORY})
    return replace(result, spec=result.spec.model_copy(update={"model": model}))


@pytest.mark.parametrize(
    ("weights", "packages"),
    [
        (WeightFolders(), "transformers and peft alone"),
        (WeightFolders(imports=("autopeft.methods.bitfit",)), "transformers, peft and autopeft"),
        (WeightFolders(order=("a", "b"), n_unmerged=2), "transformers, peft and autopeft"),
    ],
)
def test_what_loads_the_adapter_is_what_the_lines_import(result, weights, packages):
    words = replace(WORDS, weights=weights)
    for render in BOTH:
        assert f"head included, with {packages}:" in render(result, words=words)
        bare = render(of_language_model(), words=words)
        assert (
            f"that the confirmation trained, with {packages}:" in bare and "head included, with" not in bare
        )


def test_splits_that_were_not_read_are_called_so(result):
    def uses(seen):
        table = Page(report.report_html(seen, words=WORDS)).columns("for")
        shown = dict(zip(table["split"], table["for"], strict=True))
        text = report.report_md(seen, words=WORDS)
        assert all(re.search(rf"\| {name} \|.*\| {shown[name]} \|", text) for name in ("confirm", "test"))
        return shown["confirm"], shown["test"]

    assert uses(result) == ("the verdict", "read once, at the end")
    assert uses(replace(result, test=())) == ("the verdict", "not read")
    assert uses(unconfirmed(result)) == ("not read", "not read")
    splits = replace(result.setting.splits, test=0)
    assert uses(replace(result, test=(), setting=replace(result.setting, splits=splits)))[1] == "none given"
    assert "Test: read once" in report.report_html(result, words=WORDS)
    assert "Test: read once" not in report.report_html(replace(result, test=()), words=WORDS)


@pytest.mark.parametrize("gain", [0.0001, 0.0004, 0.00049, 0.0006, 0.01])
def test_a_difference_that_is_proven_is_not_written_as_zero(gain, result):
    text = difference(gain, True, signed=False)
    assert float(text.removesuffix(" points")) == pytest.approx(100 * gain, abs=0.05 if gain > 5e-4 else 5e-3)
    verdict = replace(result.verdict, mean_difference=gain, interval_95=(0.00006, 2 * gain))
    title = report.answer_of(replace(result, verdict=verdict), WORDS).title
    assert title == f"Use the searched LoRA: it beats the default LoRA by {text}." and " 0.0 " not in title


def test_runs_on_objects_in_memory_are_told_of_arguments(result, capsys, tmp_path):
    flags = "A larger --max-cost or --max-time would help."
    seen = in_memory(replace(unconfirmed(result), sentences=(flags,)))
    flag = re.compile(r"--(?:max|confirm|check|batch|epochs)[a-z-]*")
    for render in BOTH:
        assert "A larger max_cost or max_time would help." in render(seen, words=WORDS)
        assert not flag.search(render(seen, words=WORDS))
        assert flags in render(replace(result, sentences=(flags,)), words=WORDS)
    assert "The same search with confirm='half' gives a verdict." in report.answer_of(seen, WORDS).sure[0]
    print_result(seen, tmp_path)
    assert not flag.search(capsys.readouterr().out)


def test_markdown_shows_names_as_they_are(result):
    setting = replace(result.setting, data="_data_ of $a$ and b_c", base_model="__base__")
    text = report.report_md(replace(result, setting=setting), words=WORDS)
    assert text.startswith(r"# \_\_base\_\_ × \_data\_ of \$a\$ and b_c × 10k")


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.000123, 0.0000045, "0.000123 ± 0.0000045"),
        (0.0004, 0.0002, "0.0004 ± 0.0002"),
        (0.0123, 0.0021, "0.012 ± 0.002"),
        (3.2e-9, 4e-10, "3.2e-9 ± 4e-10"),
    ],
)
def test_a_small_loss_keeps_its_digits(value, error, shown):
    """Each number reads back within the rounding of its digits."""
    assert f"{metric(value, False)} {plus_minus(error, False)}" == shown
    assert float(metric(value, False)) == pytest.approx(value, rel=0.05)
