"""Virtual tokens: where a model takes them, what they cost, and that they train, save, load and mix."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import transformers
from peft import IA3Config, MissConfig, PeftModel, VeraConfig
from toys.architectures import CONTEXT, GROUPED, D, V, build, logits, make_inputs, skeleton, train
from transformers import DynamicCache

from autopeft.errors import SiteError
from autopeft.extension import Method
from autopeft.methods.p_tuning import PART as P_TUNING
from autopeft.methods.prefix_tuning import PART as PREFIX_TUNING
from autopeft.methods.prompt_tuning import PART as PROMPT_TUNING
from autopeft.model import BaseModel, adapter_names, load_weights, save_weights
from autopeft.model.virtual import n_virtual_tokens
from autopeft.records import Adapter, Plan, Site

METHODS = {method.name: method for method in (P_TUNING, PREFIX_TUNING, PROMPT_TUNING)}
CAUSAL, CLASSES, SEQ2SEQ = "CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM"
# Numbers of a virtual token's keys and values: twice, in two layers, by the width of the keys.
CACHES = {"gpt2": 4 * D, "gpt_neox": 4 * D, "llama": 2 * D, "phi3": 2 * D, "mixtral": 2 * D}
WIDTHS = {
    ("bert", CLASSES): D,
    ("roberta", CLASSES): D,
    ("distilbert", CLASSES): D,
    ("modernbert", CLASSES): D,
}
WIDTHS |= {
    ("deberta-v2", CLASSES): D,
    ("albert", CLASSES): 8,
}  # whose embeddings are narrower than its layers
WIDTHS |= {("t5", SEQ2SEQ): D, ("bart", SEQ2SEQ): D} | {(name, CAUSAL): D for name in CACHES}
CASES = [
    pytest.param(architecture, task_type, name, id=f"{architecture}-{task_type}-{name}")
    for architecture, task_type in WIDTHS
    for name in METHODS
    if name != "prefix_tuning" or task_type == CAUSAL
]
SOME = [case for case in CASES if case.values[0] in ("distilbert", "albert", "llama", "gpt2", "t5")]
MIXED = [
    ("bert", CLASSES, "prompt_tuning"),
    ("bert", CLASSES, "p_tuning"),
    ("llama", CAUSAL, "prefix_tuning"),
]


NAMED = {"name": "toy", "untrained": frozenset()}


def planned(base, name, *, rank=3, **choices):
    """One adapter of a method for virtual tokens, as a plan."""
    method = METHODS[name]
    site = next(site for site in base.sites if method.refusal(site) is None)
    options = method.options(site, **choices)
    adapter = Adapter(method=name, site=site.name, rank=rank, options=tuple(options.items()))
    cost = method.cost(site, rank, options)
    return Plan(adapters=(adapter,), learning_rate=1e-3, trainable_params=cost)


def lend(base, plan, task_type, *, beneath=(), seed=0):
    configs = (*beneath, *METHODS[plan.adapters[0].method].configs(plan.adapters))
    return configs, base.attached(configs, plan=plan, task_type=task_type, seed=seed)


def n_trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_part_is_a_method_with_an_ascending_range_of_rates(method):
    assert isinstance(method, Method)
    assert 0 < method.learning_rate_range[0] < method.learning_rate_range[1]
    assert (method.identity_at_start, method.merges, method.servers({})) == (False, False, ())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_only_its_own_site_of_the_whole_model_is_taken(method):
    role = "prefix" if method is PREFIX_TUNING else "prompt"
    wanted = {"llama": 1, "vit": 0}
    for architecture, n_sites in wanted.items():
        base = skeleton(architecture, "image" if architecture == "vit" else CAUSAL)
        fitting = [site for site in base.sites if method.refusal(site) is None]
        assert [(site.kind, site.role) for site in fitting] == [("model", role)] * n_sites
    site = Site(name="h.0.q", layer=0, role="q", kind="linear", in_features=4, out_features=4, has_bias=False)
    assert "takes the model as a whole" in method.refusal(site)


@pytest.mark.parametrize(("architecture", "task_type"), WIDTHS)
def test_model_sites_say_how_many_numbers_a_virtual_token_has(architecture, task_type):
    sites = {s.name: s for s in skeleton(architecture, task_type).sites if s.kind == "model"}
    expected = {"inputs": WIDTHS[architecture, task_type]}
    if task_type == CAUSAL:
        expected["cache"] = CACHES[architecture]
    assert {name: site.out_features for name, site in sites.items()} == expected


@pytest.mark.parametrize(
    ("architecture", "task_type"),
    [
        ("gpt2", CLASSES),  # would look at the last position, padding or not
        ("llama", CLASSES),
        ("modernbert-decoder", CLASSES),  # the same, though its head is called as an encoder's
        ("canine", CLASSES),  # has no words
        ("t5", CLASSES),  # looks for the end of the text in the ids
        ("bert", "TOKEN_CLS"),  # would give labels to the virtual tokens too
        ("xlnet", CLASSES),
        ("vit", "image"),
    ],
)
def test_model_that_cannot_have_virtual_tokens_in_front_has_no_site_for_them(architecture, task_type):
    assert not any(site.kind == "model" for site in skeleton(architecture, task_type).sites)


@pytest.mark.parametrize(
    "architecture",
    [
        "deepseek_v3",  # compressed keys
        "openai-gpt",  # no cache
        "mpt",  # peft does not find out how many heads it has
    ],
)
def test_model_whose_keys_peft_cannot_put_a_prefix_before_has_no_site_for_it(architecture):
    assert [s.name for s in skeleton(architecture, CAUSAL).sites if s.kind == "model"] == ["inputs"]


def test_model_that_looks_words_up_in_every_layer_has_no_site_for_a_prompt():
    """Beside embeddings alone Gemma 4 looks for the words that they belong to, which a prompt's do not."""
    sizes = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": V, "num_kv_shared_layers": 0}
    config = transformers.Gemma4TextConfig(
        **GROUPED, **sizes, head_dim=4, layer_types=["sliding_attention", "full_attention"], global_head_dim=4
    )
    with torch.device("meta"):
        module = transformers.Gemma4ForCausalLM(config)
    assert not any(site.kind == "model" for site in BaseModel(module, None, **NAMED).sites)


