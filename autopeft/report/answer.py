"""The answer: what to use, what it costs, how sure it is. `answer.txt.j2` has the sentences."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.report.formatting import render
from autopeft.report.plan_names import PartWords, is_untrained
from autopeft.report.table_rows import full_rows, scored_record
from autopeft.space import BASELINE_METHOD
from autopeft.types import SearchResult, Verdict, in_words_of

NO_LEARNING = "nothing learned"
# Label of the verdict, or what overrules it -> words and tone of the mark above the answer.
_MARKS = {
    "better": ("better than the default", "better"),
    "as good and smaller": ("as good and smaller", "better"),
    "inconclusive": ("not settled", "inconclusive"),
    "default kept": ("default kept", "calm"),
    NO_LEARNING: (NO_LEARNING, "inconclusive"),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Sentences below a mark, whose color is its tone.

    `evaluated` says what the user's own function measured, `refit` that the returned adapter was trained on
    all rows, `served` what serves the adapter of a language model; each may be "".
    """

    mark: str
    tone: str
    use: str
    cost: str
    sure: str
    evaluated: str
    refit: str
    served: str
    verdict: Verdict

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences in their order."""
        return tuple(filter(None, (self.use, self.cost, self.sure, self.refit, self.evaluated, self.served)))


def answer_of(result: SearchResult, words: PartWords) -> Answer:
    """Say what to use, what it costs beside the default, and how sure that is.

    If no full run is surely better than guesses, it says that nothing was learned, whatever the verdict.
    """
    setting, verdict = result.setting, result.verdict
    label, chance = verdict.label, setting.chance
    if chance is not None and not any(run.is_surely_above(chance) for run in result.full_runs):
        label = NO_LEARNING
    rows = full_rows(result, words)
    best, baseline = (
        next(row for row in rows if row.plan == plan) for plan in (result.best, result.baseline)
    )
    is_compared = best != baseline and not is_untrained(result, result.baseline)
    sentences = render(
        "answer.txt",
        label=label,
        best=best,
        baseline=baseline if is_compared else None,
        default="the default LoRA" if result.baseline.lead_method == BASELINE_METHOD else "the default",
        is_untrained=is_untrained(result, result.best),
        scored=scored_record(result, result.best),
        scored_baseline=scored_record(result, result.baseline) if is_compared else None,
        setting=setting,
        is_share=setting.metric_is_share,
        evaluation=result.evaluation,
        refit=result.refit,
        is_default=result.best == result.baseline,
        weights=words.weights,
        is_language_model=words.auto_class == "AutoModelForCausalLM",
    ).splitlines()
    mark, tone = _MARKS[label]
    use, cost, evaluated, refit, served = (*sentences, "", "", "")[:5]
    use, sure = (in_words_of(result.spec, sentence) for sentence in (use, verdict.sentence))
    return Answer(
        mark=mark,
        tone=tone,
        use=use,
        cost=cost,
        sure=sure,
        evaluated=evaluated,
        refit=refit,
        served=served,
        verdict=verdict,
    )
