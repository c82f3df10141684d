"""The settings of a run by topic; pydantic checks them and refuses unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from autopeft.types.fields import SettingField, Topic, setting, settings_of

MAX_SEED = 2**32 - 1  # the largest seed of numpy's older generators, which Optuna uses

# Replaces the name of a model or dataset that was passed as an object.
IN_MEMORY = "<in memory>"
OWN_TRAINER = "<your trainer>"  # the data of a user's trainer, which autopeft never sees

# Arguments of transformers' BitsAndBytesConfig for each value of `model.quantize` except none.
QUANTIZED: Mapping[str, Mapping[str, bool | str]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "8bit": {"load_in_8bit": True},
}

# The parts of a model; `norm` is a norm in none of the others, `other` is all that is left.
Component = Literal[
    "attention",
    "recurrent",
    "mlp",
    "shared_expert",
    "routed_experts",
    "router",
    "norm",
    "vision",
    "audio",
    "projector",
    "embedding",
    "head",
    "other",
]


class ModelSpec(Topic):
    """The base model; `id` None is the demo model."""

    id: str | None = setting(
        None, "Base model: hub id or local directory. Default: the demo model", "Options", short="model"
    )
    revision: str | None = setting(None, "Revision of the hub model", "Machine")
    quantize: Literal["none", "4bit", "8bit"] = setting(
        "none", "Quantize the linear layers of the base model (needs the extra quantize)", "Machine"
    )
    components: tuple[Component, ...] = setting(
        (),
        "Components to adapt. Default: by the topology of the model. Separated by commas, any of these",
        "Options",
    )


class DataSpec(Topic):
    """The dataset and its columns; `source` None is the sample dataset.

    `text_columns` are the columns of the inputs: texts, tokens, a prompt, image files.
    """

    source: str | None = setting(
        None,
        "CSV, JSONL or Parquet file, directory of these, saved dataset, or hub id. Default: the sample",
        "Options",
        short="data",
        min_length=1,
    )
    text_columns: tuple[str, ...] = setting(
        (), "Column with the text; two for a pair of texts", "Data", short="text_column", form="repeated"
    )
    label_column: str | None = setting(None, "Column with the label", "Data")
    label_kind: Literal["class", "classes", "number"] | None = setting(
        None, "What the label column holds, if its values are ambiguous", "Data"
    )
    group_column: str | None = setting(
        None,
        "Rows with equal values in this column stay in one split; intervals are over these groups",
        "Data",
    )
    max_examples: int | None = setting(None, "Rows of train and search together, at most", "Data", ge=1)
    max_eval_examples: int | None = setting(
        None,
        "Evaluated examples of search, confirm and test, at most. Default: a tenth of a full run's cost",
        "Data",
        ge=2,
    )


class TaskSpec(Topic):
    """The task, and the length of one full training run.

    `setup.derive` derives `epochs`, `batch_size` and `max_length` if they are None; `run.yaml` holds the
    derived values.
    """

    name: str = setting(
        "text-classification",
        "The task: text-classification, token-classification, text-generation, text2text-generation, "
        "image-classification, or that of a plug-in",
        "Options",
        short="task",
    )
    metric: str | None = setting(
        None,
        "A metric of the task, or your own function for generated texts: module:function. Default: by task "
        "and labels",
        "Options",
    )
    answer_pattern: str | None = setting(
        None,
        "Regular expression; its first group, or whole match, is the answer in a generated text",
        "Options",
    )
    epochs: float | None = setting(
        None,
        "Length of a full run in epochs. Default, by the size of the data: 3 to 20 (language models: 1 to 3)",
        "Full run",
        gt=0,
        le=1e6,
    )
    max_steps: int | None = setting(
        None, "Length of a full run in optimizer steps; overrides --epochs", "Full run", demo=100, ge=1
    )
    batch_size: int | None = setting(
        None,
        "Examples per optimizer step. Default: 32, 4 to 16 for language models, by their length",
        "Full run",
        ge=1,
        le=1e6,
    )
    max_length: int | None = setting(
        None,
        "Tokens per example, at most. Default: by the lengths of the train split, within the model's context",
        "Full run",
        ge=2,
        le=1e9,
    )


class BudgetSpec(Topic):
    """How many parameters may be trained, as the user wrote it."""

    requested: str = setting(
        "0.5%",
        "Trainable parameters, at most: 0.5% of the base model, 300k, r16: what LoRA of rank 16 trains, or "
        "auto: the lowest rank with a parameter per answer token (language models)",
        "Options",
        short="budget",
        demo="7500",
    )


class SearchSpec(Topic):
    """How to search: the space, what ends a search, methods, what to compare with, and the seed."""

    space: str = setting(
        "default",
        "Search space: a name of `autopeft info spaces`, or a YAML file. Default: the one named default",
        "Search",
    )
    effort: Literal["quick", "normal", "thorough"] = setting(
        "normal",
        "How much to try. quick trains the default and one challenger in full; normal first compares the "
        "space's listed plans and proposals of Optuna in short runs; thorough compares 48, and trains more "
        "challengers with three seeds",
        "Options",
    )
    trials: int | None = setting(
        None, "Short runs, at most. Default: by --effort, within --max-time and --max-cost", "Search", ge=1
    )
    seeds: int | None = setting(
        None, "Seeds of each full run. Default: 1, and 3 with --effort thorough", "Search", ge=1, le=10
    )
    refit: Literal["auto", "on", "off"] = setting(
        "auto",
        "Train the best plan again on all rows. auto: if more than 5 % of them were held out",
        "Options",
    )
    sizes: int = setting(
        1,
        "Number of budgets to find the best plan for, each a fifth of the one before",
        "Options",
        ge=1,
        le=4,
    )
    max_time_seconds: float | None = setting(
        None,
        "Time such as 90s, 8m or 2h that shortens the search, never the full runs",
        "Search",
        short="max_time",
        demo=450.0,
        gt=0,
    )
    max_cost: float | None = setting(
        None,
        "Cost in R that shortens the search, never the full runs; R is one full run of the baseline",
        "Search",
        gt=0,
        le=1e9,
    )

    methods: tuple[str, ...] = setting((), "Only these methods, separated by commas", "Options")
    serve_on: tuple[Literal["vllm", "sglang", "llama.cpp", "any"], ...] = setting(
        (), "Only plans that these servers load, separated by commas", "Search"
    )
    baseline: str | None = setting(
        None,
        "Your own config to compare with: plan.yaml, run, or adapter_config.json of a LoRA or its folder",
        "Options",
        min_length=1,
    )
    score: str = setting("gradient", "Sensitivity score that orders the target modules", "Search")
    margin: float | None = setting(
        None,
        "Difference of the metric that does not matter. Default: 0.01, or 1 % of the loss or error",
        "Search",
        gt=0,
    )
    seed: int = setting(0, "Seed of splits, proposals and training runs", "Search", ge=0, le=MAX_SEED)


class ExecutionSpec(Topic):
    """Where measurements run, and in which number format.

    `dtype` is the format of the base model, and of the products of quantized layers. What is trained is
    float32. `auto` is bfloat16 if the processor or GPU has instructions for it, float16 on NVIDIA's Volta and
    Turing.
    """

    executor: str = setting("serial", "How to run measurements", "Machine")
    workers: int | None = setting(
        None,
        "Measurements at the same time. Default: 1; for the executor process one per GPU, or on a CPU one "
        "for every two cores, 4 at most",
        "Machine",
        ge=1,
    )
    device: str | None = setting(
        None,
        "Torch device: cpu, cuda or cuda:1; several for several workers, such as cuda:0,1; balanced "
        "spreads the layers over all GPUs. Default: a GPU, if there is one, balanced if the weights do not "
        "fit on it; for the executor process all GPUs like the first",
        "Machine",
        min_length=1,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Number format of the base model", "Machine"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] | None = setting(
        None,
        "Attention kernels, by their names in transformers. Default: the choice of transformers",
        "Machine",
        short="attn",
    )
    memory_bytes: int | None = setting(
        None,
        "Memory that the device may use, weights and libraries included, such as 16GiB. Default: all of it",
        "Machine",
        short="memory",
        ge=1,
    )
    micro_batch_tokens: int | None = setting(
        None,
        "Tokens in one forward pass of training. Default: as many as fit and increase the speed",
        "Machine",
        ge=1,
    )
    checkpointing: Literal["auto", "on", "off"] = setting(
        "auto", "Recompute activations in the backward pass, which takes a third longer", "Machine"
    )
    gpu_price: float | None = setting(None, "Price of the machine per hour, in any currency", "Machine", ge=0)


class OutputSpec(Topic):
    """Where the run directory goes, and what logs the search; by default a new folder in `reports/`."""

    out: str | None = setting(
        None, "Folder to write to; must be empty or absent", "Run", form="path", min_length=1
    )
    report_to: tuple[str, ...] = setting(
        (), "Experiment trackers that log a run for each plan, such as wandb, separated by commas", "Run"
    )


class RunSpec(Topic):
    """All settings of one run."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    task: TaskSpec = TaskSpec()
    budget: BudgetSpec = BudgetSpec()
    search: SearchSpec = SearchSpec()
    execution: ExecutionSpec = ExecutionSpec()
    output: OutputSpec = OutputSpec()

    @property
    def explicit(self) -> frozenset[str]:
        """The dotted names of the settings that were set, at their defaults or not."""
        return frozenset(f"{topic}.{name}" for topic, fields in self for name in fields.model_fields_set)

    @property
    def is_in_memory(self) -> bool:
        """Whether the model or the data were objects in memory, which a command cannot name."""
        return IN_MEMORY in (self.model.id, self.data.source)

    @property
    def has_own_trainer(self) -> bool:
        """Whether `autopeft tune` made the run, with a user's trainer."""
        return self.data.source == OWN_TRAINER


# All settings, by dotted name and by short name.
SETTINGS: Mapping[str, SettingField] = settings_of(RunSpec)
SHORT_NAMES: Mapping[str, SettingField] = {field.short: field for field in SETTINGS.values()}


def with_setting(spec: RunSpec, name: str, value: object) -> RunSpec:
    """Return a spec with another value for one setting, by its dotted name."""
    topic, _, field = name.partition(".")
    return spec.model_copy(update={topic: getattr(spec, topic).model_copy(update={field: value})})
