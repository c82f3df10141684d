"""Native: the configs that plain `peft` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig

from autopeft.model import adapter_names, head_only_config


@dataclass(frozen=True)
class Native:
    """`adapter_config.json`, or one folder per config and `order.json` where a plan needs several."""

    name: str = "native"
    summary: str = "adapter_config.json for peft; one folder per config where a plan mixes methods"

    def export(
        self,
        configs: Sequence[PeftConfig],
        *,
        base_model: str,
        task_type: str,
        out: Path,
        head: Sequence[str] = (),
    ) -> None:
        """Write the configs of a plan.

        Args:
            configs: In the order in which they are attached; empty for the head alone.
            base_model: Hub id or directory, for `base_model_name_or_path`.
            task_type: `peft`'s word for the task.
            out: Folder to write to; made if it is not there.
            head: The modules of the task head. Left to itself `peft` takes those called classifier
                or score, and not T5's, nor the poolers of DeBERTa and ModernBERT.
        """
        chosen = list(configs) or [head_only_config()]
        chosen[0].task_type = task_type
        chosen[0].modules_to_save = list(head) or None
        names = adapter_names(chosen)
        for config, name in zip(chosen, names, strict=True):
            config.base_model_name_or_path = base_model
            config.save_pretrained(str(out / name if len(names) > 1 else out))
        if len(names) > 1:
            (out / "order.json").write_text(json.dumps(names) + "\n", encoding="utf-8")


PART = Native()
