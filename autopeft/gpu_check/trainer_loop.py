"""The loop that others train with: TRL's trainer where it is installed, else the Trainer of transformers."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import datasets
import torch
import transformers
from peft import get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler

from autopeft.adapters import compile_plan
from autopeft.train import Bench, train_rows
from autopeft.train.rates import rate_share
from autopeft.types import Plan


def trainer_losses(bench: Bench, plan: Plan, *, n_steps: int) -> tuple[str, Sequence[float], float]:
    """Train a plan by another trainer; return its name, its losses and the seconds of a step.

    First weights, rows, their order, the rate of each step and the clipping are those of a bench with seed 0.
    Adapters of the plan are removed again; the base model may be changed.
    """
    if importlib.util.find_spec("trl") is None:
        name, trainer_class, settings_class = (
            "transformers",
            transformers.Trainer,
            transformers.TrainingArguments,
        )
    else:
        import trl

        name, trainer_class, settings_class = "TRL", trl.SFTTrainer, trl.SFTConfig

    class InOrder(trainer_class):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    losses: list[float] = []
    clock: list[float] = []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])
                clock.append(time.perf_counter())

    adapted, device, dtype = _with_first_weights(bench, plan), bench.base.device, bench.base.precision.dtype
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, weight_decay=0.0, fused=True)
    schedule = LambdaLR(optimizer, lambda step: rate_share(min(step, n_steps - 1), n_steps))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"[PAD]": 0, "[EOS]": 1}, unk_token="[EOS]")),
        pad_token="[PAD]",
        eos_token="[EOS]",
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_class(
            output_dir=folder,
            max_steps=n_steps,
            per_device_train_batch_size=bench.batch_size,
            bf16=dtype == "bfloat16",
            fp16=dtype == "float16",
            gradient_checkpointing=False,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type != "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **({"max_length": None} if name == "TRL" else {}),
        )
        trainer = InOrder(
            model=adapted,
            args=settings,
            train_dataset=datasets.Dataset.from_list(_rows(bench, n_steps)),
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
            callbacks=[Watch()],
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    adapted.unload()
    return name, losses, (clock[-1] - clock[0]) / (n_steps - 1)


def _with_first_weights(bench: Bench, plan: Plan) -> Any:
    """Attach the plan by `peft` alone, with the first weights that autopeft gives it."""
    (config,) = compile_plan(plan, bench.methods).configs
    with bench.base.attached((config,), plan=plan, task_type=bench.task.peft_task_type, seed=0) as attached:
        first = [p.detach().clone() for name, p in sorted(attached.named_parameters()) if p.requires_grad]
    adapted = get_peft_model(bench.base.module, config)
    trained = [p for name, p in sorted(adapted.named_parameters()) if p.requires_grad]
    for parameter, value in zip(trained, first, strict=True):
        parameter.data.copy_(value)
    return adapted


def _rows(bench: Bench, n_steps: int) -> list[dict[str, list[int]]]:
    """List the rows of all steps in their order."""
    split = bench.splits["train"]
    steps = train_rows(split.lengths, n_steps=n_steps, batch_size=bench.batch_size, seed=0)
    return [
        {"input_ids": list(split.examples[i]["input_ids"]), "labels": list(split.labels[i])}
        for step in steps
        for i in step
    ]
