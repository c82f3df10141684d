"""Adapt a language model to chats, and let it answer.

    python tools/models/prepare_models.py smollm2      # in a clone; prints where the model is
    python examples/chat.py --model PATH --data chats.jsonl

Each line of the file is a chat: `{"messages": [{"role": "user", "content": "…"}, …]}`.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer

import autopeft


def main() -> None:
    """Search, print the verdict, and write an answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id, directory or GGUF file")
    parser.add_argument("--data", required=True, help="JSONL file of chats")
    parser.add_argument("--budget", default="0.1%")
    parser.add_argument("--quantize", default="none", choices=["none", "4bit", "8bit"])
    parser.add_argument("--max-steps", type=int, help="steps of a full run; derived from the data without it")
    parser.add_argument("--out", default="reports/chat")
    parser.add_argument("--prompt", default="What is a budget?")
    asked = parser.parse_args()

    result = autopeft.search(
        asked.model,
        asked.data,
        task="text-generation",
        budget=asked.budget,
        quantize=asked.quantize,
        max_steps=asked.max_steps,
        out=asked.out,
    )
    print(result.verdict.sentence)

    model = result.load()
    tokenizer = AutoTokenizer.from_pretrained(result.path / "best" / "weights")
    messages = [{"role": "user", "content": asked.prompt}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    with torch.no_grad():
        written = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    print(tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
