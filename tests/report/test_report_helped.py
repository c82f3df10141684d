"""Did the score help? Counts by hand, tests from scipy, and a sentence that never says too much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from toys.results import BEST, SITES, WORDS, toy_result, toy_run

from autopeft import records as rec
from autopeft import report
from autopeft.records import ScorePair
from autopeft.report import did_it_help


@pytest.fixture
def result():
    return toy_result()


def pairs_of(gains, *, loss=0.5, parameters=None, random=None):
    """Pairs whose loss with the score is lower than with uniform by each of the gains."""
    return tuple(
        ScorePair(
            arm=f"arm {n}",
            learning_rate=1e-3,
            with_score=loss,
            uniform=None if gain is None else loss + gain,
            parameters=parameters,
            random=random,
        )
        for n, gain in enumerate(gains)
    )


CLEAR = (0.02, 0.03, 0.05, 0.04, 0.025, 0.035, 0.045, 0.01)


def test_without_pairs_there_is_no_answer(result):
    answer = did_it_help(result)
    assert (answer.helped, answer.against, answer.single_sites) == (None, (), None)
    assert "not measured" in answer.sentence


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_than_six_pairs_are_too_few_however_clear(result, n):
    answer = did_it_help(replace(result, score_pairs=pairs_of([0.2] * n)))
    assert answer.helped is None and answer.sentence.startswith("There are too few pairs to say: ")
    assert f"{n} of {n} pairs" in answer.sentence
    [uniform] = answer.against
    assert (uniform.interval_95, uniform.p_value) == (None, None)


def test_numbers_are_those_of_scipy(result):
    gains = (0.02, -0.03, 0.05, 0.04, -0.01, 0.06, 0.015)
    uniform = did_it_help(replace(result, score_pairs=pairs_of(gains))).against[0]
    assert (uniform.n_pairs, uniform.won, uniform.tied) == (7, 5, 0)
    assert uniform.mean_difference == pytest.approx(np.mean(gains))
    expected = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert uniform.interval_95 == pytest.approx((expected.low, expected.high))
    # By hand: the ranks 2 + 3 + … of |gains|; the negative ones rank 1 (0.01) and 4 (0.03), W = 5 of n = 7.
    ways = sum(sum(r for r in range(1, 8) if 1 << (r - 1) & mask) <= 5 for mask in range(2**7))
    assert uniform.p_value == pytest.approx(2 * ways / 2**7)


def test_a_clear_gain_that_no_null_shares_helped(result):
    answer = did_it_help(replace(result, score_pairs=pairs_of(CLEAR, parameters=0.51, random=0.52)))
    assert answer.helped is True
    assert answer.sentence.startswith("The score “gradient” helped: its loss was 0.032 lower on average")
    assert (
        "in 8 of 8 pairs against uniform (8 of 8 against parameters, 8 of 8 against random)"
        in answer.sentence
    )


def test_a_gain_that_a_null_has_too_proves_no_help(result):
    answer = did_it_help(replace(result, score_pairs=pairs_of(CLEAR, parameters=0.51, random=0.499)))
    assert answer.helped is None and "not random" in answer.sentence


def test_a_clear_loss_did_harm(result):
    answer = did_it_help(replace(result, score_pairs=pairs_of([-gain for gain in CLEAR])))
    assert answer.helped is False and "did harm" in answer.sentence and "0.032 higher" in answer.sentence


@pytest.mark.parametrize("gains", [[1e-4, -1e-4] * 4, [gain / 100 for gain in CLEAR]], ids=["none", "sure"])
def test_a_gain_below_one_percent_of_the_loss_does_not_matter(result, gains):
    answer = did_it_help(replace(result, score_pairs=pairs_of(gains)))
    assert answer.helped is False and "no gain that matters" in answer.sentence


def test_a_wide_interval_leaves_it_open(result):
    answer = did_it_help(replace(result, score_pairs=pairs_of([0.2, -0.1] * 4)))
    assert answer.helped is None and "stays open" in answer.sentence


def test_equal_twins_are_ties_and_missing_ones_no_pairs(result):
    answer = did_it_help(
        replace(result, score_pairs=pairs_of([0.0] * 6 + [None, float("nan"), float("inf")]))
    )
    [uniform] = answer.against
    assert (uniform.n_pairs, uniform.won, uniform.tied, uniform.p_value) == (6, 0, 6, 1.0)
    assert answer.helped is False and "0 of 6 (6 tied) pairs" in answer.sentence


def test_a_null_is_not_compared_with_itself(result):
    def by(score):
        search = result.spec.search.model_copy(update={"score": score})
        spec = result.spec.model_copy(update={"search": search})
        return did_it_help(replace(result, spec=spec, score_pairs=pairs_of(CLEAR, random=0.5)))

    assert [row.null for row in by("random").against] == ["uniform"]
    assert by("uniform").helped is None and "uniform" in by("uniform").sentence


def test_plans_of_one_site_are_ranked_against_the_score(result):
    def alone(name, loss, rate=1e-3, steps=30):
        adapter = rec.Adapter(method="lora", site=name, rank=2)
        plan = rec.Plan(adapters=(adapter,), learning_rate=rate, trainable_params=256)
        return toy_run(plan, "search", steps, 0, loss, 0.5)

    # The fixture's gradient rises with the position of a site; the lower of two losses counts.
    names = [SITES[n].name for n in (0, 3, 5, 8)]
    runs = [alone(name, loss) for name, loss in zip(names, (0.9, 0.8, 0.85, 0.7), strict=True)]
    others = (
        alone(names[0], 0.95, rate=1e-2),
        alone(SITES[1].name, 0.1, steps=75),
        toy_run(BEST, "search", 30, 0, 0.1, 1),
    )
    answer = did_it_help(replace(result, measurements=(*runs, *others)))
    expected = stats.spearmanr((0, 3, 5, 8), (-0.9, -0.8, -0.85, -0.7)).statistic
    assert answer.single_sites == (pytest.approx(expected), 4)


def test_result_json_and_both_reports_say_it(result):
    scores = (replace(result.scores[0], split_half=0.97, n_examples=128), result.scores[1])
    helped = replace(result, scores=scores, score_pairs=pairs_of(CLEAR, parameters=0.51))
    answer = report.result_json(helped, "complete")["sensitivity"]
    assert (answer["score"], answer["helped"], len(answer["pairs"])) == ("gradient", True, 8)
    assert answer["pairs"][0] == {
        "arm": "arm 0",
        "learning_rate": 1e-3,
        "with_score": 0.5,
        "uniform": 0.52,
        "parameters": 0.51,
        "random": None,
    }
    assert [row["null"] for row in answer["against"]] == ["uniform", "parameters"]
    assert answer["scores"][0] == {"name": "gradient", "split_half": 0.97, "n_examples": 128}
    for text in (report.report_html(helped, words=WORDS), report.report_md(helped, words=WORDS)):
        assert answer["sentence"] in text
        assert "Scoring took 1.9 s, 0.038 R." in text
        assert "seen enough: rank correlation 0.97 between two halves of 128 examples" in text


def test_pairs_are_stored_with_the_result(result):
    helped = replace(result, score_pairs=pairs_of((0.1, None)))
    assert rec.from_json(rec.SearchResult, rec.to_json(helped)).score_pairs == helped.score_pairs
