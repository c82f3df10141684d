"""Toys that the tests share: tiny random models, a word tokenizer, rows whose words decide the label.

All of it is built offline and seeded. `model_dir` and `data_dir` are the same toys on disk.
"""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.records import Adapter, Fidelity, Plan
from autopeft.train import Bench, EncodedSplit, compile_plan

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TELLING = {0: ("awful", "bad", "dull", "poor"), 1: ("fine", "good", "great", "lovely")}
WORDS = "a an and at day film for food in is it of on one plot staff that the this time was with"
FILLER = tuple(WORDS.split())
VOCABULARY = (*SPECIAL, *TELLING[0], *TELLING[1], *FILLER)
LABEL_NAMES = ("neg", "pos")
CONTEXT = 32  # tokens
ARCHITECTURES = ("bert", "gpt2", "llama")
# What methods are held against; `-lm` are language models, which take prompts and have no task head.
EVERY_ARCHITECTURE = (*ARCHITECTURES, "t5", "vit", "llama-lm", "t5-lm", "moe-lm")
AUTO_CLASSES = {
    "vit": "AutoModelForImageClassification",
    "gpt2-lm": "AutoModelForCausalLM",
    "llama-lm": "AutoModelForCausalLM",
    "t5-lm": "AutoModelForSeq2SeqLM",
    "moe-lm": "AutoModelForCausalLM",
}
PEFT_TASKS = {
    "vit": None,
    "gpt2-lm": "CAUSAL_LM",
    "llama-lm": "CAUSAL_LM",
    "t5-lm": "SEQ_2_SEQ_LM",
    "moe-lm": "CAUSAL_LM",
}

torch.set_num_threads(1)  # toys gain nothing from a second thread, and wait long for it on a busy machine