def test_model_with_convolutions_beside_its_attention_has_no_site_for_a_prefix():
    """Their states are in the same cache, and peft's prefix has none of them."""
    mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}
    config = transformers.FalconH1Config(**GROUPED, **mamba, mamba_d_state=4, mamba_chunk_size=8)
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(config)
    sites = BaseModel(module, None, **NAMED).sites
    assert [site.name for site in sites if site.kind == "model"] == ["inputs"]


@pytest.mark.parametrize(("architecture", "task_type", "name"), CASES)
def test_cost_is_what_peft_attaches_and_everything_trained_gets_a_gradient(architecture, task_type, name):
    base = build(architecture, task_type)
    plan, inputs, digest = planned(base, name), make_inputs(task_type), base.sha256()
    before = logits(base.module, inputs)
    _, lent = lend(base, plan, task_type)
    with lent as model:
        by_peft, _ = model.get_nb_trainable_parameters()
        assert by_peft - base.head_params == n_trainable(model) - base.head_params == plan.trainable_params
        assert not torch.allclose(logits(model, inputs), before, atol=1e-4)  # it reaches the model
        largest = train(model.eval(), inputs)
        assert {n: g for n, g in largest.items() if not g > 0} == {}
        embedding = model.prompt_encoder["default"].embedding.weight
        model(**inputs).loss.backward()
        assert (embedding.grad != 0).all()  # no number of it is trained in vain
    assert base.sha256() == digest
    assert torch.equal(logits(base.module, inputs), before)


@pytest.mark.parametrize("hidden", P_TUNING.choices["encoder_hidden_size"])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_p_tuning_costs_its_network_with_biases_and_its_inputs(rank, hidden):
    base = skeleton("bert", CLASSES)
    plan = planned(base, "p_tuning", rank=rank, encoder_hidden_size=hidden)
    # Three maps d → h → h → d with biases, and one input of d numbers per token.
    assert plan.trainable_params == rank * D + 2 * D * hidden + hidden**2 + 2 * hidden + D
    _, lent = lend(build("bert", CLASSES), plan, CLASSES)
    with lent as model:
        assert n_trainable(model.prompt_encoder) == plan.trainable_params


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_cost_rises_with_every_rank_and_is_nothing_at_rank_0(method):
    site = Site(
        name="x", layer=None, role="prompt", kind="model", in_features=8, out_features=24, has_bias=False
    )
    options = method.options(site)
    costs = [method.cost(site, rank, options) for rank in (0, *method.ranks(site, options))]
    assert costs[0] == 0
    assert all(low < high for low, high in itertools.pairwise(costs))
    assert (method.ranks(site, options)[0], method.ranks(site, options)[-1]) == (1, 200)


