"""A finished search as a record, with its target modules, plans and measurements; nothing was trained."""

from __future__ import annotations

from dataclasses import replace

from autopeft import types as rec
from autopeft.report import PartWords
from autopeft.types import Adapter, Fidelity, FullRun, Measurement, Plan, Status, Target

EVIL = "<script>alert('x')</script>"
ROLES = {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (64, 256), "down": (256, 64)}
WORDS = PartWords(
    labels={"lora": "LoRA", "ia3": "IA³"},
    short_labels={"lora": "LoRA", "ia3": "IA³"},
    auto_class="AutoModelForSequenceClassification",
)


def toy_target(name, layer, role, n_in=64, n_out=64, kind="linear"):
    sizes = {"in_features": n_in, "out_features": n_out}
    return Target(name=name, layer=layer, role=role, kind=kind, has_bias=True, **sizes)


def toy_plan(ranks, rate, n_params, method="lora"):
    adapters = tuple(Adapter(method=method, target=s, rank=r, scale=2.0) for s, r in ranks.items())
    return Plan(adapters=adapters, learning_rate=rate, trainable_params=n_params)


def toy_run(plan, split, steps, seed, loss, metric, error=None):
    sizes = {"train_steps": steps, "train_examples": 32 * steps, "eval_examples": 500}
    ended = {"status": Status.FAIL if error else Status.COMPLETE, "error": error, "peak_bytes": 10**6}
    ended |= {"loss": loss, "metric": metric, "train_seconds": steps / 7, "eval_seconds": 0.3}
    return Measurement(plan=plan, fidelity=Fidelity(split=split, seed=seed, **sizes), **ended)


def toy_full_run(name, plan, split, mean, *, seeds=(0,), std_error=0.0023):
    """Its seeds lie 0.4 points apart around the mean."""
    middle = (len(seeds) - 1) / 2
    metrics = tuple(mean + 0.004 * (place - middle) for place in range(len(seeds)))
    return FullRun(
        name=name, plan=plan, split=split, seeds=seeds, metric_mean=mean, metrics=metrics,
        metric_std_error=std_error, mean_loss=0.2, train_seconds=150.0,
    )  # fmt: skip


TARGETS = (
    *(toy_target(f"h.{n}.{role}", n, role, *shape) for n in (0, 1) for role, shape in ROLES.items()),
    *(toy_target(f"h.{n}.norm{i}", n, "norm", kind="norm") for n in (0, 1) for i in (1, 2)),
    toy_target("h.1.extra.o", 1, "o"),
    toy_target("pooler.dense", None, "dense"),
)
RANKS = {"h.0.q": 2, "h.0.v": 3, "h.1.q": 5, "h.1.o": 13, "h.1.extra.o": 7, "h.1.up": 8, "pooler.dense": 11}
BEST = toy_plan(RANKS, 4e-3, 7_296)
BASELINE = toy_plan({s.name: 4 for s in TARGETS if s.kind == "linear"}, 1.5e-3, 9_900)
SLOW = toy_plan(dict.fromkeys(("h.0.k", "h.1.k"), 0), 0.025, 128, method="ia3")
HEAD = Plan(adapters=(), learning_rate=0.01, trainable_params=0)
BROKEN = replace(BEST, learning_rate=0.5)
FIFTH = toy_plan({"h.1.q": 4, "h.1.v": 4}, 2e-3, 1_024)
# fmt: off
ARMS = {
    rec.Arm(kind="baseline", label="LoRA on all linear layers"): BASELINE,
    rec.Arm(kind="usual", label="lora/top"): BEST, rec.Arm(kind="usual", label="ia3/k"): SLOW,
    rec.Arm(kind="sampled", label="lora/all"): BROKEN,
}
SETTING = rec.SearchFacts(
    base_model=f"tiny/{EVIL}", base_model_source=f"tiny/{EVIL}", model_type="bert",
    data="trec|6", task="text-classification", metric_is_share=True,
    metric="accuracy", greater_is_better=True, head_params=390, full_run_steps=300, label_names=("A", "B"),
    budget=rec.Budget(max_trainable_params=10_000, base_params=1_234_567, requested="10k"),
    splits=rec.SplitSizes(train=4_000, search=500, confirm=1_500, test=500, duplicates_removed=12),
    chance=0.25,
)
VERDICT = rec.Verdict(
    label="better", mean_difference=0.014, interval_95=(0.006, 0.022), margin=0.01, n_examples=500,
    sentence="Better than the default by 1.4 points (-0.6 would not be).",
)
MEASUREMENTS = (
    toy_run(BASELINE, "search", 75, 0, 0.41, 0.9), toy_run(BEST, "search", 75, 0, 0.1 + 0.2, 0.93),
    toy_run(SLOW, "search", 75, 0, 0.35, 0.92),
    toy_run(BROKEN, "search", 75, 0, None, None, error=f"loss is nan at step 7 of {EVIL}\nTraceback, more"),
    *(toy_run(plan, "confirm", 300, 0, 0.2, 0.95) for plan in (BEST, BASELINE, SLOW)),
    *(toy_run(plan, "test", 300, 0, 0.2, 0.948) for plan in (BEST, BASELINE)),
)
COST = rec.Cost(
    sensitivity_seconds=1.9, search_seconds=31.0, full_seconds=150.0, sizes_seconds=0.0, test_seconds=2.0,
    full_run_seconds=50.0, load_seconds=3.0, train_seconds=150.0, eval_seconds=12.0,
    total_seconds=184.9, total_full_runs=184.9 / 50,
)


