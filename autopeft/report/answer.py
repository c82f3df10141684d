"""The answer: one headline for each verdict, and the facts below it."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.records import SearchResult, in_words_of, rate
from autopeft.report.formatting import (
    NOTHING,
    PartWords,
    count,
    difference,
    duration,
    megabytes,
    metric,
    percent,
)
from autopeft.report.plan_names import is_untrained, no_adapters, plan_words
from autopeft.report.rows import (
    adapter_megabytes,
    examples,
    is_by_chance,
    n_seeds,
    record_of,
)

NO_LEARNING = "nothing learned"
# Label of the verdict, or what overrules it -> words and tone of the mark, and the headline.
_HEADLINES = {
    "better": ("better than the default", "better", "Use {best}: {score}, with {size} parameters."),
    "as good and smaller": (
        "as good and smaller",
        "better",
        "Use {best}: as good as the default with {size} parameters in place of {baseline_size}, {score}.",
    ),
    "inconclusive": (
        "not settled",
        "inconclusive",
        "Try {best}: {score}, with {size} parameters; it is not surely better than the default.",
    ),
    "default kept": (
        "default kept",
        "calm",
        "Keep the default, {best}: {score}, with {size} parameters.",
    ),
    NO_LEARNING: (
        NO_LEARNING,
        "inconclusive",
        "Nothing was learned for certain: {best} may be no better than guessing.",
    ),
}
_MORE_STEPS = "Twice the steps promise about {gain}."
_STEPS_OR_PLAN = "Twice the steps promise about {gain}; the best plan brings {difference} over the default."

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`mark` and `tone` stand above the headline; `longer` says what more steps would bring, or nothing.

    `groups` are headings, each with names and values.
    """

    mark: str
    tone: str
    headline: str
    verdict: str
    longer: str
    groups: tuple[tuple[str, Facts], ...]


def answer_of(result: SearchResult, words: PartWords) -> Answer:
    """The answer of a search: what to use, what it costs, how sure it is."""
    setting, verdict, is_share = result.setting, result.verdict, words.metric_is_share
    mark, tone, headline = _HEADLINES[NO_LEARNING if is_by_chance(result) else verdict.label]
    scored = record_of(result.test, result.best) or record_of(result.full_runs, result.best)
    assert scored is not None, "the best plan has a full run"
    score = f"{setting.metric_words} {metric(scored.metric_mean, is_share)} on the {scored.split} split"
    longer = ""
    if result.longer is not None:
        is_rival = result.best == result.rival and verdict.mean_difference is not None
        longer = (_STEPS_OR_PLAN if is_rival else _MORE_STEPS).format(
            gain=difference(result.longer.gain, is_share),
            difference=difference(verdict.mean_difference, is_share),
        )
    return Answer(
        mark=mark,
        tone=tone,
        headline=headline.format(
            best=plan_words(result.best, result.sites, words.labels, head=no_adapters(result)),
            score=score,
            size=count(result.best.trainable_params),
            baseline_size=count(result.baseline.trainable_params),
        ),
        verdict=in_words_of(result.spec, verdict.sentence),
        longer=longer,
        groups=(
            ("What to use", _use(result)),
            ("What it costs", _cost(result)),
            ("How sure it is", _sure(result, is_share=is_share)),
        ),
    )


def _use(result: SearchResult) -> Facts:
    budget, head = result.setting.budget, result.setting.head_params
    has_rate = not is_untrained(result, result.best)
    facts = (
        ("learning rate", rate(result.best.learning_rate) if has_rate else NOTHING),
        ("of the base model", percent(100 * result.best.trainable_params / budget.base_params)),
        ("budget", f"{count(budget.max_trainable_params)} parameters"),
    )
    return (*facts, ("task head", f"{count(head)} more")) if head else facts


def _cost(result: SearchResult) -> Facts:
    cost = result.cost
    facts = [
        ("adapter file", f"{megabytes(adapter_megabytes(result))} MB"),
        ("this search, weights included", duration(cost.total_seconds)),
    ]
    if cost.full_run_seconds is not None and cost.total_full_runs is not None:
        facts.append(("in full runs of the default", f"{cost.total_full_runs:.1f} R"))
        facts.append(("one full run (R)", duration(cost.full_run_seconds)))
    return tuple(facts)


def _sure(result: SearchResult, *, is_share: bool) -> Facts:
    return (
        ("judged on", f"{examples(result, 'confirm')} rows"),
        ("seeds", str(n_seeds(result))),
        ("margin", f"± {difference(result.verdict.margin, is_share, signed=False)}"),
        ("test split", "read at the end" if result.test else "not read"),
    )