@pytest.mark.parametrize(("architecture", "task_type", "name"), SOME)
def test_saved_virtual_tokens_load_exactly_here_and_with_plain_peft(architecture, task_type, name, tmp_path):
    base = build(architecture, task_type)
    plan, inputs, plain = planned(base, name), make_inputs(task_type), copy.deepcopy(base.module)
    _, lent = lend(base, plan, task_type)
    with lent as model:
        train(model, inputs)
        trained = logits(model, inputs)
        save_weights(model, ("default",), tmp_path)
    _, lent = lend(base, plan, task_type, seed=5)
    with lent as model:
        assert not torch.equal(logits(model, inputs), trained)
        load_weights(model, ("default",), tmp_path)
        assert torch.equal(logits(model, inputs), trained)
        if name == "p_tuning":  # of which only what the network gives was saved
            assert min(train(model, inputs, steps=1).values()) == 0
    assert torch.equal(logits(PeftModel.from_pretrained(plain, tmp_path), inputs), trained)


def test_prefix_is_what_the_same_keys_and_values_in_a_cache_are():
    base, inputs = build("llama", CAUSAL), make_inputs(CAUSAL)
    _, lent = lend(base, planned(base, "prefix_tuning"), CAUSAL)
    with lent as model, torch.no_grad():
        numbers = model.prompt_encoder["default"].embedding.weight
        seen = logits(model, inputs)
        n_rows = len(inputs["input_ids"])
        # (tokens, layers and keys or values, heads, width) -> (layers …, rows, heads, tokens, width)
        held = numbers.view(3, 4, 2, 4).permute(1, 2, 0, 3).unsqueeze(1).expand(-1, n_rows, -1, -1, -1)
        cache = DynamicCache([(held[0], held[1]), (held[2], held[3])])
        mask = torch.ones(n_rows, 3 + inputs["input_ids"].shape[1])
        expected = base.module(
            input_ids=inputs["input_ids"], attention_mask=mask, past_key_values=cache
        ).logits
    torch.testing.assert_close(seen, expected)


def test_prompt_is_what_the_same_embeddings_before_the_text_are():
    base, inputs = build("bert", CLASSES), make_inputs(CLASSES)
    _, lent = lend(base, planned(base, "prompt_tuning"), CLASSES)
    with lent as model, torch.no_grad():
        prompt = model.prompt_encoder["default"].embedding.weight
        vocabulary = base.module.get_input_embeddings().weight
        assert all((row == vocabulary).all(dim=1).any() for row in prompt)  # it starts from words
        seen = logits(model, inputs)
        words = base.module.get_input_embeddings()(inputs["input_ids"])
        expected = base.module(
            inputs_embeds=torch.cat([prompt.expand(len(words), -1, -1), words], dim=1)
        ).logits
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize(("architecture", "task_type", "name"), [c for c in CASES if c.values[1] == CLASSES])
def test_padding_of_a_row_does_not_move_what_a_classifier_says(architecture, task_type, name):
    base, inputs = build(architecture, task_type), make_inputs(task_type, length=5)
    _, lent = lend(base, planned(base, name), task_type)
    padded = {key: torch.nn.functional.pad(v, (0, 4)) if v.ndim == 2 else v for key, v in inputs.items()}
    with lent as model:
        torch.testing.assert_close(logits(model, padded), logits(model, inputs), rtol=0, atol=1e-5)


def beneath(architecture):
    """Configs of adapters in the model, of a kind that must come first, two of one kind, and another."""
    if architecture == "llama":
        ends = ("k_proj", "v_proj")
        vera = VeraConfig(r=4, target_modules=r"model\.layers\.\d\.self_attn\.q_proj")
        cost = 2 * (4 + D)
        rows, path = D // 2, r"model\.layers\.\d\.self_attn\."
    else:
        ends = ("key", "value")
        vera = VeraConfig(r=4, target_modules=r"bert\.encoder\.layer\.\d\.attention\.self\.query")
        cost = 2 * (4 + D)
        rows, path = D, r"bert\.encoder\.layer\.\d\.attention\.self\."
    configs = (
        vera,
        MissConfig(r=2, target_modules=path + ends[0]),
        MissConfig(r=4, target_modules=path + ends[1]),
    )
    return configs, cost + 2 * (2 + 4) * rows


