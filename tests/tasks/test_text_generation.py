"""Language models: what is learned, what is not, losses and answers against computations by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toys.bases import toy_base
from toys.tasks import CHAT_TEMPLATE
from toys.words import CONTEXT

from autopeft import model
from autopeft.errors import DataError, ModelError, SpecError
from autopeft.metrics import ratio_scores
from autopeft.plugins import LabelSpace, discover
from autopeft.tasks._shared.token_losses import losses_and_hits
from autopeft.tasks._shared.token_metrics import TokenCounts
from autopeft.types import ModelSpec, TaskSpec

PLUGIN = discover("autopeft.tasks")["text-generation"]
COMPLETION = LabelSpace(kind="completion")


@pytest.fixture
def llama():
    """A fresh toy Llama with its language-model head."""
    return toy_base("llama-lm").module


def tokens(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def learned(tokenizer, ids):
    return " ".join("_" if i == -100 else tokenizer.convert_ids_to_tokens(int(i)) for i in ids)


def completions(tokenizer, prompts, answers, max_length=CONTEXT, *, label_space=COMPLETION, **spec):
    task = PLUGIN.fitted(TaskSpec(**spec), label_space, tokenizer)
    return task, task.encode([(p,) for p in prompts], answers, tokenizer, max_length)


def batch_of(task, made):
    return task.collate(made.examples, made.labels, 0)


def test_only_the_completion_is_learned_and_it_ends_the_text(words):
    _, made = completions(words, ["the food was"], ["good and fine"])
    assert tokens(words, made.examples[0]["input_ids"]) == "the food was good and fine [SEP]"
    assert learned(words, made.labels[0]) == "_ _ _ good and fine [SEP]"


def test_tokens_that_a_tokenizer_puts_after_every_text_do_not_stand_before_the_completion(tokenizer):
    _, made = completions(tokenizer, ["the food was"], ["good"])
    assert tokens(tokenizer, made.examples[0]["input_ids"]) == "[CLS] the food was good"
    assert learned(tokenizer, made.labels[0]) == "_ _ _ _ good"


def test_chat_template_frames_prompts_and_chats_alike(words):
    words.chat_template = CHAT_TEMPLATE
    _, plain = completions(words, ["the food"], ["good"])
    turns = json.dumps([{"role": "user", "content": "the food"}])
    _, chat = completions(words, [turns], ["good"], label_space=LabelSpace(kind="chat"))
    assert tokens(words, plain.examples[0]["input_ids"]) == "day the food [SEP] time good [SEP]"
    assert learned(words, plain.labels[0]) == "_ _ _ _ _ good [SEP]"
    np.testing.assert_equal(chat.examples, plain.examples)
    np.testing.assert_equal(chat.labels, plain.labels)


def test_chats_without_a_template_or_with_one_that_hides_the_seam_are_refused(words):
    with pytest.raises(DataError, match="template"):
        completions(words, ["[]"], ["good"], label_space=LabelSpace(kind="chat"))
    words.chat_template = CHAT_TEMPLATE.replace("'time '", "'it '")
    with pytest.raises(DataError, match="prompt"):
        completions(words, ["the food"], ["good"])


def test_tools_are_part_of_the_prompt(words):
    chat = [{"role": "user", "content": "the food"}]
    turns = json.dumps({"tools": [{"name": "good"}], "messages": chat})
    words.chat_template = "{% for tool in tools or [] %}{{ tool.name }} {% endfor %}" + CHAT_TEMPLATE
    _, made = completions(words, [turns], ["fine"], label_space=LabelSpace(kind="chat"))
    assert tokens(words, made.examples[0]["input_ids"]) == "good day the food [SEP] time fine [SEP]"


@pytest.mark.parametrize(
    ("prompt", "answer", "between"),
    [("a", "b", "\n"), ("a ", "b", ""), ("a\n", "b", ""), ("a", " b", ""), ("a", "\nb", "")],
)
def test_a_line_break_is_put_only_where_no_white_space_is(prompt, answer, between):
    """A tokenizer of characters, whose ids are their code points, shows the text that is learned."""

    class Characters:
        chat_template, eos_token, eos_token_id, sep_token_id = None, "\0", 0, None

        def __call__(self, texts, **others):
            return {"input_ids": [list(map(ord, text)) for text in texts]}

    _, made = completions(Characters(), [prompt], [answer])
    assert "".join(map(chr, made.examples[0]["input_ids"])) == f"{prompt}{between}{answer}\0"


def test_documents_are_packed_into_blocks_and_nothing_is_lost(words):
    texts = ["good " * n for n in (5, 9, 2, 14)]
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind="documents"), words)
    made = task.encode([(text,) for text in texts], [""] * 4, words, 8)
    whole = [i for example in made.examples for i in example["input_ids"]]
    assert tokens(words, whole) == " ".join(f"{text}[SEP]" for text in texts)
    assert [len(example["input_ids"]) for example in made.examples] == [8, 8, 8, 8, 2]
    np.testing.assert_equal(made.labels, tuple(example["input_ids"] for example in made.examples))


def test_too_little_text_for_two_blocks_is_refused(words):
    task = PLUGIN.fitted(TaskSpec(), LabelSpace(kind="documents"), words)
    with pytest.raises(DataError, match="1 block"):
        task.encode([("good food ",)] * 3, [""] * 3, words, 9)


def test_long_prompts_lose_their_beginning_and_long_completions_their_end(words):
    prompts = ["a an and at day film for", "a", "of"]
    _, made = completions(words, prompts, ["good fine", "bad dull poor awful bad dull poor awful", "it"], 6)
    assert [tokens(words, example["input_ids"]) for example in made.examples] == [
        "day film for good fine [SEP]",
        "a bad dull poor awful bad",
        "of it [SEP]",
    ]
    assert (made.dropped, set(made.labels[1].tolist())) == ((1,), {-100})
    _, made = completions(words, ["of"], ["good " * 9], 6)
    assert made.refusal


def test_spread_of_the_scores_gives_the_spread_of_a_mean_over_tokens(words):
    """Documents of very different length: the mean over tokens is a ratio, not a mean of means."""
    rng, means, errors = np.random.default_rng(0), [], []
    for _ in range(300):
        n_tokens = rng.integers(1, 60, 80)
        sums = n_tokens * rng.normal(2, 0.5, 80)
        scores = ratio_scores(sums, n_tokens)
        assert np.mean(scores) == pytest.approx(sums.sum() / n_tokens.sum())
        means.append(np.mean(scores))
        errors.append(np.std(scores, ddof=1) / np.sqrt(80))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


class Echo(nn.Module):
    """Continues every prompt with the same words."""

    def __init__(self, ids):
        super().__init__()
        self.ids, self.config = ids, SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def forward(self, input_ids, **others):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 40))

    def generate(self, input_ids, **others):
        return torch.cat([input_ids, torch.tensor([self.ids] * len(input_ids))], dim=1)


@pytest.mark.parametrize(
    ("pattern", "right"),
    [(None, [0.0, 0.0, 1.0]), ("good|bad", [1.0, 0.0, 1.0]), ("(film|plot) is", [1.0, 1.0, 1.0])],
)
def test_answers_are_compared_by_the_pattern(words, pattern, right):
    generated = "the film is good"
    answers = ["and film is good", "the film is bad", generated]
    task, made = completions(words, ["of"] * 3, answers, metric="exact-match", answer_pattern=pattern)
    seen = task.evaluate(Echo(words(generated)["input_ids"]), iter([batch_of(task, made)]))
    assert list(seen.example_scores) == right
    assert (seen.metric, task.metric.score_span, task.metric.greater_is_better) == (
        pytest.approx(np.mean(right)),
        1.0,
        True,
    )


def test_generation_continues_each_prompt_as_it_would_alone(words, llama):
    _, made = completions(words, ["the food was", "a"], ["good", "fine"])
    batch = PLUGIN.collate(made.examples, made.labels, 0)
    alone = []
    for ids in (words("the food was")["input_ids"], words("a")["input_ids"]):
        for _ in range(5):
            with torch.no_grad():
                ids = [*ids, int(llama(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] == words.eos_token_id:
                break
        alone.append(ids)
    n_prompts = (3, 1)
    expected = [
        words.decode(ids[n:], skip_special_tokens=True) for ids, n in zip(alone, n_prompts, strict=True)
    ]
    assert PLUGIN.model_type.generate(llama.eval(), batch, words, 5) == expected


def test_patterns_and_metrics_that_cannot_be_used_are_refused(words):
    with pytest.raises(SpecError, match="regular expression"):
        PLUGIN.fitted(TaskSpec(answer_pattern="("), COMPLETION)
    with pytest.raises(DataError, match="1 of 2"):
        completions(words, ["a", "a"], ["good", "fine"], metric="exact-match", answer_pattern="good")
    with pytest.raises(DataError, match="exact-match"):
        PLUGIN.fitted(TaskSpec(metric="exact-match"), LabelSpace(kind="documents"))


def test_encoder_that_sees_what_it_is_to_predict_is_refused(model_dir):
    with pytest.raises(ModelError, match="causal language model"):
        model.load(ModelSpec(id=str(model_dir)), auto_class="AutoModelForCausalLM", label_names=())


def test_decoder_without_padding_token_is_padded_with_its_end(tmp_path, words):
    module = toy_base("gpt2-lm").module
    module.config.pad_token_id = None
    module.save_pretrained(tmp_path)
    words.pad_token = None
    words.save_pretrained(tmp_path)
    base = model.load(ModelSpec(id=str(tmp_path)), auto_class="AutoModelForCausalLM", label_names=())
    assert base.pad_token_id == words.eos_token_id == base.module.config.pad_token_id
    assert (base.head_names, base.head_params) == ((), 0)


def test_loss_over_many_words_is_that_of_double_precision():
    """At the vocabulary of a real tokenizer, torch's sum over a strided axis is off by 5e-5."""
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 20, 49_152, generator=draw)
    labels = torch.randint(49_152, (2, 20), generator=draw)
    tally = TokenCounts()
    losses, hits = losses_and_hits(logits.flatten(0, 1), labels.flatten()).unbind(1)
    tally.add(losses, hits, torch.ones(2, 20, dtype=torch.bool))
    chances = logits.double().log_softmax(-1)
    expected = -chances.gather(-1, labels[..., None]).mean()
    assert tally.mean_loss == pytest.approx(float(expected), abs=5e-6)
