"""Names that autopeft no longer has, and what to do instead; every error about an unknown name asks here."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Each table maps what to do instead to the names that were removed, in small letters with underscores.
SETTINGS = {
    "leave it out, since the lengths of the train split's completions set it": "max_new_tokens",
    "leave it out; --dtype chooses the number format, and float32 keeps all its bits": "matmul_precision",
    "save the rows to learn from as a file (to_parquet of datasets); --max-examples limits them": "streaming",
    "leave it out, since nine comparisons never showed for sure that a score helps": "check_score",
    "--memory bounds what a training step may take, weights included": "max_peak_memory max_peak_bytes",
    "leave slow methods out with --methods; `autopeft methods` lists their step times": "max_step_time",
    "--sizes 3 finds the best plan of a fifth and of a twenty-fifth of the budget": "objective",
    "leave it out; --effort says how much a search tries": "strategy",
    "leave it out, since Optuna proposes four plans at once": "wave",
    "leave it out; --effort thorough lets Optuna's TPESampler propose plans": "sampler",
    "leave it out, since the finalists are always trained in full; --seeds sets the number of seeds": (
        "confirm fidelity confirm_seeds confirm_fidelity"
    ),
    "name it search.margin; the flag --margin stays": "confirm_margin",
    "measure the finished adapter with a tool such as lm-evaluation-harness": (
        "forgetting forgetting_source forgetting_config_name forgetting_text_column"
    ),
    "--baseline takes a plan or a run of the same base model and tunes its learning rate": "warm_start",
    "pass lower_is_better=True if a lower score is better": "greater_is_better",
    "--trials, --max-time and --max-cost end a search": "patience",
    "max_rank in a search space of your own caps the ranks of a method": "max_rank",
    "--serve-on any keeps to LoRA, and --methods to the methods that you name": "mergeable",
    "a parameter takes four bytes of the file: lower --budget": "max_adapter_size max_adapter_bytes",
    "the task head is counted beside the budget; lower --budget by its size": "count_head",
    "write it behind the id of the dataset: --data ID:NAME": "config_name data_config",
}
_KEYS_OF_SPACES = {
    "max_rank caps the ranks of a method in a search space": "size min_rank",
    "layer_share with layers_by last or score chooses the layers in a search space": "depth_parts",
    "every plan of a search space may spend the whole budget": "budget_share",
    "leave it out; the plans under first are tried before the sampler proposes any": "random_share",
}
_SCORES = (
    "activation bias_fisher cka conditioning fisher_sampled gradient_norm lora_fisher random spectrum "
    "stable_rank uniform"
)
# By the first word or words of the kind of name that an error speaks of; the first that fits counts.
_TABLES: Mapping[str, Mapping[str, str]] = {
    "setting in": _KEYS_OF_SPACES,
    "setting": SETTINGS,
    "environment variable": SETTINGS,
    "option of autopeft export": {
        "write the folder without it: autopeft export PATH --to FORMAT --out FOLDER": "run adapter",
        "--to merged needs no rank and keeps the whole change of the weights": "rank energy",
        "load the adapter with peft and save it again, which writes safetensors": "allow_pickle",
    },
    "option of autopeft analyze": {"`autopeft suggest` makes a plan for a budget": "budget"},
    "option of autopeft methods": {"`search --dry-run` says at how many sites each method fits": "model"},
    "option of autopeft count": {
        "`autopeft estimate` says what each takes, and --json serves scripts": "compare markdown"
    },
    "option": SETTINGS
    | {
        "a search tries learning rates itself, and --baseline takes a plan.yaml with a rate of yours": (
            "lr learning_rate"
        )
    },
    "command": {"--executor ray has workers on several machines, and --workers says how many": "worker"},
    "attribute": {
        "autopeft.analyze scores every module before a training": "sensitivitycallback",
        "report.html has the pictures, and report.md and trials.csv the numbers": "plot plots",
        "full_runs has every plan that was trained in full": "confirmations",
        "rival is the plan that the verdict compares with the baseline": "incumbent",
        "sizes has the best plan of each smaller budget, with --sizes": "smallest",
        "short runs have one length, short_steps": "proxy",
    },
    "executor": {"--executor ray has workers on several machines": "postgresql"},
    "score": {"the scores gradient, fisher and parameters remain, and an entry point adds your own": _SCORES},
    "method": {
        "use lora, ia3 or another method; peft itself trains virtual tokens": (
            "p_tuning prompt_tuning prefix_tuning"
        ),
        "plain peft cannot load bottleneck adapters, use lora, ia3 or another method": "bottleneck",
    },
    "search space": {
        "the spaces default, everything, lora_only and tiny_budget remain, or a file of yours": (
            "auto_lora autopeft_tacl bipeft s3delta"
        )
    },
    "init of lora": {"leave it out, since no measurement spoke for EVA": "eva"},
    "export": {
        "--to merged serves every method that changes weights, --to uniform-lora plain LoRA": "converted_lora"
    },
}
_TOPIC = re.compile(
    r"^(autopeft_)?(model|data|task|budget|search|limits|confirm|forgetting|execution|output)_"
)


def instead_of(kind: str, name: str) -> str | None:
    """Tell what to do in place of a name that was removed; None for every other name.

    Args:
        kind: What the name would be, as an error says it: `setting`, `option of autopeft search`, `score`. A
            name may be free for another kind: a column of the data may be called `size`.
        name: As it was typed: a dotted setting, a flag, an environment variable, a key of a search space.
    """
    table = next((table for start, table in _TABLES.items() if kind.startswith(start)), {})
    plain = re.sub(r"[-.]", "_", name.strip().lstrip("-").lower())
    spellings = {
        plain,
        _TOPIC.sub("", plain),
        plain.removeprefix("autopeft_"),
        name.rpartition(".")[2].lower(),
    }
    return next((instead for instead, names in table.items() if spellings & {*names.split()}), None)
