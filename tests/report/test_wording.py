"""Sentences and numbers of a report: true of the run at hand, and as its reader calls things."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from toys.pages import Page
from toys.results import BASELINE, BEST, WORDS, of_language_model, toy_result

from autopeft import report
from autopeft.cli.tables import print_result
from autopeft.records import IN_MEMORY, Arm, Proposal
from autopeft.report import WeightFolders
from autopeft.report.naming import Naming
from autopeft.report.words import difference, metric, plus_minus, tied

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


def test_a_lower_rate_that_began_with_a_long_run_is_no_continued_short_one(result):
    lower = replace(BEST, learning_rate=BEST.learning_rate / 2)
    run = next(m for m in result.measurements if m.plan == BEST and m.fidelity.train_steps == 75)
    arm = Arm(kind="sampled", label="lora/top")
    late = replace(
        result,
        measurements=(*result.measurements, replace(run, plan=lower)),
        proposals=(*result.proposals, Proposal(trial=9, arm=arm, source="retuned", plan=lower)),
    )
    for render in BOTH:
        assert "continued the shorter one." in render(result, words=WORDS)
        assert "but lower learning rates of the leading plans were tried at" in render(late, words=WORDS)
    page = "Lower learning rates of the leading plans start at the last length."
    assert [page in report.report_html(seen, words=WORDS) for seen in (result, late)] == [False, True]


def test_a_page_of_several_runs_says_which_pictures_are_unconfirmed(result):
    page = report.several_html([("first", result, WORDS), ("second", unconfirmed(result), WORDS)])
    first, second = page.split('<section id="run-2">')
    said = "One seed, so a hint and no result."
    assert said in second and said not in first
    assert "Each bar is a 95 % interval of one plan" in first and "Each bar" not in second


@pytest.mark.parametrize("is_share", [True, False])
def test_numbers_have_one_minus_sign_and_zero_has_none(is_share):
    shown = [metric(value, is_share) for value in (-0.25, -0.00012, -0.0, 0.25)]
    assert shown == (
        ["−25.0 %", "0.0 %", "0.0 %", "25.0 %"] if is_share else ["−0.250", "−0.00012", "0.000", "0.250"]
    )


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


def test_a_row_is_not_named_twice(result):
    text = report.report_md(result, words=WORDS)
    assert "| **head alone** |" in text and "**head alone**: head alone" not in text
    assert (
        f"| **baseline**: default LoRA | 93.6 % ± 0.2 | 94.0 % ± 0.2 | {BASELINE.trainable_params:,}" in text
    )


@pytest.mark.parametrize(
    ("label", "reason", "interval", "said"),
    [
        ("better", "better", (0.002, 0.03), "The line does not reach 0"),
        ("default kept", "worse", (-0.03, -0.002), "The line does not reach 0"),
        ("equivalent", "equivalent", (-0.011, 0.008), "The two are equally good"),
        ("default kept", "equivalent", (-0.011, 0.008), "The two are equally good"),
        ("inconclusive", "futile", (-0.02, 0.03), "or seeds beyond those planned, would"),
        ("inconclusive", "planned", (-0.02, 0.03), "more seeds or confirm examples would"),
    ],
)
def test_the_picture_of_the_difference_says_what_the_verdict_says(result, label, reason, interval, said):
    """The intervals of the first two cross the edge of the band, ± 1 point, though they are settled."""
    changes = {"label": label, "stopped_by": reason, "interval_95": interval}
    page = report.report_html(replace(result, verdict=replace(result.verdict, **changes)), words=WORDS)
    caption = page.partition("The line is the 95 % interval")[2].partition("</figcaption>")[0]
    assert said in caption and ("would shorten it" in caption) == (label == "inconclusive")


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


def test_a_plan_with_the_adapters_of_a_baseline_is_a_default_whoever_proposed_it(result):
    """The sampler can propose what people write, at another learning rate."""
    twin = replace(BASELINE, learning_rate=6e-3)
    arm, label = Arm(kind="sampled", label="lora/all"), "LoRA on all linear maps"
    proposals = (
        Proposal(trial=0, arm=Arm(kind="baseline", label=label), source="enqueued", plan=BASELINE),
        Proposal(trial=1, arm=arm, source="sampler", plan=twin),
        Proposal(trial=2, arm=Arm(kind="sampled", label="lora/top"), source="sampler", plan=BEST),
    )
    naming = Naming(result=result, words=WORDS, first={p.plan: p for p in proposals})
    naming = replace(naming, result=replace(result, proposals=proposals))
    assert naming.full(twin) == naming.full(BASELINE) == "the default LoRA on all linear maps"
    assert naming.full(BEST) == "the searched LoRA"


def test_a_mix_that_got_no_module_for_a_method_says_so(result):
    """The leaderboard alone: `trials.csv` names the arm as it was proposed."""
    arm = Arm(kind="sampled", label="lora/q+v & ia3/mlp", methods=("lora", "ia3"))
    mix = replace(result, proposals=(Proposal(trial=0, arm=arm, source="sampler", plan=BEST),))
    for render in BOTH:
        assert "ia3/mlp (no module for ia3)" in render(mix, words=WORDS)
    assert "no module" not in report.trials_csv(mix)


def test_a_rate_is_not_broken_at_its_hyphen_and_stays_ascii(result):
    best = replace(result, best=replace(BEST, learning_rate=3.7e-3))
    page = report.report_html(best, words=WORDS)
    assert 'learning rate <span class="tied">3.7e-3</span>.' in page
    assert re.search(r"\.tied \{ white-space: nowrap; \}", page)
    assert "<b>" not in tied("<b>")
