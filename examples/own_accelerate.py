"""Train a trial in two processes; the command is in docs/your-own-trainer.md."""

import sys
from importlib.resources import files
from itertools import cycle, islice

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup, set_seed

from autopeft import Score, Trial

trial, result, name = Trial.load(sys.argv[1]), *sys.argv[2:4]
accelerator, tokenizer = Accelerator(cpu=not torch.cuda.is_available()), AutoTokenizer.from_pretrained(name)
lines = (files("autopeft") / "sample_data/uci_sentiment/train.csv").read_text("utf-8").splitlines()[1:]
splits = {"train": lines[200:], "search": lines[:100], "confirm": lines[100:200]}


def loss_of(model, texts):
    """Compute the loss, in which padding does not count."""
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return model(**batch.to(accelerator.device), labels=labels.to(accelerator.device)).loss


set_seed(trial.seed)
model = trial.attach(AutoModelForCausalLM.from_pretrained(name))
optimizer = torch.optim.AdamW((w for w in model.parameters() if w.requires_grad), trial.learning_rate)
schedule = get_linear_schedule_with_warmup(optimizer, trial.warmup_steps, trial.steps)
loader = torch.utils.data.DataLoader(splits["train"], 4, shuffle=True)  # type: ignore[arg-type]  # a list
parallel, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for texts in islice(cycle(loader), trial.steps):
    accelerator.backward(loss_of(parallel, texts))  # the mean over all processes
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
if accelerator.is_main_process:
    model.eval().save_pretrained(trial.folder)
    losses = [loss_of(model, [text]).item() for text in splits[trial.split]]
    trial.write_score(result, Score(value=sum(losses) / len(losses), per_example=losses))
