"""What libraries warn of among themselves does not reach the terminal."""

from __future__ import annotations

import warnings

import peft
import torch
from toys import families

from autopeft.cli.exit_codes import exit_codes


def forward_warnings(model: torch.nn.Module) -> list[str]:
    tokens = torch.tensor([[1, 2, 3]])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with exit_codes():
            model(input_ids=tokens, labels=tokens)
    return [str(warning.message) for warning in caught]


def test_a_forward_pass_with_a_prefix_warns_of_nothing() -> None:
    config = peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    assert forward_warnings(peft.get_peft_model(families.build("llama"), config)) == []
