"""The first screen: what to use, what it costs, how sure it is, for every verdict."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import pytest
from toys.results import BASELINE, BEST, HEAD, SMALLEST, WORDS, toy_confirmations, toy_result

from autopeft import report
from autopeft.report.naming import Naming
from autopeft.report.page import contents
from autopeft.report.tables import first_proposals
from autopeft.report.words import megabytes

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


def test_a_head_that_does_as_well_adapts_nothing_and_scores_the_same():
    confirmations = toy_confirmations("confirm", 0.94, 0.9541, 0.942)
    head = replace(confirmations[0], name="head", plan=HEAD, metric_mean=0.9539)
    proven = {"verdict": replace(toy_result().verdict, smallest_equivalent="proven"), "smallest": HEAD}
    result = replace(toy_result(), confirmations=(*confirmations, head), **proven)
    answer = report.answer_of(result, WORDS)
    assert answer.title.endswith(" by 1.4 points; the head alone is proven as good, within 1.0 points.")
    (alone,) = answer.aside
    start = "Training only the output layer (the head), without adapters, scores"
    assert alone == f"{start} the same on the confirm split."
    untrained = replace(result, setting=replace(result.setting, head_params=0))
    assert report.answer_of(untrained, WORDS).aside[-1] == (
        "Training leaves the accuracy at 95.4 % on the confirm split."
    )
    title = answered("inconclusive", 0.0002, -0.008, 0.016).title
    assert title.startswith("The searched LoRA trains 1.4 times fewer parameters and scored the same as the ")
    assert title.endswith(" default LoRA, which settles nothing.")


def test_the_ranks_follow_the_modules_and_a_method_without_ranks_has_none():
    result = toy_result()

    def said(*ranks):
        adapters = [
            replace(adapter, rank=rank)
            for adapter, rank in zip(result.best.adapters, cycle(ranks), strict=False)
        ]
        changed = replace(result, best=replace(result.best, adapters=tuple(adapters)))
        return report.answer_of(changed, WORDS).use[1].partition(": ")[2].partition(", with ")[2]

    assert (said(0), said(3), said(16, 2, 0)) == ("", "rank 3.", "ranks 2 to 16.")


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


@pytest.mark.parametrize(
    ("workers", "words"), [("1", "took 12.1 min in all"), ("3", "took 12.1 min of work, shared by 3 workers")]
)
def test_work_of_several_workers_is_not_called_the_time_that_a_search_took(workers, words):
    result = toy_result()
    result = replace(result, environment={**result.environment, "workers": workers})
    assert words in report.answer_of(result, WORDS).cost[0]


def test_full_runs_of_the_default_are_told():
    result = toy_result()
    verdict = replace(result.verdict, label="default kept", mean_difference=0.0, interval_95=None)
    run = next(m for m in result.measurements if m.fidelity.split == "search")
    full = replace(run, fidelity=replace(run.fidelity, train_steps=result.setting.full_run_steps))
    result = replace(result, best=BASELINE, verdict=verdict, measurements=(*result.measurements, full, full))
    assert report.answer_of(result, WORDS).sure[0] == (
        "Chosen by short trial runs and 2 full ones of the default: no other plan did clearly better there."
    )


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


def test_the_head_as_the_best_plan_is_not_compared_with_itself():
    record = replace(toy_confirmations("confirm", 0.9, 0.9, 0.9)[1], plan=HEAD)
    answer = answered(
        "better", 0.293, 0.208, 0.377, best=HEAD, smallest=HEAD, confirmations=(record,), test=()
    )
    assert answer.title == "Use the head alone: it beats the default LoRA by 29.3 points."
    assert answer.aside == ()
    assert answer.use[-1] == "It adapts nothing and trains the output layer (the head) alone, 390 parameters."
    rows = report.summary_of(replace(toy_result(), best=HEAD, smallest=HEAD, confirmations=(record,)), WORDS)
    assert [row.joined_marks for row in rows] == ["baseline", "best = smallest"]


def test_an_interval_that_ends_at_zero_settles_nothing():
    assert answered("inconclusive", 0.01, 0.0, 0.02).sure[0].startswith("Not settled: ")
    assert answered("default kept", -0.01, -0.02, 0.0).sure[0].startswith("Not settled: ")
    assert answered("equivalent", 0.002, 0.0, 0.004).sure[0].startswith("Settled: ")


def test_runs_of_half_length_are_named_where_a_difference_is_settled():
    verdict = replace(toy_result().verdict, fidelity="half", n_seeds=2)
    assert (
        "2 seeds, runs of half length"
        in report.answer_of(replace(toy_result(), verdict=verdict), WORDS).sure[0]
    )


@pytest.mark.parametrize(
    ("others", "words"),
    [({}, "no other plan was tried"), ({HEAD: "head"}, "only the default and the head alone were tried")],
)
def test_where_nothing_but_the_default_was_tried_that_is_said(others, words):
    result = toy_result()
    kinds = {BASELINE: "baseline", **others}
    tried = tuple(
        replace(p, arm=replace(p.arm, kind=kinds[p.plan])) for p in result.proposals if p.plan in kinds
    )
    first = tuple(m for m in result.measurements if m.plan in kinds and m.fidelity.train_steps != 75)
    verdict = replace(result.verdict, label="default kept", mean_difference=None, interval_95=None)
    kept = replace(
        result,
        best=BASELINE,
        smallest=BASELINE,
        proposals=tried,
        measurements=first,
        verdict=verdict,
    )
    answer = report.answer_of(kept, WORDS)
    assert answer.title == f"Keep the default LoRA: {words}."
    assert any("Time or cost ended the search after 30 steps a plan" in sentence for sentence in answer.sure)


def test_a_default_that_is_kept_since_both_are_as_good_is_settled():
    for stopped_by, word in (("equivalent", "Settled"), ("planned", "Not settled")):
        verdict = replace(
            toy_result().verdict,
            label="default kept",
            mean_difference=0.001,
            interval_95=(-0.004, 0.006),
            n_seeds=3,
            stopped_by=stopped_by,
        )
        assert report.answer_of(replace(toy_result(), verdict=verdict), WORDS).sure[0].startswith(f"{word}: ")


def test_without_a_verdict_the_difference_on_the_test_split_is_told_too():
    answer = answered("inconclusive", 0.004, -0.008, 0.016)
    assert answer.sure[1] == "The searched LoRA scored 1.2 points higher than the default on the test split."
    untested = answered("inconclusive", 0.004, -0.008, 0.016, test=())
    same = answered("inconclusive", 0.004, -0.008, 0.016, test=toy_confirmations("test", 0.9, 0.9, 0.9))
    settled = answered("better", 0.014, 0.006, 0.022)
    assert not [s for answer in (untested, settled) for s in answer.sure if "test split" in s]
    assert same.sure[1] == "The searched LoRA scored the same as the default on the test split."


def test_an_interval_of_a_share_ends_at_100_points():
    sure = answered("inconclusive", 0.25, -0.749, 1.245).sure[0]
    assert "may be 74.9 points worse to 100.0 points better than the default" in sure
    loss = answered("inconclusive", 0.25, -0.749, 1.245, words=LOSSES).sure[0]
    assert "0.749 worse to 1.245 better" in loss


def test_the_heads_parameters_are_told_beside_those_of_the_adapters():
    result = toy_result()
    bare = replace(result, setting=replace(result.setting, head_params=0))
    said = [report.answer_of(seen, WORDS).use[-1] for seen in (result, bare)]
    start = "It trains 7,296 adapter parameters, 0.59 % of the base model"
    assert said == [f"{start}, and the head's 390.", f"{start}."]


def test_a_head_that_leads_without_proof_is_ahead_of_the_default():
    head = replace(toy_confirmations("confirm", 0.9, 0.927, 0.9)[1], plan=HEAD)
    answer = answered("inconclusive", 0.027, -0.01, 0.06, best=HEAD, smallest=HEAD, confirmations=(head,))
    assert answer.title == (
        "Try the head alone, but nothing is settled: it adapts nothing and is 2.7 points ahead of the "
        "default LoRA."
    )


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


@pytest.mark.parametrize("value", [0.012, 0.5, 3.44, 42.0, 99.4, 99.5, 99.94, 99.99, 100.0, 12_345.6])
def test_megabytes_are_two_digits_and_never_a_power_of_ten(value):
    text = megabytes(value)
    assert "e" not in text and float(text.replace(",", "")) == pytest.approx(value, rel=0.05)
