"""Names that autopeft no longer has, and what to do instead; every error about an unknown name asks here."""

from __future__ import annotations

import re

# Setting, flag, command, part or Python name, in small letters with underscores -> what to do instead.
REMOVED: dict[str, str] = {
    "max_new_tokens": "leave it out, since the lengths of the train split's completions set it",
    "matmul_precision": "leave it out; --dtype chooses the number format, and float32 keeps all its bits",
    "postgresql": "--executor ray has workers on several machines",
    "worker": "--executor ray has workers on several machines, and --workers says how many",
    "databaseerror": "workers behind a database are gone, --executor ray has workers on several machines",
    "check_score": "leave it out, since nine comparisons never showed for sure that a score helps",
    "max_peak_memory": "--memory bounds what a training step may take, weights included",
    "max_peak_bytes": "--memory bounds what a training step may take, weights included",
    "max_step_time": "leave slow methods out with --methods; `autopeft methods` lists their step times",
    "objective": "leave it out, since every search names the smallest plan as good and draws the front",
    "strategy": "leave it out, a search is always by halving; --sampler random proposes at random",
    "wave": "leave it out, since four plans are proposed at once, or as many as there are workers",
    "forgetting": "measure the finished adapter with a tool such as lm-evaluation-harness",
    "forgetting_source": "measure the finished adapter with a tool such as lm-evaluation-harness",
    "forgetting_config_name": "measure the finished adapter with a tool such as lm-evaluation-harness",
    "forgetting_text_column": "measure the finished adapter with a tool such as lm-evaluation-harness",
    "sensitivitycallback": "autopeft.analyze scores every module before a training",
    "plot": "report.html has the pictures, and report.md and trials.csv the numbers",
    "plots": "report.html has the pictures, and report.md and trials.csv the numbers",
    "warm_start": "--baseline takes a plan or a run of the same base model and tunes its learning rate",
    "patience": "--trials, --max-time and --max-cost end a search",
    "activation": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "bias_fisher": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "cka": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "conditioning": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "fisher_sampled": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "gradient_norm": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "lora_fisher": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "random": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "spectrum": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "stable_rank": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "uniform": "the scores gradient, fisher and parameters remain, and an entry point adds your own",
    "p_tuning": "use lora, ia3 or another method; peft itself trains virtual tokens",
    "prompt_tuning": "use lora, ia3 or another method; peft itself trains virtual tokens",
    "prefix_tuning": "use lora, ia3 or another method; peft itself trains virtual tokens",
    "size": "max_rank caps the ranks of a method in a search space",
    "min_rank": "max_rank caps the ranks of a method in a search space",
    "depth_parts": "layer_share with layers_by last or score chooses the layers in a search space",
    "budget_share": "every plan of a search space may spend the whole budget",
    "auto_lora": "the spaces default, everything, lora_only and tiny_budget remain, or a file of yours",
    "autopeft_tacl": "the spaces default, everything, lora_only and tiny_budget remain, or a file of yours",
    "bipeft": "the spaces default, everything, lora_only and tiny_budget remain, or a file of yours",
    "s3delta": "the spaces default, everything, lora_only and tiny_budget remain, or a file of yours",
    "bottleneck": "plain peft cannot load bottleneck adapters, use lora, ia3 or another method",
    "converted_lora": "--to merged serves every method that changes weights, --to uniform-lora plain LoRA",
    "rank": "--to merged needs no rank; --to uniform-lora keeps the ranks of the plan",
    "energy": "--to merged keeps the whole change of the weights",
}
_TOPIC = re.compile(r"^(model|data|task|budget|search|limits|confirm|forgetting|execution|output)_")


def instead_of(name: str) -> str | None:
    """What to do in place of a name that was removed; None for every other name.

    A setting is found by its dotted name, its flag and its environment variable; a key of a search space by
    its last part.

    Example:
        >>> instead_of("--no-such-flag") is None
        True
    """
    plain = re.sub(r"[-.]", "_", name.strip().lstrip("-").lower()).removeprefix("autopeft_")
    key_of_space = name.rpartition(".")[2].lower()
    return REMOVED.get(plain) or REMOVED.get(_TOPIC.sub("", plain)) or REMOVED.get(key_of_space)
