"""Training steps that never look at values on the device, so that a GPU need not finish its work for them."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys.bases import toy_base
from toys.tasks import with_end_of_text
from toys.words import CONTEXT, toy_rows

from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared.writing import WritingTask
from autopeft.train import Bench, Compute, EncodedSplit
from autopeft.types import Status, TaskSpec

# What a GPU must be waited for: the operations behind `nonzero`, `item`, `if tensor` and boolean indices.
WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "is_nonzero", "equal")


class Refusal(TorchDispatchMode):
    """Refuses the operations for which a GPU would be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").partition(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        has_mask = any(index is not None and index.dtype is torch.bool for index in indices)
        assert name not in WAITS and not has_mask, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class Watched(WritingTask):
    """A task whose loss and backward pass are refused what they would wait for."""

    def loss(self, model, batch):
        with Refusal():
            loss = super().loss(model, batch)
            trained = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        return loss


class Unlisted(WritingTask):
    """A task that knows nothing of its batches before they are on the device."""

    def placed(self, batch, place):
        return {name: place(tensor) for name, tensor in batch.items()}


def cast(task, kind):
    """The same task of another kind."""
    return kind(**{f.name: getattr(task, f.name) for f in fields(task) if f.init})


def fitted(kind, tokenizer):
    """A task and its examples: prompts with answers, plain (all as long) or padded; or packed blocks."""
    texts, _ = toy_rows(20, seed=3, n_filler=(5, 6) if kind == "plain" else (1, 9))
    words = with_end_of_text(tokenizer)
    is_packed = kind == "packed"
    label_space = LabelSpace(kind="documents" if is_packed else "completion")
    task = discover("autopeft.tasks")["text-generation"].fitted(TaskSpec(), label_space, words)
    answers = [""] * 20 if is_packed else [" ".join(text.split()[::-1]) for text in texts]
    made = task.encode([(text,) for text in texts], answers, words, 8 if is_packed else CONTEXT)
    full = [i for i, labels in enumerate(made.labels) if len(labels) == 8 or not is_packed]
    examples, labels = (tuple(column[i] for i in full) for column in (made.examples, made.labels))
    return task, EncodedSplit(examples=examples, labels=labels)


def bench_of(task, split, methods, *, architecture, omits_masks=True, **settings):
    """A bench that leaves masks out as on a GPU, since transformers looks at them."""
    splits = {"train": split, "confirm": split}
    bench = Bench(
        base=toy_base(architecture), task=task, methods=methods, splits=splits, batch_size=6, **settings
    )
    vars(bench)["omits_masks"] = omits_masks
    return bench


def test_batch_of_which_nothing_is_known_is_looked_at(tokenizer):
    task, split = fitted("padded", tokenizer)
    batch = task.collate(split.examples[:6], split.labels[:6], 0)
    with Refusal(), pytest.raises(AssertionError, match="waits for the device"):
        task.loss(toy_base("llama-lm").module, batch)


CUT, CHECKPOINTED = Compute(micro_batch_tokens=40), Compute(checkpointing=True)
KINDS, COMPUTES = ("plain", "packed", "padded"), (Compute(), CUT, CHECKPOINTED)
SAMPLE = [
    *(("llama-lm", kind, Compute()) for kind in KINDS),
    ("llama-lm", "padded", CUT),
    ("llama-lm", "padded", CHECKPOINTED),
]
OTHERS = [case for case in product(("llama-lm",), KINDS, COMPUTES) if case not in SAMPLE]


@pytest.mark.parametrize(
    ("architecture", "kind", "compute"),
    [*SAMPLE, *(pytest.param(*case, marks=pytest.mark.nightly) for case in OTHERS)],
)
def test_step_of_a_language_model_waits_for_nothing(
    architecture, kind, compute, tokenizer, methods, make_plan, fidelity
):
    task, split = fitted(kind, tokenizer)
    assert (len(set(split.lengths.tolist())) > 1) == (kind == "padded")
    bench = bench_of(cast(task, Watched), split, methods, architecture=architecture, compute=compute)
    plan = make_plan(bench.base, "lora")
    seen = bench.measure(plan, fidelity(split="confirm", train_steps=3, eval_examples=6))
    assert (seen.status, seen.error) == (Status.COMPLETE, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "architecture", ["llama-lm", *(pytest.param(a, marks=pytest.mark.nightly) for a in ("gpt2-lm", "moe-lm"))]
)
def test_what_is_known_of_batches_changes_rounding_at_most(
    architecture, kind, tokenizer, methods, make_plan, fidelity
):
    """Against batches as `collate` makes them, with masks; padding takes another kernel then."""
    seen = []
    task, split = fitted(kind, tokenizer)
    for is_known in (True, False):
        given = task if is_known else cast(task, Unlisted)
        bench = bench_of(given, split, methods, architecture=architecture, omits_masks=is_known)
        plan = make_plan(bench.base, "lora")
        measurement = bench.measure(plan, fidelity(split="confirm", train_steps=3))
        assert measurement.status is Status.COMPLETE, measurement.error
        seen.append(replace(measurement, train_seconds=0.0, eval_seconds=0.0, overhead_seconds=0.0))
    assert seen[0].loss == pytest.approx(seen[1].loss, rel=1e-5)
    assert kind == "padded" or seen[0] == seen[1]