def toy_result():
    """A finished search with three finalists, a test split and a failed run."""
    gradient = tuple(0.001 * (1 + n) ** 2 for n in range(len(TARGETS)))
    uniform = rec.TargetScores(name="uniform", values=(1.0,) * len(TARGETS))
    proposals = (
        rec.Proposal(trial=n, arm=arm, source="sampler" if arm.kind == "sampled" else "list", plan=plan)
        for n, (arm, plan) in enumerate(ARMS.items())
    )
    full = {"best": (BEST, 0.954), "baseline": (BASELINE, 0.94), "ia3/k": (SLOW, 0.951)}
    return rec.SearchResult(
        spec=rec.RunSpec(), setting=SETTING, targets=TARGETS, measurements=MEASUREMENTS,
        best=BEST, baseline=BASELINE, challenger=BEST,
        scores=(rec.TargetScores(name="gradient", values=gradient), uniform),
        proposals=tuple(proposals), verdict=VERDICT, cost=COST,
        full_runs=tuple(toy_full_run(name, plan, "confirm", mean) for name, (plan, mean) in full.items()),
        test=(toy_full_run("best", BEST, "test", 0.948), toy_full_run("baseline", BASELINE, "test", 0.936)),
        environment={"python": "3.13.1", "torch": "2.9.0", "cpu": "2 cores"},
    )
# fmt: on


def kept_default():
    """The same search where the default is handed over: the challenger is 0.7 points behind."""
    result = toy_result()
    verdict = replace(
        VERDICT,
        label="default kept",
        mean_difference=-0.007,
        interval_95=(-0.028, 0.014),
        sentence="Kept.",
    )
    _, default, slow = result.full_runs
    behind = toy_full_run("challenger", BEST, "confirm", 0.933)
    full_runs = (default, behind, slow)
    return replace(result, best=BASELINE, verdict=verdict, full_runs=full_runs, test=result.test[1:])


def with_sizes(result):
    """The result with one plan for a fifth of the budget: 1.1 points less, from 2.0 less to 0.2 less."""
    step = rec.SizeStep(
        share=0.2,
        max_trainable_params=2_000,
        plan=FIFTH,
        arm=rec.Arm(kind="usual", label="lora/q+v in the last layers"),
        metric_mean=0.943,
        mean_difference=-0.011,
        interval_95=(-0.02, -0.002),
        seconds=61.0,
    )
    runs = (toy_run(FIFTH, "search", 75, 0, 0.5, 0.88), toy_run(FIFTH, "confirm", 300, 0, 0.2, 0.943))
    cost = replace(result.cost, sizes_seconds=61.0)
    return replace(result, sizes=(step,), measurements=(*result.measurements, *runs), cost=cost)


def of_language_model():
    """A search with losses for metrics and without a head: the default is the untrained model, loss 2.5."""
    result = toy_result()
    bare = replace(HEAD, learning_rate=0.0)
    run = replace(toy_run(bare, "search", 75, 0, 2.5, 2.5), train_seconds=0.0)
    records = (
        toy_full_run("best", BEST, "confirm", 1.5),
        replace(toy_full_run("baseline", bare, "confirm", 2.5), train_seconds=0.0),
    )
    setting = replace(
        SETTING,
        task="text-generation",
        metric="loss",
        metric_is_share=False,
        greater_is_better=False,
        head_params=0,
        label_names=(),
        chance=None,
    )
    arm = rec.Arm(kind="head", label="untrained")
    proposal = rec.Proposal(trial=9, arm=arm, source="list", plan=bare)
    return replace(
        result,
        baseline=bare,
        full_runs=records,
        test=(),
        setting=setting,
        measurements=(*result.measurements, run),
        proposals=(*result.proposals, proposal),
    )
