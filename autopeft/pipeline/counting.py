"""`count`: what a plan or an adapter config would train, told from the model's config alone."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from peft import PeftConfig, PeftModel

from autopeft import model, train
from autopeft.errors import SiteError, SpecError, UnknownNameError
from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.pipeline.prepare import check_plan, quiet_libraries
from autopeft.records import ModelSpec, PlanDocument
from autopeft.store import read_plan

_BYTES_PER_PARAM = 4  # peft keeps adapters in fp32
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True, kw_only=True)
class Count:
    """Trainable parameters of a plan, the task head apart; `by_role` and `by_layer` each add up to it."""

    base_model: str
    trainable_params: int
    head_params: int
    base_params: int
    adapter_bytes: int
    by_role: dict[str, int]
    by_layer: dict[str, int]

    @property
    def percent(self) -> float:
        """Of the base model's parameters."""
        return 100 * self.trainable_params / self.base_params


def count(path: Path, *, model_id: str | None = None, revision: str | None = None) -> Count:
    """Count what a plan, a run's best plan, or any `adapter_config.json` would train.

    Args:
        path: plan.yaml, a run directory, an adapter_config.json, or a folder of these.
        model_id: Hub id or directory that holds `config.json`; None takes the plan's own.
        revision: Of the hub's model.

    Raises:
        SpecError: Nothing readable there, or no model to count on.
        SiteError: The config does not fit the model.
    """
    with quiet_libraries():
        if _is_adapter(path):
            return _count_configs(path, model_id=model_id, revision=revision)
        return _count_plan(read_plan(path), model_id=model_id, revision=revision)


def _count_plan(document: PlanDocument, *, model_id: str | None, revision: str | None) -> Count:
    spec = document.model if model_id is None else ModelSpec(id=model_id, revision=revision)
    task = discover("autopeft.tasks")[document.task.name]
    base = model.load_skeleton(spec, auto_class=task.auto_class)
    check_plan(document.plan, base, discover("autopeft.methods"))
    configs = train.compile_plan(document.plan, discover("autopeft.methods"))
    with base.attached(configs, plan=document.plan, task_type=task.peft_task_type, seed=0) as attached:
        return _tally(attached, base)


def _count_configs(path: Path, *, model_id: str | None, revision: str | None) -> Count:
    configs = [_read_config(folder) for folder in _config_folders(path)]
    named = model_id or configs[0].base_model_name_or_path
    if not named or not isinstance(named, str):
        raise SpecError(f"{path} does not say which base model it is for; pass --model.")
    auto_class = _AUTO_CLASSES.get(str(getattr(configs[0].task_type, "value", configs[0].task_type)))
    base = model.load_skeleton(ModelSpec(id=named, revision=revision), auto_class=auto_class)
    names = model.adapter_names(configs)
    try:
        # On the meta device a rank of a million costs no memory; BOFT and others cannot be made there.
        sparing = [config.peft_type == peft.PeftType.LORA for config in configs]
        attached = peft.get_peft_model(
            base.module, configs[0], adapter_name=names[0], low_cpu_mem_usage=sparing[0]
        )
        for config, name, spare in zip(configs[1:], names[1:], sparing[1:], strict=True):
            peft.inject_adapter_in_model(config, attached.base_model.model, name, low_cpu_mem_usage=spare)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, re.error) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SiteError(
            f"{path} does not fit {named}: {reason}. Use the base model that it was made for."
        ) from error
    return _tally(attached, base)


def _tally(attached: PeftModel, base: BaseModel) -> Count:
    """Sum what requires a gradient, by the site that holds it."""
    sites = {site.name: site for site in base.sites}
    by_role: dict[str, int] = defaultdict(int)
    by_layer: dict[str, int] = defaultdict(int)
    head = 0
    for name, parameter in attached.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.removeprefix("base_model.model.").split(".")
        if "modules_to_save" in parts:
            head += parameter.numel()
            continue
        prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        site = next((sites[prefix] for prefix in prefixes if prefix in sites), None)
        by_role[site.role if site else "other"] += parameter.numel()
        by_layer["outside" if site is None or site.layer is None else str(site.layer)] += parameter.numel()
    total = sum(by_role.values())
    return Count(
        base_model=base.name,
        trainable_params=total,
        head_params=head,
        base_params=base.base_params,
        adapter_bytes=_BYTES_PER_PARAM * (total + head),
        by_role=dict(sorted(by_role.items(), key=lambda item: -item[1])),
        by_layer=dict(
            sorted(
                by_layer.items(),
                key=lambda item: (item[0] == "outside", int(item[0]) if item[0].isdigit() else 0),
            )
        ),
    )


def _is_adapter(path: Path) -> bool:
    if path.is_dir():
        return (path / "adapter_config.json").is_file() or (path / "order.json").is_file()
    return path.suffix == ".json"


def _config_folders(path: Path) -> list[Path]:
    """The folders of the configs, in the order in which they are attached."""
    if path.is_file():
        if path.name != "adapter_config.json":
            raise SpecError(f"{path} is no adapter config; peft calls that file adapter_config.json.")
        return [path.parent]
    if (path / "order.json").is_file():
        order = _read_json(path / "order.json")
        if not isinstance(order, list) or not order or not all(isinstance(name, str) for name in order):
            raise SpecError(f"{path / 'order.json'} holds {order!r}; it should list the folders beside it.")
        return [path / name for name in order]
    return [path]


def _read_config(folder: Path) -> PeftConfig:
    file = folder / "adapter_config.json"
    content = _read_json(file)
    kind = content.get("peft_type") if isinstance(content, dict) else None
    known = sorted(member.value for member in peft.PeftType)
    if kind not in known:
        raise UnknownNameError(f"peft_type ({file})", str(kind), known)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        raise SpecError(f"{file} is no config that peft {peft.__version__} reads: {error}.") from error
    config.inference_mode = False
    return config


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read ({error}); it must be a JSON file that peft wrote."
        ) from error
