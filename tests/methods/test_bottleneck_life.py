"""Bottleneck adapters from attaching to unloading: saved, trained, broken off, copied, never merged."""

from __future__ import annotations

import copy
import gc
import json
import subprocess
import sys
import weakref

import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn
from toys.bottleneck import TOKENS, adapted_sites, adapters_at, build, inject, n_hooks, output, pairs_of, stir

from autopeft.errors import SpecError
from autopeft.methods.bottleneck import PART
from autopeft.methods.parts.bottleneck_tuner import BottleneckConfig, BottleneckLayer

# peft warns of a second config in a model; that this works is what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


LOADER = """
import sys, torch, transformers
import autopeft.methods.bottleneck
from peft import PeftModel
torch.set_num_threads(1)  # as in the tests; sums are rounded differently by several
base, out, *folders = sys.argv[1:]
logits = {}
for folder in folders:
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    model = PeftModel.from_pretrained(plain, folder).eval()
    with torch.no_grad():
        logits[folder] = model(input_ids=torch.arange(10).reshape(2, 5)).logits
torch.save(logits, out)
"""


def test_saved_adapters_and_head_load_exactly_in_a_fresh_process(tmp_path):
    plain = build("bert", auto_class=transformers.AutoModelForSequenceClassification)
    plain.save_pretrained(tmp_path / "base")
    logits = {}
    for mode in ("serial", "parallel"):
        base = build("bert", auto_class=transformers.AutoModelForSequenceClassification)
        (config,) = PART.configs(adapters_at(adapted_sites(base, mode=mode), activation="gelu"))
        config.task_type = "SEQ_CLS"
        model = stir(get_peft_model(base, config))
        logits[str(tmp_path / mode)] = output(model)
        model.save_pretrained(tmp_path / mode, save_embedding_layers=False)
    command = [sys.executable, "-c", LOADER, str(tmp_path / "base"), str(tmp_path / "logits.pt"), *logits]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    for folder, loaded in torch.load(tmp_path / "logits.pt").items():
        assert torch.equal(loaded, logits[folder])
    saved = json.loads((tmp_path / "parallel" / "adapter_config.json").read_text())
    assert saved["peft_type"] == "BOTTLENECK"
    assert saved["outputs"] == dict(pairs_of("bert", plain))


@pytest.mark.parametrize("bias", ["all", "bottleneck_only"])
def test_biases_are_trained_and_saved_as_with_other_tuners(bias, tmp_path):
    target = r".*layer\.0\.output\.dense"
    model = get_peft_model(build("bert"), BottleneckConfig(r=2, target_modules=target, bias=bias))
    lora = get_peft_model(
        build("bert"), LoraConfig(r=2, target_modules=target, bias=bias.replace("bottleneck", "lora"))
    )
    trained, expected = (
        {name for name, p in peft.named_parameters() if p.requires_grad and "default" not in name}
        for peft in (model, lora)
    )
    assert trained == expected != set()
    before = output(stir(model))
    model.save_pretrained(tmp_path)
    assert torch.equal(output(PeftModel.from_pretrained(build("bert"), tmp_path)), before)


def loss(model):
    """Of one feature; the mean square of all is 1 behind a norm, whatever the adapters do."""
    return model(**TOKENS)[0][..., 0].square().mean()