def toy_config(architecture, *, hidden=16, dropout=0.0):
    """Two layers; weights ten times wider than usual, so that a random model mixes its tokens."""
    size = {"vocab_size": len(VOCABULARY), "initializer_range": 0.2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if architecture == "bert":
        return transformers.BertConfig(
            **size,
            pad_token_id=0,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    if architecture == "vit":
        return transformers.ViTConfig(
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    if architecture == "t5":  # gated: two maps up; the encoder's and the decoder's layers are numbered alike
        return transformers.T5Config(
            vocab_size=len(VOCABULARY),
            pad_token_id=0,
            eos_token_id=3,
            decoder_start_token_id=0,
            d_model=hidden,
            d_ff=2 * hidden,
            d_kv=hidden // 2,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=dropout,
        )
    if architecture == "gpt2":  # its linear maps are Conv1D: weights of shape (in, out)
        drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
        shape = {"n_embd": hidden, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
        return transformers.GPT2Config(**size, **ids, **shape, **drop)
    if architecture == "moe":  # its experts are kept in two parameters per layer
        return transformers.MixtralConfig(
            **size,
            **ids,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=3,
            num_experts_per_tok=2,
            max_position_embeddings=CONTEXT,
        )
    return transformers.LlamaConfig(  # grouped queries: k and v give half of what q gives
        **size,
        **ids,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
    )


def toy_rows(n, seed, *, n_filler=(3, 9)):
    """Texts of some filler words and three telling ones, all different; labels alternate."""
    rng = np.random.default_rng(seed)
    texts = {}
    while len(texts) < n:
        label = len(texts) % 2
        words = [*rng.choice(FILLER, size=rng.integers(*n_filler)), *rng.choice(TELLING[label], size=3)]
        texts[" ".join(rng.permutation(words))] = label
    return list(texts), list(texts.values())


@pytest.fixture(scope="session")
def tokenizer():
    """One token per word of VOCABULARY, [CLS] before and [SEP] after."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def toy_base(architecture, *, tokenizer=None, seed=0, **settings):
    """A fresh base model, with a head of two labels where it is no language model; the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = toy_config(architecture.removesuffix("-lm"), **settings)
        auto_class = AUTO_CLASSES.get(architecture, "AutoModelForSequenceClassification")
        module = getattr(transformers, auto_class).from_config(config)
    heads = ("classifier.", "score.", "classification_head.")
    untrained = frozenset(name for name in module.state_dict() if name.startswith(heads))
    return BaseModel(module, tokenizer, name=f"toy {architecture}", untrained=untrained)


@pytest.fixture(scope="session")
def make_base(tokenizer):
    """A function: architecture -> fresh base model with the toy tokenizer."""

    def make(architecture="bert", **settings):
        return toy_base(architecture, tokenizer=tokenizer, **settings)

    return make


@pytest.fixture
def bert(make_base):
    """A fresh toy BERT."""
    return make_base("bert")


@pytest.fixture(params=ARCHITECTURES)
def base(request, make_base):
    """A fresh toy of each architecture."""
    return make_base(request.param)


@pytest.fixture(scope="session")
def methods():
    """Every discovered PEFT method by name."""
    return discover("autopeft.methods")


@pytest.fixture(scope="session")
def task():
    """Text classification."""
    return discover("autopeft.tasks")["text-classification"]


@pytest.fixture(scope="session")
def make_plan(methods):
    """A function: base model and adapters, or a method's name for every site it fits -> plan."""

    def make(base, chosen=(), *, rank=2, learning_rate=1e-2, **choices):
        sites = {site.name: site for site in base.sites}
        if isinstance(chosen, str):
            chosen = adapters_of(methods[chosen], base.sites, rank=rank, **choices)
        cost = sum(methods[a.method].cost(sites[a.site], a.rank, dict(a.options)) for a in chosen)
        return Plan(adapters=tuple(chosen), learning_rate=learning_rate, trainable_params=cost)

    return make


def adapters_of(method, sites, *, rank, **choices):
    """One adapter at every site that the method fits."""
    return [
        Adapter(
            method=method.name,
            site=site.name,
            rank=_rank(method, site, rank, method.options(site, **choices)),
            scale=method.scale(rank),
            options=tuple(method.options(site, **choices).items()),
        )
        for site in sites
        if method.refusal(site) is None
    ]


def _rank(method, site, wanted, options):
    """The largest rank up to the wanted one that a method takes there, else its smallest."""
    ranks = method.ranks(site, options)
    return max((rank for rank in ranks if rank <= wanted), default=ranks[0]) if method.ranked else 0


@pytest.fixture(scope="session")
def attach(methods, task):
    """A function: base model and plan -> the context manager that lends the model with the plan on it."""

    def attach(base, plan, *, seed=0):
        configs = compile_plan(plan, methods)
        task_type = PEFT_TASKS.get(base.name.removeprefix("toy "), task.peft_task_type)
        return base.attached(configs, plan=plan, task_type=task_type, seed=seed)

    return attach


@pytest.fixture(scope="session")
def make_batch(tokenizer, task):
    """A function: number of rows and range of filler words -> one padded batch with labels."""

    def make(n=6, *, seed=0, n_filler=(1, 9)):
        texts, labels = toy_rows(n, seed, n_filler=n_filler)
        examples = task.encode([[text] for text in texts], labels, tokenizer, CONTEXT).examples
        return task.collate(examples, labels, tokenizer.pad_token_id)

    return make


@pytest.fixture(scope="session")
def batch_for(make_batch):
    """A function: base model -> a batch of its kind with labels: texts, images, or tokens to predict."""

    def make(base):
        architecture = base.name.removeprefix("toy ")
        if architecture == "vit":
            pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            return {"pixel_values": pixels, "labels": torch.tensor([0, 1] * 3)}
        batch = {name: value for name, value in make_batch().items() if name != "token_type_ids"}
        if architecture.endswith("-lm"):
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    return make


@pytest.fixture(scope="session")
def make_bench(make_base, methods, task):
    """A function -> a bench of 48 train rows and 24 in each other split; settings replace its fields."""

    def make(**settings):
        base = settings.pop("base", None) or make_base("bert", dropout=0.1)
        splits = {}
        for seed, (split, n) in enumerate({"train": 48, "search": 24, "confirm": 24, "test": 24}.items()):
            texts, labels = toy_rows(n, seed)
            made = task.encode([[text] for text in texts], labels, base.tokenizer, CONTEXT)
            splits[split] = EncodedSplit(examples=made.examples, labels=made.labels)
        fields = {"task": task, "methods": methods, "splits": splits, "batch_size": 8, **settings}
        return Bench(base=base, base_sha256=base.sha256(), **fields)

    return make


@pytest.fixture(scope="session")
def fidelity():
    """A function: what differs from six steps and 24 rows of the search split -> fidelity."""

    def make(**settings):
        usual = {"split": "search", "train_steps": 6, "train_examples": 48, "eval_examples": 24, "seed": 0}
        return Fidelity(**{**usual, **settings})

    return make


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, tokenizer):
    """A local model directory: a tiny BERT without a task head, and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModel.from_config(toy_config("bert", hidden=32, dropout=0.1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A local dataset: train.csv, validation.csv and test.csv of 120, 40 and 40 rows; words decide labels."""
    folder = tmp_path_factory.mktemp("datasets") / "tiny-reviews"
    folder.mkdir()
    texts, labels = toy_rows(200, seed=7)
    ends = {"train": slice(0, 120), "validation": slice(120, 160), "test": slice(160, 200)}
    for split, rows in ends.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(
                (text, LABEL_NAMES[label]) for text, label in zip(texts[rows], labels[rows], strict=True)
            )
    return folder


def state_of(module):
    """What a trial must leave as it was, apart from the weights: objects, flags, gradients, hooks."""
    return SimpleNamespace(
        modules=[(name, id(child), child.training) for name, child in module.named_modules()],
        parameters=[(name, id(p), p.requires_grad, p.grad) for name, p in module.named_parameters()],
        hooks=[(len(child._forward_hooks), len(child._forward_pre_hooks)) for child in module.modules()],
        attributes=sorted(vars(module)),
    )
