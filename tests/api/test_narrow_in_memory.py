"""Models in memory whose weights are in bfloat16: the numbers of the same checkpoint loaded by its name."""

from __future__ import annotations

import datasets
import pytest
import torch
import transformers
from toys.bases import AUTO_CLASSES, state_of, toy_config
from toys.memory import SMALL, same_weights, toy_dataset, weights_of
from toys.words import toy_rows

import autopeft
from autopeft.errors import ModelError
from autopeft.report import BEST_WEIGHTS
from autopeft.setup import resources

CLASSIFIER = "AutoModelForSequenceClassification"
FEW = {**SMALL, "trials": 2, "max_steps": 4}


def completions():
    texts, _ = toy_rows(80, seed=5)
    return datasets.Dataset.from_list([{"prompt": t, "completion": t[::-1]} for t in texts])


CASES = {
    "llama-lm": ("text-generation", completions, "none"),
    "gpt2-lm in 4 bits": ("text-generation", completions, "4bit"),  # its norms are torch's
}


def loaded(architecture, folder, quantize):
    """A model as users load it: `dtype=torch.bfloat16`, in 4 bits by a config."""
    auto = getattr(transformers, AUTO_CLASSES.get(architecture, CLASSIFIER))
    if quantize == "none":
        return auto.from_pretrained(folder, dtype=torch.bfloat16)
    pytest.importorskip("bitsandbytes")
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return auto.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_search_in_memory_is_that_of_the_checkpoint_in_bfloat16(name, tokenizer, tmp_path, monkeypatch):
    task, rows, quantize = CASES[name]
    architecture = name.partition(" ")[0]
    auto = getattr(transformers, AUTO_CLASSES.get(architecture, CLASSIFIER))
    torch.manual_seed(0)
    auto.from_config(toy_config(architecture.removesuffix("-lm"), hidden=32)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    module = loaded(architecture, tmp_path / "m", quantize)
    before = weights_of(module), state_of(module), {k: v.dtype for k, v in module.state_dict().items()}
    common = {**FEW, "task": task, "data": rows()}
    held = autopeft.search(model=module, tokenizer=tokenizer, out=tmp_path / "held", **common)
    assert same_weights(before[0], weights_of(module))
    assert (state_of(module), {k: v.dtype for k, v in module.state_dict().items()}) == before[1:]
    settings = {"model": tmp_path / "m", "dtype": "bfloat16", "quantize": quantize, "device": "cpu"}
    named = autopeft.search(out=tmp_path / "named", **common, **settings)
    numbers = [[(m.plan, m.loss, m.metric) for m in result.measurements] for result in (held, named)]
    assert numbers[0] == numbers[1] and len(numbers[0]) > 3
    assert held.spec.execution.dtype == "bfloat16"
    returned = [(run.path / BEST_WEIGHTS / "adapter_model.safetensors").read_bytes() for run in (held, named)]
    assert returned[0] == returned[1]
    adapted = held.load(module)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    if name == "llama-lm":
        monkeypatch.setattr(resources, "narrow_format", lambda device: "bfloat16")
        loaded_again = named.load()
        frozen = {p.dtype for p in loaded_again.parameters() if not p.requires_grad}
        assert (frozen, loaded_again.training) == ({torch.bfloat16}, False)
        ids = torch.arange(4, 10)[None]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = adapted.eval()(ids).logits
        torch.testing.assert_close(loaded_again(ids).logits.float(), expected.float(), rtol=0.05, atol=0.05)


def test_weights_in_bfloat16_are_not_searched_in_float32(make_base, tokenizer, tmp_path):
    module = make_base("bert").module.bfloat16()
    arguments = {"model": module, "data": toy_dataset(), "tokenizer": tokenizer, "out": tmp_path / "run"}
    with pytest.raises(ModelError, match="bfloat16"):
        autopeft.search(**arguments, dtype="float32", **SMALL)
