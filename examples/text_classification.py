"""Search on a CSV file, look at the leaderboard, and classify texts with the finished adapter.

python examples/text_classification.py
python examples/text_classification.py --model bert-base-uncased --data reviews.csv --budget 300k
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer

import autopeft


def main() -> None:
    """Search, print the verdict, and classify two texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="hub id or directory; the small demo model without it")
    parser.add_argument(
        "--data", help="CSV file with a column of texts and one of labels; the sample without it"
    )
    parser.add_argument("--budget", default="0.5%")
    parser.add_argument("--max-steps", type=int, default=24, help="steps of a full run")
    parser.add_argument("--out", default="reports/example")
    parser.add_argument("texts", nargs="*", default=["A wonderful film.", "The battery died within a day."])
    asked = parser.parse_args()

    result = autopeft.search(
        asked.model, asked.data, budget=asked.budget, max_steps=asked.max_steps, out=asked.out
    )
    print(result.verdict.sentence)
    print(result.leaderboard()[["answers", "plan", "trainable_params", "metric", "test_metric"]].to_string())

    model = result.load()
    tokenizer = AutoTokenizer.from_pretrained(result.path / "best" / "weights")
    with torch.no_grad():
        logits = model(**tokenizer(asked.texts, return_tensors="pt", padding=True)).logits
    for text, label in zip(asked.texts, logits.argmax(dim=-1).tolist(), strict=True):
        print(f"{result.setting.label_names[label]}: {text}")


if __name__ == "__main__":
    main()