@pytest.mark.parametrize(("architecture", "task_type", "name"), MIXED)
def test_virtual_tokens_around_a_mix_count_train_save_and_load(architecture, task_type, name, tmp_path):
    base, inputs = build(architecture, task_type), make_inputs(task_type)
    alone, digest, plain = planned(base, name), base.sha256(), copy.deepcopy(base.module)
    inner, cost = beneath(architecture)
    plan = Plan(adapters=alone.adapters, learning_rate=1e-3, trainable_params=alone.trainable_params + cost)
    configs, lent = lend(base, plan, task_type, beneath=inner)
    names = adapter_names(configs)
    with lent as model:
        assert n_trainable(model) - base.head_params == plan.trainable_params
        assert min(train(model, inputs).values()) > 0
        trained = logits(model, inputs)
        save_weights(model, names, tmp_path)
    assert base.sha256() == digest
    _, lent = lend(base, plan, task_type, beneath=beneath(architecture)[0], seed=5)
    with lent as model:
        load_weights(model, names, tmp_path)
        assert torch.equal(logits(model, inputs), trained)
    for folder in names[:-1]:  # the README's way, which merges what can be
        plain = PeftModel.from_pretrained(plain, tmp_path / folder).merge_and_unload()
    plain = PeftModel.from_pretrained(plain, tmp_path / names[-1])
    torch.testing.assert_close(logits(plain, inputs), trained, rtol=0, atol=1e-5)


def test_two_configs_of_one_kind_train_save_load_and_merge_exactly(tmp_path):
    base, inputs = build("bert", CLASSES), make_inputs(CLASSES)

    def configs():
        path = r"bert\.encoder\.layer\.\d\."
        return [
            MissConfig(r=2, target_modules=path + r"attention\.self\.query"),
            MissConfig(r=4, target_modules=path + r"attention\.self\.value"),
            IA3Config(target_modules=path + r"intermediate\.dense", feedforward_modules=[]),
        ]

    names = adapter_names(configs())
    assert names == ("miss_0", "miss_1", "ia3_2")
    plan = Plan(adapters=(), learning_rate=1e-3, trainable_params=2 * (2 + 4) * D + 2 * 24)
    digest = base.sha256()
    with base.attached(configs(), plan=plan, task_type=CLASSES, seed=0) as model:
        assert min(train(model, inputs).values()) > 0
        trained = logits(model, inputs)
        save_weights(model, names, tmp_path)
    with base.attached(configs(), plan=plan, task_type=CLASSES, seed=5) as model:
        load_weights(model, names, tmp_path)
        assert torch.equal(logits(model, inputs), trained)
        merged = logits(model.merge_and_unload(safe_merge=True), inputs)
    torch.testing.assert_close(merged, trained, rtol=0, atol=1e-5)
    assert base.sha256() == digest


def test_two_kinds_of_virtual_tokens_in_one_plan_are_refused():
    base = build("bert", CLASSES)
    plan = planned(base, "prompt_tuning")
    twice = [*PROMPT_TUNING.configs(plan.adapters), *PROMPT_TUNING.configs(plan.adapters)]
    with (
        pytest.raises(SiteError, match=r"There are 2 prompts among 2 configs; a model takes one"),
        base.attached(twice, plan=plan, task_type=CLASSES, seed=0),
    ):
        pytest.fail("two prompts were attached")


def test_virtual_tokens_that_leave_no_place_for_a_text_are_refused():
    base = build("bert", CLASSES)
    assert base.max_tokens(planned(base, "prompt_tuning", rank=10)) == CONTEXT - 10
    plan = planned(base, "prompt_tuning", rank=CONTEXT - 1)
    _, lent = lend(base, plan, CLASSES)
    with pytest.raises(SiteError, match=r"39 virtual tokens leave 1 of the 40 positions of toy bert"), lent:
        pytest.fail("a prompt without place for a text was attached")


def test_only_adapters_of_the_whole_model_take_positions():
    adapters = [
        Adapter(method="lora", site="bert.pooler.dense", rank=8),
        Adapter(method="prompt_tuning", site="inputs", rank=5),
    ]
    assert n_virtual_tokens(adapters) == 5
