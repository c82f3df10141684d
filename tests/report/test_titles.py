"""The title where the verdict alone says too much: nothing finished, or another plan is ahead."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import (
    BASELINE,
    HEAD,
    WORDS,
    of_language_model,
    toy_confirmations,
    toy_result,
    with_head,
)

from autopeft import report
from autopeft.records import Status


def kept(result, **changes):
    """The result with the default handed over, which nothing was compared with."""
    verdict = replace(result.verdict, label="default kept", mean_difference=0.0, interval_95=None)
    return replace(result, best=BASELINE, smallest=BASELINE, verdict=verdict, **changes)


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
    assert answer.sections[0][0] == "What was tried"
    for page in (report.report_md, report.report_html):
        assert "These lines load" not in page(result, words=WORDS)
        assert "These lines load" in page(toy_result(), words=WORDS)


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
