"""A finished search as a record, with its sites, plans and measurements; nothing was trained."""

from __future__ import annotations

from dataclasses import replace

from autopeft import records as rec
from autopeft.records import Adapter, Confirmation, Fidelity, Measurement, Plan, Site, Status
from autopeft.report import PartWords

EVIL = "<script>alert('x')</script>"
ROLES = {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (64, 256), "down": (256, 64)}
WORDS = PartWords(
    labels={"lora": "LoRA", "ia3": "IA³"},
    short_labels={"lora": "LoRA", "ia3": "IA³"},
    auto_class="AutoModelForSequenceClassification",
    metric_is_share=True,
)
SPENT = {"train_seconds": 150.0, "mean_loss": 0.2}


def toy_site(name, layer, role, n_in=64, n_out=64, kind="linear"):
    sizes = {"in_features": n_in, "out_features": n_out}
    return Site(name=name, layer=layer, role=role, kind=kind, has_bias=True, **sizes)


def toy_plan(ranks, rate, n_params, method="lora"):
    adapters = tuple(Adapter(method=method, site=s, rank=r, scale=2.0) for s, r in ranks.items())
    return Plan(adapters=adapters, learning_rate=rate, trainable_params=n_params)


def toy_run(plan, split, steps, seed, loss, metric, error=None):
    sizes = {"train_steps": steps, "train_examples": 32 * steps, "eval_examples": 500}
    ended = {"status": Status.FAIL if error else Status.COMPLETE, "error": error, "peak_bytes": 10**6}
    ended |= {"loss": loss, "metric": metric, "train_seconds": steps / 7, "eval_seconds": 0.3}
    return Measurement(plan=plan, fidelity=Fidelity(split=split, seed=seed, **sizes), **ended)


def toy_confirmations(split, *means):
    each = {"split": split, "seeds": (101, 102, 103), "metric_std_error": 0.0023} | SPENT
    return tuple(
        Confirmation(name=name, plan=plan, metric_mean=m, metrics=(m - 0.004, m, m + 0.004), **each)
        for (name, plan), m in zip(ANSWERS.items(), means, strict=True)
    )


SITES = (
    *(toy_site(f"h.{n}.{role}", n, role, *shape) for n in (0, 1) for role, shape in ROLES.items()),
    *(toy_site(f"h.{n}.norm{i}", n, "norm", kind="norm") for n in (0, 1) for i in (1, 2)),
    toy_site("h.1.extra.o", 1, "o"),
    toy_site("pooler.dense", None, "dense"),
)
RANKS = {"h.0.q": 2, "h.0.v": 3, "h.1.q": 5, "h.1.o": 13, "h.1.extra.o": 7, "h.1.up": 8, "pooler.dense": 11}
BEST = toy_plan(RANKS, 4e-3, 7_296)
BASELINE = toy_plan({s.name: 4 for s in SITES if s.kind == "linear"}, 1.5e-3, 9_900)
SMALLEST = toy_plan(dict.fromkeys(("h.0.k", "h.1.k"), 0), 0.025, 128, method="ia3")
HEAD = Plan(adapters=(), learning_rate=0.01, trainable_params=0)
BROKEN = replace(BEST, learning_rate=0.5)
ANSWERS = {"baseline": BASELINE, "best": BEST, "smallest": SMALLEST}
# fmt: off
ARMS = {"baseline": BASELINE, "lora/top": BEST, "ia3/all": SMALLEST, "head": HEAD, "lora/all": BROKEN}
SETTING = rec.SearchFacts(
    base_model=f"tiny/{EVIL}", base_model_source=f"tiny/{EVIL}", model_type="bert",
    data="trec|6", task="text-classification",
    metric="accuracy", greater_is_better=True, head_params=390, full_run_steps=300, label_names=("A", "B"),
    budget=rec.Budget(max_trainable_params=10_000, base_params=1_234_567, requested="10k"),
    splits=rec.SplitSizes(train=4_000, search=500, confirm=1_500, test=500, duplicates_removed=12),
)
VERDICT = rec.Verdict(
    label="better", mean_difference=0.014, interval_95=(0.006, 0.022), margin=0.01, fidelity="full",
    smallest_equivalent="proven",
    sentence="Better than the default LoRA by 1.4 points (0.6 to 2.2); 128 parameters are as good.",
)
MEASUREMENTS = (
    toy_run(BASELINE, "search", 30, 0, 0.9, 0.7), toy_run(BEST, "search", 30, 0, 0.8, 0.75),
    toy_run(SMALLEST, "search", 30, 0, 0.85, 0.72), toy_run(HEAD, "search", 30, 0, 1.2, 0.5),
    toy_run(BROKEN, "search", 30, 0, None, None, error=f"loss is nan at step 7 of {EVIL}\nTraceback, more"),
    toy_run(BASELINE, "search", 75, 0, 0.41, 0.9), toy_run(BEST, "search", 75, 0, 0.1 + 0.2, 0.93),
    toy_run(SMALLEST, "search", 75, 0, 0.35, 0.92),
    *(toy_run(plan, "confirm", 300, s, 0.2, 0.95) for plan in (BEST, BASELINE) for s in (101, 102, 103)),
    toy_run(BEST, "test", 300, 101, 0.2, 0.948),
)
COST = rec.Cost(
    sensitivity_seconds=1.9, search_seconds=310.0, confirm_seconds=400.0, full_run_seconds=50.0,
    full_runs=6.2, examples_seen=98_000, total_seconds=725.0, total_full_runs=14.5,
)


