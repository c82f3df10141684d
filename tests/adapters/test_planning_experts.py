"""Configs for mixtures of experts: routers, and names of experts from before they were one parameter."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
from peft import LoraConfig
from toys import families
from toys.counting import n_trained

from autopeft.adapters import Count, count_configs, read_configs, read_user_plan
from autopeft.errors import SpecError
from autopeft.model import BaseModel, Precision
from autopeft.plugins import discover

METHODS = discover("autopeft.methods")
OLD_EXPERTS = {
    "mixtral": ["w1", "w2", "w3"],
    "qwen3_moe": ["gate_proj", "up_proj", "down_proj"],
}


def base_of(family: str) -> BaseModel:
    return BaseModel(families.build(family), None, name=family, untrained=frozenset(), precision=Precision())


def saved(config: LoraConfig, folder: Path) -> Path:
    config.save_pretrained(str(folder))
    return folder


def adapted(family: str, config: LoraConfig) -> peft.PeftModel:
    return peft.get_peft_model(families.build(family), config)


def counted(family: str, folder: Path) -> Count:
    return count_configs(read_configs(folder), base_of(family), path=folder)


@pytest.mark.parametrize("family", OLD_EXPERTS)
def test_all_linear_is_a_plan_without_the_routers(family: str, tmp_path: Path) -> None:
    folder = saved(LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"), tmp_path)
    model = adapted(family, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    of_routers = sum(p.numel() for name, p in model.named_parameters() if ".mlp.gate.lora_" in name)
    user_plan = read_user_plan(folder, base_of(family), METHODS)
    assert of_routers and user_plan.plan.trainable_params == n_trained(model) - of_routers
    assert len(user_plan.notes) == 1


def test_a_router_that_a_config_names_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = saved(LoraConfig(r=4, target_modules=["q_proj", "gate"]), tmp_path)
    with pytest.raises(SpecError, match=r"gate\.weight"):
        read_user_plan(folder, base_of("mixtral"), METHODS)
    saved(LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)  # as the message says
    assert read_user_plan(folder, base_of("mixtral"), METHODS).notes == ()


@pytest.mark.parametrize("family", OLD_EXPERTS)
@pytest.mark.parametrize("others", [[], ["q_proj"]])
def test_old_names_of_experts_are_not_called_missing(family: str, others: list[str], tmp_path: Path) -> None:
    targets = [*others, *OLD_EXPERTS[family]]
    folder = saved(LoraConfig(r=4, target_modules=targets), tmp_path)
    count = counted(family, folder)
    assert count.notes == ()
    assert count.trainable_params == n_trained(adapted(family, LoraConfig(r=4, target_modules=targets)))
    assert read_user_plan(folder, base_of(family), METHODS).notes == ()
