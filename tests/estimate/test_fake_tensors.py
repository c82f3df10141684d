"""Results that are made anew from known shapes are those that torch gives, and share what torch's share."""

from __future__ import annotations

import pytest
import torch
from test_replay import llama_skeleton, lora_of, step_of
from torch._subclasses.fake_tensor import FakeTensorMode

from autopeft.estimate import StandInValues, without_weights
from autopeft.estimate.fake_tensors import KernelResults
from autopeft.estimate.replay import Replay

CALLS = {
    "own storage": lambda x: [x @ x.t(), torch.nn.functional.layer_norm(x, (3,)), x.new_zeros(2)],
    "views": lambda x: [x.t(), x[1:], x.unsqueeze(1), x.expand(2, 4, 3), *x.split(2), x.detach()],
    "in place": lambda x: [x.add_(1.0), x.mul_(2), x.t().sub_(x.t())],
    "number formats": lambda x: [
        x.to(torch.bfloat16),
        x.to(torch.float32),
        x > 0,
        x.sum(dtype=torch.float64),
    ],
    "numbers that compare equal": lambda x: [x.ge(True), x.ge(1), x.sum(), x.sum(0), x + 1, x + 1.0],
    "complex": lambda x: [torch.fft.rfft(x), torch.fft.irfft(torch.fft.rfft(x))],
    "attention": lambda x: [torch.nn.functional.scaled_dot_product_attention(*[x[None, None]] * 3)],
}


def looks(x, results):
    """What can be seen of results; those that share a storage have the same number."""
    storages = [tensor.untyped_storage() for tensor in (x, *results)]
    places = [storage._cdata for storage in storages]
    seen = []
    for tensor, storage in zip(results, storages[1:], strict=True):
        form = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device)
        seen.append((type(tensor), *form, places.index(storage._cdata), storage.nbytes(), tensor is x))
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_known_results_look_as_those_of_torch(name):
    with FakeTensorMode() as mode:
        inputs = [torch.empty(4, 3), torch.empty(3, 4).t(), torch.empty(8, 3)[::2]] * 2
        expected = [looks(x, CALLS[name](x)) for x in inputs]
        with StandInValues(KernelResults(mode=mode)):
            results = [CALLS[name](x) for x in inputs]
        assert [looks(x, each) for x, each in zip(inputs, results, strict=True)] == expected


def test_a_model_that_was_replayed_before_takes_what_a_new_one_takes():
    def skeleton():
        shape = {"hidden_size": 32, "intermediate_size": 80, "vocab_size": 50, "num_hidden_layers": 4}
        return without_weights(
            llama_skeleton(**shape), [lora_of(4)], task_type="CAUSAL_LM", dtype=torch.bfloat16
        )

    steps = [step_of("llama-lm", checkpointing=on, n_parts=n) for on in (False, True) for n in (1, 2)]
    used = Replay(skeleton())
    assert [used.memory(step) for step in steps] == [Replay(skeleton()).memory(step) for step in steps]


def test_a_slow_replay_says_once_what_takes_long(caplog):
    mode = FakeTensorMode()
    results = KernelResults(mode=mode, slow_kernels=1)
    with caplog.at_level("INFO", logger="autopeft"), mode:
        numbers = torch.ones(3)
        for _ in range(3):
            results.of(torch.ops.aten.add.Tensor, (numbers, numbers), {})
    assert caplog.text.count("Still replaying a training step for its memory") == 1
