"""The first screen: what to use, what it costs, how sure it is, for every verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import BASELINE, BEST, HEAD, SMALLEST, WORDS, toy_confirmations, toy_result

from autopeft import report
from autopeft.report.naming import Naming
from autopeft.report.page import contents
from autopeft.report.tables import first_proposals

LOSSES = replace(WORDS, metric_is_share=False)


def answered(label, difference, low, high, words=WORDS, **changes):
    """The headline of the toy result with another verdict; its best plan has 7,296 parameters."""
    verdict = {"label": label, "mean_difference": difference, "interval_95": (low, high), "n_seeds": 3}
    result = toy_result()
    result = replace(result, verdict=replace(result.verdict, **verdict), **changes)
    return report.answer_of(result, words)


@pytest.mark.parametrize(
    ("label", "numbers", "title", "sure"),
    [
        (
            "better",
            (0.014, 0.006, 0.022),
            "Use the searched LoRA: it beats the default LoRA by 1.4 points.",
            "Settled: the searched LoRA is 0.6 to 2.2 points better than the default "
            "(95 % interval, 3 seeds).",
        ),
        (
            "equivalent",
            (0.001, -0.004, 0.006),
            "Use the searched LoRA: it is as good as the default LoRA and trains 1.4 times fewer parameters.",
            "Settled: the searched LoRA is 0.4 points worse to 0.6 points better than the default "
            "(95 % interval, 3 seeds).",
        ),
        (
            "inconclusive",
            (0.004, -0.008, 0.016),
            "Try the searched LoRA, but nothing is settled: it trains 1.4 times fewer parameters than the "
            "default LoRA and is 0.4 points ahead.",
            "Not settled: the searched LoRA may be 0.8 points worse to 1.6 points better than the default "
            "(95 % interval, 3 seeds).",
        ),
        (
            "worse",
            (-0.014, -0.022, -0.006),
            "Keep the default LoRA: the searched LoRA scored 1.4 points lower.",
            "Settled: the searched LoRA is 0.6 to 2.2 points worse than the default "
            "(95 % interval, 3 seeds).",
        ),
    ],
)
def test_a_verdict_in_plain_words(label, numbers, title, sure):
    answer = answered(label, *numbers)
    assert (answer.title, answer.sure[0]) == (title, sure)


def test_a_kept_default_is_the_recommendation():
    confirmations = toy_confirmations("confirm", 0.94, 0.933, 0.93)
    first = replace(confirmations[1], name="incumbent")
    answer = answered(
        "default kept", -0.007, -0.028, 0.014, best=BASELINE, confirmations=(*confirmations, first)
    )
    assert answer.title == "Keep the default LoRA: no other plan tried proved better."
    assert answer.sure[0].startswith("Not settled: the searched LoRA may be 2.8 points worse to 1.4 points")


def test_without_a_confirmation_nothing_is_recommended():
    answer = answered("none", 0.0, 0.0, 0.0, confirmations=(), test=())
    assert answer.title.startswith("No verdict yet: the searched LoRA did best in the short trial runs")
    assert answer.sure == (
        "Not at all: short trial runs prove nothing. The same search with --confirm half gives a verdict.",
    )
    assert answer.sections[0][0] == "What leads so far"
    assert not any("reaches" in sentence for sentence in answer.use)


def test_the_smaller_plan_and_the_head_are_told_with_their_distance():
    confirmations = toy_confirmations("confirm", 0.94, 0.954, 0.942)
    head = replace(confirmations[0], name="head", plan=HEAD, metric_mean=0.80)
    answer = answered("better", 0.014, 0.006, 0.022, confirmations=(*confirmations, head))
    smaller, alone = answer.aside
    # 7,296 / 128 = 57; 95.4 - 80.0 = 15.4
    assert smaller == "IA³ trains 57 times fewer parameters and is proven as good, within 1.0 points."
    start = "Training only the output layer (the head), without adapters, scores"
    assert alone == f"{start} 15.4 points lower on the confirm split."
    unproven = toy_result()
    unproven = replace(
        unproven,
        confirmations=confirmations,
        verdict=replace(unproven.verdict, smallest_equivalent="unproven"),
    )
    (smaller,) = report.answer_of(unproven, WORDS).aside
    lower = "and scored 1.2 points lower on the confirm split"
    same = f"{lower}, the same on the test split (3 seeds; not proven to be as good)."
    assert smaller.endswith(same)
    untested = report.answer_of(replace(unproven, test=()), WORDS).aside
    assert untested[0].endswith(f"{lower} (3 seeds; not proven to be as good).")


def test_a_lower_loss_is_said_to_be_lower():
    result = toy_result()
    confirmations = toy_confirmations("confirm", 1.60, 1.50, 1.55)
    head = replace(confirmations[0], name="untrained", plan=HEAD, metric_mean=2.25)
    setting = replace(result.setting, metric="loss", greater_is_better=False, head_params=0)
    answer = answered(
        "worse", -0.1, -0.2, -0.05, LOSSES, confirmations=(*confirmations, head), setting=setting, test=()
    )
    assert answer.title == "Keep the default LoRA: the searched LoRA scored 0.100 higher (worse)."
    assert (
        answer.aside[-1]
        == "Training brings the loss (lower is better) from 2.250 to 1.500 on the confirm split."
    )
    assert answer.use[1].startswith("It adapts 7 modules: ")
    assert answer.use[2] == "It reaches loss 1.500 ± 0.002 on 500 of the 1,500 examples of the confirm split."
    assert answer.sure[1] == "Worst of its 3 runs on the confirm split: loss 1.504."


def test_the_summary_has_each_plan_once_with_all_that_it_takes():
    result = toy_result()
    rows = contents(result, WORDS, "complete")["summary"]
    assert [row.joined_marks for row in rows] == ["baseline", "best", "smallest", "head alone"]
    best = rows[1]
    assert best.megabytes == pytest.approx(4 * (7_296 + 390) / 1e6)
    assert best.seconds == pytest.approx(300 / 7) and best.steps == 300 and best.peak_bytes == 10**6
    assert (best.test.metric_mean, best.confirm.metric_mean) == (0.948, 0.954)
    assert rows[3].test is None and rows[3].confirm is None
    kept = replace(result, best=BASELINE, smallest=BASELINE)
    assert [r.joined_marks for r in contents(kept, WORDS, "complete")["summary"]] == [
        "baseline = best = smallest",
        "head alone",
    ]


def test_every_group_of_plans_has_a_colour_and_a_shape_of_its_own():
    result = toy_result()
    groups = Naming(result=result, words=WORDS, first=first_proposals(result)).groups()
    assert {groups[plan].label for plan in (BASELINE, BEST, SMALLEST, HEAD)} == {
        "default LoRA",
        "searched LoRA",
        "IA³",
        "head alone",
    }
    kinds = set(groups.values())
    assert len({group.colour for group in kinds}) == len({group.marker for group in kinds}) == len(kinds)


def test_several_runs_share_a_page_with_ids_of_their_own():
    result = toy_result()
    page = report.several_html([("first", result, WORDS), ("second", result, WORDS)])
    for part in ("first", "second", "2 runs", "Use the searched LoRA: it beats the default LoRA by 1.4"):
        assert part in page
    assert 'href="#run-2"' in page and 'id="run-2"' in page
    assert page.count('id="run1-score-budget"') == page.count('id="run2-score-budget"') == 1


def test_a_default_that_led_from_the_start_is_not_called_settled():
    result = toy_result()
    verdict = replace(result.verdict, label="default kept", mean_difference=0.0, interval_95=None)
    answer = report.answer_of(replace(result, best=BASELINE, verdict=verdict), WORDS)
    assert answer.sure[0].startswith("Chosen by short trial runs") and "ettled" not in " ".join(answer.sure)


def test_a_default_that_failed_on_a_seed_is_told_and_its_mean_is_no_lead():
    result = toy_result()
    records = tuple(
        replace(record, metrics=(0.9, 0.0, 0.9), metric_mean=0.6) if record.plan == BASELINE else record
        for record in result.confirmations
    )
    verdict = replace(
        result.verdict, label="inconclusive", mean_difference=0.3, interval_95=(-0.4, 1.0), n_seeds=3
    )
    answer = report.answer_of(replace(result, confirmations=records, verdict=verdict), WORDS)
    assert answer.title == (
        "Try the searched LoRA, but nothing is settled: the default LoRA failed in 1 of 3 runs."
    )
    assert answer.sure[1] == (
        "The default failed in 1 of 3 runs (accuracy 90.0 %, 0.0 %, 90.0 %; below 47.9 %, half of the best "
        "run of all), so its mean says little; a lower learning rate may mend it."
    )


def test_an_interval_that_ends_at_zero_settles_nothing():
    assert answered("inconclusive", 0.01, 0.0, 0.02).sure[0].startswith("Not settled: ")
    assert answered("default kept", -0.01, -0.02, 0.0).sure[0].startswith("Not settled: ")
    assert answered("equivalent", 0.002, 0.0, 0.004).sure[0].startswith("Settled: ")


def test_an_interval_of_a_share_ends_at_100_points():
    sure = answered("inconclusive", 0.25, -0.749, 1.245).sure[0]
    assert "may be 74.9 points worse to 100.0 points better than the default" in sure
    loss = answered("inconclusive", 0.25, -0.749, 1.245, words=LOSSES).sure[0]
    assert "0.749 worse to 1.245 better" in loss


@pytest.mark.parametrize(
    ("metrics", "failed"),
    [
        ((-0.2, -0.3, -0.1), ""),
        ((0.0, -0.3, -0.1), ""),
        ((-0.043, 0.040, 0.01), ""),  # noise: 500 examples have a standard error of 0.045
        ((0.9, 0.8, -0.1), "failed in 1 of 3 runs"),
    ],
)
def test_a_default_fails_only_where_half_of_its_best_metric_means_something(metrics, failed):
    """A correlation may be negative: half of -0.1 is above every one of these values."""
    records = tuple(
        replace(record, metrics=metrics, metric_mean=sum(metrics) / 3) if record.plan == BASELINE else record
        for record in toy_confirmations("confirm", 0.94, 0.954, 0.951)
    )
    answer = answered("inconclusive", 0.3, -0.4, 1.0, LOSSES, confirmations=records)
    said = " ".join((answer.title, *answer.sure))
    assert (failed in said) and ("failed" in said) == bool(failed)
