"""The answer in sentences: what to use, what it costs, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopeft.report.formatting import count, duration, memory, metric, percent
from autopeft.report.plan_names import PartWords, is_untrained
from autopeft.report.table_rows import FullRow, full_rows, scored_record
from autopeft.space import BASELINE_METHOD
from autopeft.types import SearchResult

NO_LEARNING = "nothing learned"
# Label of the verdict, or what overrules it -> words and tone of the mark above the answer.
_MARKS = {
    "better": ("better than the default", "better"),
    "as good and smaller": ("as good and smaller", "better"),
    "inconclusive": ("inconclusive", "inconclusive"),
    "default kept": ("default kept", "calm"),
    NO_LEARNING: (NO_LEARNING, "inconclusive"),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to use, and sentences below it with a label each; `tone` decides the color of the mark."""

    mark: str
    tone: str
    use: str
    details: Mapping[str, str]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences in their order."""
        return (self.use, *self.details.values())


def answer_of(result: SearchResult, words: PartWords) -> Answer:
    """Compose the answer; if no full run surely beats guessing, nothing was learned, whatever the verdict."""
    label, chance = result.verdict.label, result.setting.chance
    if chance is not None and not any(run.is_surely_above(chance) for run in result.full_runs):
        label = NO_LEARNING
    rows = {row.plan: row for row in full_rows(result, words)}
    best, baseline = rows[result.best], rows[result.baseline]
    is_compared = best != baseline and not is_untrained(result, result.baseline)
    default = "the default LoRA" if result.baseline.lead_method == BASELINE_METHOD else "the default"
    mark, tone = _MARKS[label]
    details = {
        "How sure": result.verdict.sentence,
        "What it costs": _cost(result, best, baseline if is_compared else None),
        "What you get": _refit(result),
        "Serving": _served(words) if not is_untrained(result, result.best) else "",
    }
    return Answer(
        mark=mark,
        tone=tone,
        use=_use(result, label, best.words, default, is_compared=is_compared),
        details={name: sentence for name, sentence in details.items() if sentence},
    )


def _use(result: SearchResult, label: str, plan: str, default: str, *, is_compared: bool) -> str:
    setting, record = result.setting, scored_record(result, result.best)
    shown = metric(record.metric_mean, setting.metric_is_share)
    score = f"{setting.metric_words} {shown} on the {record.split} split"
    if is_compared:
        baseline = scored_record(result, result.baseline)
        default = f"{default} ({metric(baseline.metric_mean, setting.metric_is_share)})"
    return {
        "better": f"Use {plan}: {score}, better than {default}.",
        "as good and smaller": f"Use {plan}: {score}, as good as {default} with fewer parameters.",
        "inconclusive": f"Try {plan}: {score}, but it may be no better than {default}.",
        "default kept": f"Keep the default, {plan}: {score}.",
        NO_LEARNING: f"Nothing was learned: {plan} may be no better than guessing. Check --label-column, "
        "train longer, or hold out more rows.",
    }[label]


def _cost(result: SearchResult, best: FullRow, baseline: FullRow | None) -> str:
    """Compare the plans by time and memory too, since fewer parameters need not be cheaper."""
    if best.train_seconds is None:
        return "It needs no training: it is the base model itself."
    share = percent(100 * best.plan.trainable_params / result.setting.budget.base_params)
    head = f" and {count(n)} of the task head" if (n := result.setting.head_params) else ""
    peak = f", using {memory(best.peak_bytes)} of memory on top of the base model" if best.peak_bytes else ""
    cost = (
        f"The plan trains {count(best.plan.trainable_params)} adapter parameters ({share} of the base "
        f"model){head} in {duration(best.train_seconds)}{peak}; its file is {memory(best.file_bytes)}."
    )
    if baseline is None:
        return cost
    peak = f", using {memory(baseline.peak_bytes)}" if baseline.peak_bytes else ""
    return (
        f"{cost} The default trains {count(baseline.plan.trainable_params)} adapter parameters in "
        f"{duration(baseline.train_seconds)}{peak}; its file is {memory(baseline.file_bytes)}."
    )


def _refit(result: SearchResult) -> str:
    """Describe the returned adapter, if it was trained on all rows."""
    refit, setting = result.refit, result.setting
    if refit is None:
        return ""
    score = ""
    if refit.test is not None:
        shown = metric(refit.test.metric_mean, setting.metric_is_share)
        score = f": {setting.metric_words} {shown} on the test split"
    return (
        f"The returned adapter, best/weights, is the best plan retrained on all {count(refit.train_rows)} "
        f"rows{score}. The adapter that was compared is best/judged."
    )


def _served(words: PartWords) -> str:
    """Say what serves the adapter of a language model."""
    if words.auto_class != "AutoModelForCausalLM":
        return ""
    if words.servers:
        named = "vLLM and llama.cpp" if len(words.servers) > 1 else "vLLM"
        return f"{named} can serve the adapter as is."
    return "Servers cannot read the adapter as is; autopeft export writes a form that they read."
