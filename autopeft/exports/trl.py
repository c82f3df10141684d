"""TRL: a Python file with the config and a function that makes an SFTTrainer."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from peft import PeftConfig

from autopeft.adapters import changed_fields, task_name
from autopeft.exports.parts.adapter import configs_of
from autopeft.exports.parts.problems import refuse
from autopeft.exports.parts.recipe import (
    length,
    one_config_problems,
    plain,
    rate_note,
    schedule,
    text_comment,
)
from autopeft.extension import ExportSource, NeededBase
from autopeft.records import QUANTISED
from autopeft.store import fresh_folder, write_text

# https://huggingface.co/docs/trl/sft_trainer: SFTConfig takes those of transformers' TrainingArguments,
# where warmup_steps below 1 is a share of all steps (transformers 5).
_LENGTH_KEYS = {
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "max_length": "max_length",
    "seed": "seed",
}
DOCUMENTED_KEYS = (
    *_LENGTH_KEYS.values(),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"),
)

_FILE = '''\
"""What to train and how fast, as found by autopeft, for TRL's SFTTrainer."""

{text_comment}from peft import {kind}
{imports}from trl import SFTConfig, SFTTrainer

BASE_MODEL = {base_model!r}
PEFT_CONFIG = {kind}(
{fields}
)
SETTINGS = {settings}
LOADING = {loading}


def make_trainer(train_dataset, *, model=BASE_MODEL, **settings):
    """An SFTTrainer that trains the plan; settings are those of SFTConfig, such as output_dir.

    Of rows with a prompt and a completion it learns the completion. Of chats it learns all messages, unless
    assistant_only_loss=True is passed, for which the chat template has to mark the assistant's text.
    """
    loading = {{"model_init_kwargs": LOADING}} if isinstance(model, str) and LOADING else {{}}
    return SFTTrainer(
        model=model,
        args=SFTConfig(**{{**loading, **SETTINGS, **settings}}),
        train_dataset=train_dataset,
        peft_config=PEFT_CONFIG,
    )
'''
# Follows the file above where rows had a prompt; as `tasks.text_generation` writes them.
_TO_ROWS = '''

def to_rows(dataset, *, prompt=("prompt",), completion="completion"):
    """The dataset as the search wrote its rows, for make_trainer; the columns named hold strings.

    Several columns of a prompt are joined by blank lines. Where the tokenizer has a chat template, a prompt
    is the user's message and a completion the answer. Elsewhere a line break stands between the two.
    """
    revision = LOADING.get("revision", "main")
    is_chat = AutoTokenizer.from_pretrained(BASE_MODEL, revision=revision).chat_template is not None

    def to_row(cells):
        text, answer = "\\n\\n".join(cells[name] for name in prompt if cells[name]), cells[completion]
        if is_chat:
            message = {"role": "user", "content": text}
            return {"prompt": [message], "completion": [{"role": "assistant", "content": answer}]}
        is_apart = text[-1:].isspace() or answer[:1].isspace()
        return {"prompt": text if is_apart else text + "\\n", "completion": answer}

    return dataset.map(to_row, remove_columns=dataset.column_names)
'''
# https://huggingface.co/docs/trl/dataset_formats: strings are a standard format, lists of messages a
# conversational one.
_ADVICE = (
    "SFTTrainer applies a chat template to lists of messages alone, and joins a prompt and a completion that "
    "are strings without anything between them; to_rows below writes rows of strings as the search did."
)


@dataclass(frozen=True)
class Trl:
    """Any single `peft` config as code; a mix of methods has no place in SFTTrainer's `peft_config`."""

    name: str = "trl"
    summary: str = "Python for TRL's SFTTrainer: any one peft config of a language model"
    needs_base: NeededBase = "none"
    bounds: tuple[str, ...] = ()

    def problems(self, source: ExportSource) -> tuple[str, ...]:
        """No adapter, a mix, another task than language modelling, a config that code cannot hold."""
        return one_config_problems(source)

    def export(self, source: ExportSource, out: Path) -> tuple[str, ...]:
        """Write train.py; its `make_trainer` takes the data and further settings."""
        refuse(self.name, self.problems(source), instead="Use --to native")
        (config,) = configs_of(source)
        settings = schedule(source, scheduler_key="lr_scheduler_type", warmup_key="warmup_steps")
        settings |= length(source, _LENGTH_KEYS)
        bits = QUANTISED.get(source.training.quantize)
        has_rows = bool(source.training.text_form)
        used = ["AutoTokenizer"] * has_rows + ["BitsAndBytesConfig"] * bool(bits)
        comment = text_comment(source, advice=_ADVICE)
        text = _FILE.format(
            text_comment=f"{comment}\n" if comment else "",
            kind=type(config).__name__,
            base_model=source.base_model,
            fields=_fields(config),
            settings=pprint.pformat(settings, width=100),
            imports=f"from transformers import {', '.join(used)}\n" if used else "",
            loading=_loading(source, bits),
        )
        with fresh_folder(out) as fresh:
            write_text(fresh / "train.py", text + _TO_ROWS * has_rows)
        notes = ["call make_trainer(train_dataset, output_dir=...).train() of train.py"]
        if has_rows:
            notes.append("to_rows of train.py writes prompts and completions that are strings for it")
        if own := source.checkpoint.own_class:
            notes.append(
                "pass it model=AutoModelForCausalLM.from_pretrained(BASE_MODEL): TRL would load "
                f"{own}, of which the modules have other names"
            )
        return (*notes, *rate_note(source))


def _loading(source: ExportSource, bits: Mapping[str, bool | str] | None) -> str:
    """The arguments of `from_pretrained` as code: commit, and number of bits."""
    entries = [] if source.checkpoint.revision is None else [f'"revision": {source.checkpoint.revision!r}']
    if bits:
        arguments = ", ".join(f"{name}={value!r}" for name, value in bits.items())
        entries.append(f'"quantization_config": BitsAndBytesConfig({arguments})')
    return f"{{{', '.join(entries)}}}"


def _fields(config: PeftConfig) -> str:
    """What differs from the defaults, one argument a line."""
    lines = []
    for name, value in {"task_type": task_name(config), **changed_fields(config)}.items():
        written = plain(value.value if isinstance(value, Enum) else value)
        lines.append(f"    {name}={pprint.pformat(written, width=100, sort_dicts=False)},")
    return "\n".join(lines)


PART = Trl()
