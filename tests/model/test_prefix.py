"""The frozen layers below everything that trains: skipped only where no bit changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toys.bases import state_of

from autopeft.extension import discover
from autopeft.model.training_pass import frozen_prefix, skips_exactly

METHODS = discover("autopeft.methods")
SKIPPING = ("bert", "gpt2", "llama", "vit", "gpt2-lm", "llama-lm", "moe-lm")


def loss_of(model, batch):
    return model(**batch).loss


def gradients(model, batch):
    loss = loss_of(model, batch)
    return [loss.detach(), *torch.autograd.grad(loss, trained(model))]


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def moved(model):
    """The model with all that trains away from its first values, so that zeros hide nothing."""
    generator = torch.Generator().manual_seed(3)
    for parameter in trained(model):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def top_plan(base, make_plan, method="lora"):
    """A method at every site that it takes in the highest layer."""
    top = max(site.layer for site in base.sites if site.layer is not None)
    highest = {site.name for site in base.sites if site.layer == top}
    return make_plan(base, [a for a in make_plan(base, method).adapters if a.site in highest])


def counted(layers):
    """The number of times that the inside of each layer runs from now on."""
    counts = [0] * len(layers)

    def count(index):
        counts[index] += 1

    for index, layer in enumerate(layers):
        inner = next(child for child in layer.modules() if not list(child.children()))
        inner.register_forward_pre_hook(lambda module, args, index=index: count(index))
    return counts


@pytest.fixture
def adapted(make_base, make_plan, attach):
    """A function: architecture -> the context of a toy with LoRA in its highest layer."""

    def adapted(architecture, **settings):
        base = make_base(architecture, **settings)
        return base, attach(base, top_plan(base, make_plan))

    return adapted


@pytest.mark.parametrize("architecture", SKIPPING)
def test_gradients_are_the_same_bits_with_the_lower_layers_skipped(architecture, adapted, batch_for):
    base, attached = adapted(architecture)
    batch = batch_for(base)
    with attached as model:
        plain = gradients(moved(model), batch)
        prefix = frozen_prefix(model)
        counts = counted(prefix.layers)
        kept = []
        with prefix.installed():
            prefix.expect(batch, None, kept.append)
            first = gradients(model, batch)
            prefix.expect(batch, kept[0], None)
            again = gradients(model, batch)
        assert counts == [1]
        assert gradients(model, batch) and counts == [2]
    assert all(map(torch.equal, plain, first)) and all(map(torch.equal, plain, again))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_probe_compares_the_gradients_of_every_method(method, bert, make_plan, attach, batch_for):
    # Gradients need not be contiguous: those of c3a are the real parts of complex numbers.
    with attach(bert, top_plan(bert, make_plan, method)) as model:
        prefix = frozen_prefix(model)
        with prefix.installed():
            assert skips_exactly(prefix, loss_of, batch_for(bert))


@pytest.mark.parametrize("method", ["lora", "ln_tuning"])
def test_nothing_lies_below_the_lowest_layer(method, make_base, make_plan, attach):
    base = make_base("llama-lm")
    with attach(base, make_plan(base, method)) as model:
        assert frozen_prefix(model) is None


class TwoStreams(nn.Module):
    """Layers that hand a second tensor to the layer above, beside their output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        for layer in self.layers:
            layer.register_forward_hook(self.note)

    def note(self, layer, args, output):
        self.beside.append(args[0].mean())

    def forward(self, x):
        self.beside = []
        for layer in self.layers:
            x = layer(x)
        return x.sum() * self.beside[1]


def test_state_beside_the_outputs_is_noticed():
    torch.manual_seed(0)
    model = TwoStreams().requires_grad_(False)
    model.layers[2].requires_grad_(True)
    prefix = frozen_prefix(model)
    assert len(prefix.layers) == 2
    with prefix.installed():
        assert not skips_exactly(prefix, lambda model, batch: model(batch["x"]), {"x": torch.ones(2, 4)})


def test_calls_with_other_tensors_run_every_layer(adapted, batch_for):
    base, attached = adapted("llama-lm")
    batch = batch_for(base)
    with attached as model, torch.no_grad():
        model.eval()
        arguments = {name: batch[name] for name in ("input_ids", "attention_mask")}
        written = model.generate(**arguments, max_new_tokens=4, do_sample=False)
        states = model(**arguments, output_hidden_states=True).hidden_states
        shorter = model(input_ids=batch["input_ids"][:, :3]).logits
        prefix, kept = frozen_prefix(model), []
        with prefix.installed():
            prefix.expect(batch, None, kept.append)
            loss_of(model, batch)
            prefix.expect(batch, kept[0], None)
            assert torch.equal(model.generate(**arguments, max_new_tokens=4, do_sample=False), written)
            assert all(map(torch.equal, model(**arguments, output_hidden_states=True).hidden_states, states))
            assert torch.equal(model(input_ids=batch["input_ids"][:, :3]).logits, shorter)


@pytest.mark.parametrize("architecture", ["bert", "llama-lm"])
def test_layers_above_are_checkpointed_as_always(architecture, adapted, batch_for):
    base, attached = adapted(architecture)
    batch = batch_for(base)
    with attached as model:
        plain = gradients(moved(model.train()), batch)
        base.module.gradient_checkpointing_enable({"use_reentrant": False})
        prefix, kept = frozen_prefix(model), []
        top = next(child for child in model.modules() if isinstance(child, nn.ModuleList))[-1:]
        counts = counted(top)
        with prefix.installed():
            prefix.expect(batch, None, kept.append)
            gradients(model, batch)
            prefix.expect(batch, kept[0], None)
            assert all(map(torch.equal, plain, gradients(model, batch)))
        assert counts == [4]  # twice in each step
        base.module.gradient_checkpointing_disable()


def test_model_is_as_before_afterwards(adapted, batch_for):
    base, attached = adapted("bert")
    with attached as model:
        before = state_of(model)
        inside = [sorted(vars(module)) for module in model.modules()]
        prefix = frozen_prefix(model)
        with prefix.installed():
            skips_exactly(prefix, loss_of, batch_for(base))
        assert state_of(model) == before
        assert [sorted(vars(module)) for module in model.modules()] == inside


def test_model_without_numbered_layers_or_trained_parameters_has_no_prefix(bert):
    assert frozen_prefix(nn.Linear(2, 2)) is None
    assert frozen_prefix(bert.module) is None
