"""A pass where memory runs out, and the bytes that it counts."""

from __future__ import annotations

import pytest
import torch
from toys.sensitivity import ModelLoss, run_scores, score_by_target, values_by_target

from autopeft.errors import SpecError

NAMES = ["fisher", "parameters"]


class LimitedLoss:
    """A task that holds at most so many examples at once, as a small memory would."""

    peft_task_type = "SEQ_CLS"

    def __init__(self, task, *, max_examples):
        self._task, self._max_examples = task, max_examples

    def loss(self, model, batch):
        if len(batch["labels"]) > self._max_examples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self._task.loss(model, batch)


class _Exhausted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


class LimitedBackward:
    """Lets memory run out in the backward pass, between a BERT's second layer and its first."""

    def __init__(self, base, *, max_examples):
        self._layer = base.module.bert.encoder.layer[0]
        self._max_examples, self.n_stopped = max_examples, 0

    def __enter__(self):
        self._hook = self._layer.register_forward_hook(self._watch)
        return self

    def __exit__(self, *error):
        self._hook.remove()

    def _watch(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if len(hidden) > self._max_examples and hidden.requires_grad:
            self.n_stopped += 1
            return _Exhausted.apply(hidden) if hidden is output else (_Exhausted.apply(hidden), *output[1:])
        return None


def assert_same_values(scores, others):
    for first, second in zip(scores, others, strict=True):
        assert first.values == pytest.approx(second.values, rel=1e-4)


def test_batch_that_does_not_fit_is_seen_in_parts(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    seen = run_scores(NAMES, bert, batches, task=LimitedLoss(task, max_examples=2))
    assert seen.n_examples == 12
    assert [note for note in seen.notes if "Memory" in note] == [
        "Memory ran out at 6 examples at once; went on with 3.",
        "Memory ran out at 3 examples at once; went on with 2.",
    ]
    assert_same_values(seen.scores, run_scores(NAMES, bert, batches, task=task).scores)


def test_batch_of_more_tokens_than_a_micro_batch_is_seen_in_parts(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    n_tokens = batches[0]["input_ids"].shape[1]
    limit = 2 * n_tokens  # of six rows; the other batch is as long or shorter
    assert batches[1]["input_ids"].shape[1] <= n_tokens
    limited = LimitedLoss(task, max_examples=3)  # memory would run out at a whole batch
    seen = run_scores(NAMES, bert, batches, task=limited, max_tokens=limit)
    assert seen.notes == run_scores(NAMES, bert, batches, task=task).notes
    assert_same_values(seen.scores, run_scores(NAMES, bert, batches, task=task).scores)


def test_what_was_counted_before_memory_ran_out_is_not_counted_again(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    with LimitedBackward(bert, max_examples=3) as limited:
        scores = run_scores(NAMES, bert, batches, task=task).scores
    assert limited.n_stopped == 1
    assert_same_values(scores, run_scores(NAMES, bert, batches, task=task).scores)


def test_experts_whose_gradient_does_not_fit_are_left_out(make_base, batch_for):
    base = make_base("moe-lm")
    batch, experts = batch_for(base), [target.name for target in base.targets if target.kind == "parameter"]

    class NoWeightGradients:
        peft_task_type = "CAUSAL_LM"

        def loss(self, model, batch):
            if any(parameter.requires_grad for parameter in model.parameters()):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return model(**batch).loss

    seen = run_scores(["fisher"], base, [batch, batch], task=NoWeightGradients())
    assert seen.unreachable == tuple(experts)
    assert seen.notes[-1] == "Memory ran out at one example: experts in one parameter score 0."
    whole = score_by_target("fisher", base, [batch, batch], task=ModelLoss("CAUSAL_LM"))
    expected = whole | dict.fromkeys(experts, 0.0)
    assert values_by_target(base, seen.scores[0]) == pytest.approx(expected, rel=1e-3)


def test_one_example_that_does_not_fit_is_an_error(bert, task, make_batch):
    with pytest.raises(SpecError, match=r"One example of batch 1 does not fit.*lower --max-length"):
        run_scores(["fisher"], bert, [make_batch(2), make_batch(2)], task=LimitedLoss(task, max_examples=0))


class FewTokens:
    """A language model's task where memory holds at most so many tokens at once."""

    peft_task_type = "CAUSAL_LM"

    def __init__(self, *, max_tokens):
        self._max_tokens, self.seen = max_tokens, []

    def loss(self, model, batch):
        if batch["input_ids"].numel() > self._max_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen.append(batch)
        return model(**batch).loss


def prompts_with_answers(*, seed, n_tokens=64, n_padding=4, n_answer=6):
    """Two rows whose labels lie at the end, before the padding."""
    ids = torch.randint(4, 20, (2, n_tokens), generator=torch.Generator().manual_seed(seed))
    mask, labels = torch.ones_like(ids), torch.full_like(ids, -100)
    mask[1, -n_padding:] = 0
    for row, end in enumerate((n_tokens, n_tokens - n_padding)):
        labels[row, end - n_answer : end] = ids[row, end - n_answer : end]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_row_of_a_language_model_that_does_not_fit_loses_the_beginning_of_its_prompt(make_base):
    base = make_base("llama-lm")
    batches = [prompts_with_answers(seed=seed) for seed in range(2)]
    task = FewTokens(max_tokens=40)
    seen = run_scores(NAMES, base, batches, task=task)
    assert [note for note in seen.notes if "Memory" in note] == [
        "Memory ran out at 2 examples at once; went on with 1.",
        "Memory ran out at one row; went on with 32 of its tokens, those before its last label.",
    ]
    rows = [(batch, row, end) for batch in batches for row, end in ((0, 64), (1, 60))]
    for part, (batch, row, end) in zip(task.seen, rows, strict=True):
        columns = [0, *range(end - 31, end)]
        assert all(torch.equal(part[name][0], batch[name][row, columns]) for name in batch)
        assert (part["labels"] != -100).sum() == 6
    pairs = task.seen[:2], task.seen[2:]
    cut = [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in pairs]
    assert_same_values(seen.scores, run_scores(NAMES, base, cut, task=ModelLoss("CAUSAL_LM")).scores)


def test_held_bytes_are_counted_and_time_is_measured(bert, task, make_batch):
    seen = run_scores(["fisher"], bert, [make_batch(seed=i) for i in range(2)], task=task)
    n_tokens = make_batch(seed=0)["input_ids"].numel()
    n_inputs = 4 * n_tokens * 16  # of the smallest inputs, in bytes; two layers hold more than four such each
    assert seen.peak_bytes > 8 * n_inputs
    assert seen.seconds > 0
    assert run_scores(["parameters"], bert, [], task=task).peak_bytes == 0
