"""The title where the verdict alone says too much: nothing finished, or another plan is ahead."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import (
    BASELINE,
    BEST,
    HEAD,
    SMALLEST,
    WORDS,
    of_language_model,
    toy_confirmations,
    toy_result,
    with_head,
)

from autopeft import report
from autopeft.records import Arm, Status
from autopeft.report.measured import split_uses


def kept(result, **changes):
    """The result with the default handed over, which nothing was compared with."""
    verdict = replace(result.verdict, label="default kept", mean_difference=0.0, interval_95=None)
    return replace(result, best=BASELINE, smallest=BASELINE, verdict=verdict, **changes)


def said(result):
    answer = report.answer_of(result, WORDS)
    return " ".join((answer.title, *answer.aside, *answer.use, *answer.sure))


def test_a_default_none_of_whose_runs_finished_is_no_answer():
    result = toy_result()
    runs = tuple(
        replace(m, status=Status.DIVERGED, loss=None, metric=None) if m.plan == BASELINE else m
        for m in result.measurements
    )
    result = kept(result, measurements=runs, confirmations=(), test=())
    answer = report.answer_of(result, WORDS)
    assert (answer.mark, answer.tone) == ("nothing usable", "inconclusive")
    assert answer.title == "No confirming run of the default LoRA finished: nothing usable was trained."
    assert answer.sections[0][0] == "What was tried" and "reaches" not in said(result)
    for page in (report.report_md, report.report_html):
        assert "These lines load" not in page(result, words=WORDS)
        assert "These lines load" in page(toy_result(), words=WORDS)


def given(result, mean):
    """The result with a confirmed plan of 20,000 parameters that the user brought; 10,000 are allowed."""
    plan = replace(BEST, trainable_params=20_000)
    proposal = replace(result.proposals[0], arm=Arm(kind="given", label="your baseline"), plan=plan)
    record = replace(
        toy_confirmations("confirm", mean, mean, mean)[0], name="given: your baseline", plan=plan
    )
    confirmations = (*result.confirmations, record)
    return replace(result, proposals=(*result.proposals, proposal), confirmations=confirmations)


def test_a_plan_of_the_user_beyond_the_budget_is_told_with_its_score():
    result = kept(given(toy_result(), 0.98))
    answer = report.answer_of(result, WORDS)
    assert answer.title == "Keep the default LoRA: no other plan within the budget proved better."
    assert answer.aside[0] == (  # 98.0 less 94.0
        "Your baseline scored 4.0 points higher on the confirm split, but trains 20,000 parameters of 10,000 "
        "allowed."
    )
    assert "your baseline" in [row.joined_marks for row in report.summary_of(result, WORDS)]
    assert report.answer_of(kept(given(toy_result(), 0.5)), WORDS).title.endswith("tried proved better.")


def unconfirmed(result, **losses_and_metrics):
    """The result without a confirmation; its last rung has a loss and a metric for each plan."""
    plans = {"baseline": BASELINE, "best": BEST, "smallest": SMALLEST, "head": HEAD}
    run = next(m for m in result.measurements if m.fidelity.train_steps == 75)
    last = tuple(
        replace(run, plan=plans[name], loss=loss, metric=metric)
        for name, (loss, metric) in losses_and_metrics.items()
    )
    first = tuple(m for m in result.measurements if m.fidelity.train_steps == 30)
    verdict = replace(result.verdict, label="none", mean_difference=None, interval_95=None)
    changes = {"confirmations": (), "test": (), "verdict": verdict}
    return replace(result, measurements=(*first, *last), **changes)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"best": (0.3, 0.9), "head": (0.4, 0.8)}, "did best in the short trial runs"),
        (
            {"best": (0.3, 0.9), "head": (0.2, 0.95), "baseline": (0.4, 0.8)},
            "did best of the plans with adapters in the short trial runs",
        ),
        ({"best": (0.3, 0.9), "baseline": (0.2, 0.8)}, "had the best accuracy in the short"),
        ({"best": (0.3, 0.8), "baseline": (0.2, 0.9)}, "was put first by the short trial runs"),
    ],
)
def test_an_unconfirmed_plan_did_best_only_with_the_lowest_loss(runs, words):
    result = unconfirmed(toy_result(), **runs)
    assert report.answer_of(result, WORDS).title.startswith(f"No verdict yet: the searched LoRA {words}")


def test_trial_runs_as_long_as_full_runs_are_not_called_short():
    result = unconfirmed(toy_result(), best=(0.3, 0.9))
    result = replace(result, setting=replace(result.setting, full_run_steps=75))
    answer = report.answer_of(result, WORDS)
    assert answer.title.endswith(
        "did best in trial runs of up to 75 steps, a full run, and nothing was confirmed."
    )
    assert "short" not in said(result)


def test_a_head_that_is_far_ahead_is_in_the_title():
    head = replace(toy_confirmations("confirm", 0.99, 0.99, 0.99)[0], name="head", plan=HEAD)
    result = kept(toy_result(), confirmations=(*toy_result().confirmations, head))
    answer = report.answer_of(result, WORDS)
    assert (answer.mark, answer.tone) == ("nothing recommended", "inconclusive")
    assert answer.title == (  # 99.0 less 94.0
        "Nothing is recommended: the head alone scored 5.0 points higher than the default LoRA."
    )
    # Two standard errors of the difference are 2 * sqrt(2) * 0.23 = 0.65 points.
    near = replace(head, metric_mean=0.946)
    near = kept(toy_result(), confirmations=(*toy_result().confirmations, near))
    assert report.answer_of(near, WORDS).title.startswith("Keep the default LoRA")
    assert report.answer_of(kept(with_head(toy_result())), WORDS).title.startswith("Keep the default LoRA")


def test_the_score_of_runs_of_half_length_says_so():
    result = toy_result()
    half = tuple(
        replace(m, fidelity=replace(m.fidelity, train_steps=150)) if m.fidelity.split == "confirm" else m
        for m in result.measurements
    )
    reached = [s for s in report.answer_of(replace(result, measurements=half), WORDS).use if "reaches" in s]
    assert reached[0].endswith("after 150 of 300 steps.")
    assert "after" not in said(result)


@pytest.mark.parametrize(("shown", "is_told"), [(0.014, False), (0.020, True)])
def test_a_corrected_difference_is_told_where_it_is_not_that_of_the_table(shown, is_told):
    verdict = replace(toy_result().verdict, mean_difference=shown, plain_difference=0.014)
    sure = report.answer_of(replace(toy_result(), verdict=verdict), WORDS).sure
    told = (
        "The difference is corrected for looking after every seed; by the means in the table the searched "
        "LoRA is 1.4 points ahead of the default."
    )
    assert (told in sure) == is_told == any("corrected" in sentence for sentence in sure)


def test_the_only_plan_that_was_tried_is_called_that():
    result = toy_result()
    runs = tuple(m for m in result.measurements if m.plan == BASELINE)
    assert (
        report.answer_of(kept(result, measurements=runs), WORDS).sure[0]
        == "It is the only plan that was tried."
    )


def test_default_and_best_plan_fail_by_one_bar():
    """The best run of all has 0.26; one run of the default reaches its half, and two of the best plan."""
    scores = {BASELINE: (0.11, 0.26, -0.27), BEST: (0.14, 0.19, 0.12), SMALLEST: (0.01, 0.02, 0.0)}
    records = tuple(
        replace(r, metrics=scores[r.plan], metric_mean=sum(scores[r.plan]) / 3)
        for r in toy_result().confirmations
    )
    verdict = replace(
        toy_result().verdict, label="inconclusive", mean_difference=0.1, interval_95=(-0.3, 0.5)
    )
    result = replace(toy_result(), confirmations=records, verdict=verdict)
    words = replace(WORDS, metric_is_share=False)
    answer = report.answer_of(result, words)
    assert answer.title.endswith(
        ": the default LoRA failed in 2 of 3 runs, and the searched LoRA in 1 of 3 runs."
    )
    (told,) = (s for s in answer.sure if "failed" in s)
    assert "below 0.130, half of the best run of all" in told
    assert told.endswith(
        " The searched LoRA failed in 1 of 3 runs, too (by the same bar: 0.140, 0.190, 0.120)."
    )


@pytest.mark.parametrize("standing", ["proven", "unproven"])
def test_the_smallest_plan_is_called_unproven_wherever_it_is_named(standing):
    result = toy_result()
    result = replace(result, verdict=replace(result.verdict, smallest_equivalent=standing))
    facts = report.CardFacts(base_model="org/base", dataset=None, peft_types=("ia3",), seed=101)
    texts = {
        "page": report.report_html(result, words=WORDS),
        "text": report.report_md(result, words=WORDS),
        "card": report.model_card(result, facts, WORDS),
        "notebook": report.short_html(result, "runs/a", WORDS),
    }
    mark = {"proven": "smallest", "unproven": "smallest, unproven"}[standing]
    assert {name: mark in text for name, text in texts.items()} == dict.fromkeys(texts, True)
    assert ("unproven" in "".join(texts.values())) == (standing == "unproven")
    for place in (f'<span class="pill">{mark}</span>', f"<b>{mark}</b>", f"({mark})"):
        assert place in texts["page"]
    assert mark in [row.joined_marks for row in report.summary_of(result, WORDS)]


@pytest.mark.parametrize("label", ["better", "default kept", "equivalent", "worse", "inconclusive"])
def test_where_adapting_is_proven_to_bring_nothing_the_title_says_so(label):
    result = of_language_model()
    result = replace(result, verdict=replace(result.verdict, label=label, margin=0.107))
    words = replace(WORDS, metric_is_share=False)
    told = "; the untrained model is proven as good, within 0.107."
    assert told not in report.answer_of(result, words).title
    proven = replace(result, verdict=replace(result.verdict, as_good=("smallest", "untrained")))
    assert report.answer_of(proven, words).title.endswith(told)
    assert told not in report.answer_of(replace(proven, best=HEAD), words).title


def test_a_local_path_is_named_by_its_last_part_in_every_heading():
    result = toy_result()
    result = replace(result, setting=replace(result.setting, base_model="/home/me/models/tiny-bert"))
    assert report.report_md(result, words=WORDS).startswith("# tiny-bert × ")
    assert "<title>tiny-bert × " in report.report_html(result, words=WORDS)


@pytest.mark.parametrize("head_params", [0, 390])
def test_a_caption_speaks_of_a_head_only_where_the_task_has_one(head_params):
    result = toy_result()
    result = replace(result, setting=replace(result.setting, head_params=head_params))
    page = report.report_html(result, words=WORDS)
    assert "A seed fixes the order of the data" in page
    assert ("the start of the head" in page) == bool(head_params)


def test_a_score_without_a_comparison_is_no_verdict():
    assert split_uses(kept(toy_result()))["confirm"] == "the score of the default; nothing was compared"
    assert split_uses(toy_result())["confirm"] == "the verdict"
