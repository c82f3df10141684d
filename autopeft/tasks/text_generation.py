"""Text generation by a causal language model: all of a text, or what follows a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from autopeft.extension import Batch, Encoded, Target
from autopeft.tasks.parts.answers import generate_greedily
from autopeft.tasks.parts.batches import IGNORED, pad, without_labels
from autopeft.tasks.parts.language_rows import encode_blocks, encode_completions
from autopeft.tasks.parts.writing import WITH_PROMPT, WritingTask


def _encode(
    kind: str, texts: Sequence[str], completions: Sequence[str], tokenizer: Any, max_length: int
) -> Encoded:
    """Blocks of `max_length` tokens, or a prompt with its completion per example."""
    if kind in WITH_PROMPT:
        return encode_completions(texts, completions, tokenizer, max_length, is_chat=kind == "chat")
    return encode_blocks(texts, tokenizer, max_length, are_documents=kind == "documents")


def _predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (B, T - 1, V) of each next token and its label (B, T - 1)."""
    labels = batch["labels"]
    logits: Tensor = model(**without_labels(batch)).logits
    # Counted from the end: a prompt-tuned model has logits of virtual tokens before those of the text.
    return logits[:, -labels.shape[1] : -1].float(), labels[:, 1:]


def _generate(model: nn.Module, batch: Batch, tokenizer: Any, max_new_tokens: int) -> list[str]:
    """Greedy continuations of the prompts of a batch, whose labels are -100 at the prompt."""
    prompts = [
        ids[: int((labels != IGNORED).int().argmax())].tolist()
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    pad_id = int(tokenizer.pad_token_id or 0)
    # Reversed twice: prompts are padded on the left, since they are continued on the right.
    ids = pad([prompt[::-1] for prompt in prompts], pad_id).flip(1)
    mask = pad([[1] * len(prompt) for prompt in prompts], 0).flip(1)
    device, longest = batch["input_ids"].device, ids.shape[1]
    n_positions = getattr(cast(Any, model).config.get_text_config(), "max_position_embeddings", None)
    n_free = n_positions - longest if isinstance(n_positions, int) else max_new_tokens
    return generate_greedily(
        model,
        tokenizer,
        {"input_ids": ids.to(device), "attention_mask": mask.to(device)},
        n_skipped=longest,
        max_new_tokens=max(1, min(max_new_tokens, n_free)),
        pad_token_id=pad_id,
        eos_token_id=_end_ids(model, tokenizer),
    )


def _end_ids(model: nn.Module, tokenizer: Any) -> list[int] | None:
    """Tokens that end a text: the tokenizer's, and those of the model's own generation config."""
    known = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(known if isinstance(known, list | tuple) else [known])} - {None}
    return sorted(ends) or None


PART = WritingTask(
    name="text-generation",
    auto_class="AutoModelForCausalLM",
    peft_task_type="CAUSAL_LM",
    kinds=(*WITH_PROMPT, "documents", "stream"),
    target=Target(kind="documents"),
    encode_texts=_encode,
    predict=_predict,
    generate=_generate,
)