def toy_result():
    """A finished search with confirmation, test split and a failed run."""
    gradient = tuple(0.001 * (1 + n) ** 2 for n in range(len(SITES)))
    uniform = rec.SiteScores(name="uniform", values=(1.0,) * len(SITES))
    arms = [rec.Arm(kind="sampled", label=label) for label in ARMS]
    proposals = (
        rec.Proposal(trial=n, arm=arm, source="enqueued", plan=ARMS[arm.label]) for n, arm in enumerate(arms)
    )
    return rec.SearchResult(
        spec=rec.RunSpec(), setting=SETTING, sites=SITES, measurements=MEASUREMENTS, **ANSWERS,
        scores=(rec.SiteScores(name="gradient", values=gradient), uniform),
        proposals=tuple(proposals), verdict=VERDICT, cost=COST,
        test=toy_confirmations("test", 0.936, 0.948, 0.9476),
        confirmations=toy_confirmations("confirm", 0.94, 0.954, 0.951),
        proxy=rec.Proxy(rank_correlation=0.83, n_plans=3, rung_steps=(30, 75)),
        environment={"python": "3.13.1", "torch": "2.9.0", "cpu": "2 cores"},
    )
# fmt: on


def with_head(result):
    """The result with a confirmation of the head alone: 80 % on the same seeds."""
    head = replace(toy_confirmations("confirm", 0.8, 0.8, 0.8)[0], name="head", plan=HEAD)
    return replace(result, confirmations=(*result.confirmations, head))


def of_language_model():
    """The toy result with losses for metrics and without a head: HEAD is the untrained model, loss 2.5."""
    result = with_head(toy_result())
    *named, bare = result.confirmations
    bare = replace(bare, name="untrained", metric_mean=2.5, metrics=(2.5, 2.5, 2.5), train_seconds=0.0)
    changes = {"head_params": 0, "metric": "loss", "greater_is_better": False, "label_names": ()}
    last = replace(MEASUREMENTS[3], fidelity=replace(MEASUREMENTS[3].fidelity, train_steps=75))
    return replace(
        result,
        confirmations=(*named, bare),
        setting=replace(result.setting, task="text-generation", **changes),
        measurements=(*result.measurements, last),
    )