def train_steps(model, *, steps=2):
    """Two steps; the largest absolute gradient that each trained tensor has seen."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    largest = dict.fromkeys(parameters, 0.0)
    for _ in range(steps):
        loss(model.train()).backward()
        for name, p in parameters.items():
            largest[name] = max(largest[name], 0.0 if p.grad is None else float(p.grad.abs().max()))
        optimizer.step()
        optimizer.zero_grad()
    return largest


def mixed_configs():
    return (
        LoraConfig(r=2, target_modules=r".*query"),
        IA3Config(target_modules=r".*value", feedforward_modules=[]),
        BottleneckConfig(r=4, target_modules=r".*output\.dense"),
        BottleneckConfig(r=4, target_modules=r".*intermediate\.dense", mode="parallel"),
    )


def test_every_tensor_gets_a_gradient_within_two_steps_beside_lora_and_ia3():
    torch.manual_seed(0)  # by chance all four units of an adapter may be off, which gives them no gradient
    largest = train_steps(inject(build("bert"), *mixed_configs()))
    assert sum("bottleneck" in name for name in largest) == 4 * (2 + 2 + 2)  # o, down, up in two layers
    assert {name: g for name, g in largest.items() if not g > 1e-6} == {}


@pytest.mark.parametrize("first", [0, 2, 3])  # which tuner takes the adapters off again
def test_unloading_leaves_the_base_model_as_it_was(first):
    model = build("bert")
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    configs = list(mixed_configs())
    peft_model = get_peft_model(model, configs.pop(first))
    inject(model, *configs)
    train_steps(model)
    assert peft_model.unload() is model
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [name for name, _ in model.named_modules()] == names
    assert n_hooks(model) == 0


def parallel_bert():
    config = BottleneckConfig(r=2, target_modules=r".*intermediate\.dense", mode="parallel")
    return stir(inject(build("bert"), config))


def break_off(module, inputs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("then", ["forward", "unload"])
def test_forward_that_is_broken_off_leaves_nothing_behind(then):
    model = build("bert")
    config = BottleneckConfig(r=2, target_modules=r".*intermediate\.dense", mode="parallel")
    peft_model = stir(get_peft_model(model, config))
    expected = output(model)
    handle = model.encoder.layer[1].output.dense.register_forward_pre_hook(break_off)
    with pytest.raises(KeyboardInterrupt):
        output(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)})
    handle.remove()
    if then == "forward":
        assert torch.equal(output(model), expected)
    else:
        peft_model.unload()
    assert n_hooks(model) == 0


def test_no_activation_outlives_the_forward():
    model = parallel_bert().train()
    terms = []
    for module in model.modules():
        if isinstance(module, BottleneckLayer):
            module.bottleneck_up["bottleneck_0"].register_forward_hook(
                lambda m, i, term: terms.append(weakref.ref(term))
            )
    value = loss(model)
    assert len(terms) == 2
    del value
    gc.collect()
    assert [term() for term in terms] == [None, None]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = parallel_bert().train()
        model.enable_input_require_grads()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss(model).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        assert n_hooks(model.encoder) == 0
    assert len(gradients[0]) == 8
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_copy_of_the_model_adds_to_its_own_maps():
    model = parallel_bert()
    twin = copy.deepcopy(model)
    nn.init.zeros_(model.encoder.layer[1].output.dense.weight)
    expected = output(parallel_bert())
    assert torch.equal(output(twin), expected)
    assert not torch.equal(output(model), expected)


def test_disabled_adapters_are_the_base_model():
    config = BottleneckConfig(r=2, target_modules=r".*(intermediate|output)\.dense")
    model = stir(get_peft_model(build("bert"), config))
    with model.disable_adapter():
        assert torch.equal(output(model), output(build("bert")))
    assert not torch.equal(output(model), output(build("bert")))


def test_half_precision_models_keep_their_type():
    config = BottleneckConfig(r=2, target_modules=r".*intermediate\.dense", mode="parallel")
    model = stir(get_peft_model(build("bert").to(torch.bfloat16), config))
    assert {p.dtype for name, p in model.named_parameters() if "bottleneck" in name} == {torch.float32}
    assert output(model).dtype == torch.bfloat16


@pytest.mark.parametrize("act", ["merge_and_unload", "merge_adapter"])
@pytest.mark.parametrize("beside_lora", [False, True])
def test_merging_is_refused(act, beside_lora):
    lora, _, serial, _ = mixed_configs()
    model = get_peft_model(build("bert"), lora if beside_lora else serial)
    inject(model.base_model.model, *([serial] if beside_lora else []))
    with pytest.raises(SpecError, match="cannot be merged into a linear map, for it is not linear"):
        getattr(model, act)()
