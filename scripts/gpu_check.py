"""What a GPU must do for autopeft, checked in ten minutes: PASS or FAIL a line, and JSON at the end.

    python scripts/gpu_check.py [--cpu] [--only NAME ...]

Methods attach, train and count as planned; a 1 B and an 8 B model of random weights take the memory that a
replay without weights says (32 rows of 512 tokens a step), in 4 bits too; a run out of memory leaves the base
model usable; a resumed run equals an unbroken one; a probe tells what several adapters in one batch gain.
Without a GPU it exits with code 2; `--cpu` makes the same checks in tiny sizes on the CPU. A check that is
not possible here is SKIPped.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from autopeft import model as models
from autopeft.estimate import TrainingStep, measure, quantise_maps, replay, without_weights
from autopeft.extension import Batch, Method, discover
from autopeft.model import BaseModel, Precision
from autopeft.records import Adapter, Fidelity, ModelSpec, Plan, Status
from autopeft.train import Bench, Compute, EncodedSplit

TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"intermediate_size": 128, "vocab_size": 200, "max_position_embeddings": 256}
ONE_B = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
ONE_B |= {"head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True}
EIGHT_B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
EIGHT_B |= {"intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False}
NEAR = (
    0.10  # largest error of a predicted peak; the allocator's rounding and kernels' own memory are not in it
)
TASK = discover("autopeft.tasks")["text-generation"]
METHODS: dict[str, Method] = discover("autopeft.methods")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the checks run, and how large they are."""

    device: torch.device
    tiny: bool

    @property
    def precision(self) -> Precision:
        """bfloat16 on a GPU."""
        return Precision(dtype="float32" if self.tiny else "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer of one check: PASS, FAIL or SKIP, and its numbers."""

    name: str
    status: str
    numbers: dict[str, Any]


def base_of(shape: dict[str, Any], place: Place, **settings: Any) -> BaseModel:
    """A Llama of a shape with random weights on the device."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**shape, **settings)
    with torch.device(place.device):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=place.precision.torch_dtype)
    return BaseModel(module, None, name="random", untrained=frozenset(), precision=place.precision)


def skeleton_of(shape: dict[str, Any]) -> BaseModel:
    """The same without weights."""
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**shape))
    return BaseModel(module, None, name="skeleton", untrained=frozenset())


def plan_of(base: BaseModel, method: Method, *, rank: int = 4, rate: float = 1e-3) -> Plan | None:
    """A method at every site that it fits, near a rank; None where it fits none."""
    adapters = []
    for site in base.sites:
        if method.refusal(site) is None:
            options = method.options(site)
            ranks = [known for known in method.ranks(site, options) if known <= rank]
            best = max(ranks, default=min(method.ranks(site, options), default=0))
            adapters.append(
                Adapter(
                    method=method.name,
                    site=site.name,
                    rank=best,
                    scale=method.scale(best),
                    options=tuple(options.items()),
                )
            )
    sites = {site.name: site for site in base.sites}
    cost = sum(method.cost(sites[a.site], a.rank, dict(a.options)) for a in adapters)
    return Plan(adapters=tuple(adapters), learning_rate=rate, trainable_params=cost) if adapters else None


def bench_of(base: BaseModel, place: Place, *, n_tokens: int = 32, **settings: Any) -> Bench:
    """A bench on rows of random tokens."""
    generator = torch.Generator().manual_seed(0)
    n_words = len(base.module.get_input_embeddings().weight)
    rows = torch.randint(1, n_words, (64, n_tokens), generator=generator).tolist()
    examples = tuple({"input_ids": row, "attention_mask": [1] * n_tokens} for row in rows)
    splits = {
        name: EncodedSplit(examples=examples[part], labels=tuple(rows[part]))
        for name, part in {"train": slice(0, 48), "search": slice(48, 64)}.items()
    }
    return Bench(base=base, task=settings.pop("task", TASK), methods=METHODS, splits=splits, **settings)


def rung(n_steps: int, batch_size: int) -> Fidelity:
    """A rung of some steps, judged on 8 rows."""
    return Fidelity(
        split="search", train_steps=n_steps, train_examples=n_steps * batch_size, eval_examples=8, seed=0
    )


def check_methods(place: Place) -> Finding:
    """Every method attaches what its plan says, trains two steps, and leaves the base model as it was."""
    base = base_of(TINY, place, attention_bias=True)
    before, faults = base.sha256(), {}
    bench = bench_of(base, place, batch_size=8)
    for name, method in METHODS.items():
        plan = plan_of(base, method)
        if plan is None:
            faults[name] = "fits no site"
            continue
        measurement = bench.measure(plan, rung(2, 8))  # which compares the count with peft's
        if measurement.status is not Status.COMPLETE:
            faults[name] = str(measurement.error)
        elif base.sha256() != before:
            faults[name] = "changed the base model"
            break
    status = "FAIL" if faults else "PASS"
    return Finding(name="methods", status=status, numbers={"n_methods": len(METHODS), **faults})


def lora_config() -> LoraConfig:
    """LoRA on all linear maps, about 0.5 % of a model of billions of weights."""
    return LoraConfig(r=16, lora_alpha=16, target_modules="all-linear")


def step_of(place: Place, vocabulary: int) -> TrainingStep:
    """32 rows of 512 tokens in micro-batches of 4, a quarter of their tokens labelled, checkpointed."""
    n_rows, n_micro, n_tokens = (4, 2, 16) if place.tiny else (32, 4, 512)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (n_rows, n_tokens), generator=generator)
    labels = ids.clone()
    labels[:, : 3 * n_tokens // 4] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    parts = [{k: v[i : i + n_micro] for k, v in batch.items()} for i in range(0, n_rows, n_micro)]
    return TrainingStep(
        micro_batches=parts,
        loss=TASK.loss,
        n_terms=TASK.n_terms,
        autocast=place.precision.dtype == "bfloat16",
        checkpointing=True,
    )


def measured_step(model: nn.Module, step: TrainingStep, place: Place) -> tuple[int, float]:
    """Peak bytes and seconds of a step on the device; a first step warms up."""
    if place.tiny:
        started = time.perf_counter()
        return measure(model, step).peak_bytes, time.perf_counter() - started
    measure(model, step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    measure(model, step)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), time.perf_counter() - started


def memory_finding(name: str, base: BaseModel, skeleton: BaseModel, place: Place) -> Finding:
    """The peak of a step against its replay, and the tokens per second."""
    step = step_of(place, len(base.module.get_input_embeddings().weight))
    dtype = place.precision.torch_dtype
    adapted = without_weights(skeleton, [lora_config()], task_type="CAUSAL_LM", dtype=dtype)
    predicted = replay(adapted, step).peak_bytes
    with base.attached([lora_config()], plan=_planned(base), task_type="CAUSAL_LM", seed=0) as model:
        peak, seconds = measured_step(model, step, place)
    n_tokens = sum(batch["input_ids"].numel() for batch in step.micro_batches)
    numbers = {
        "predicted_gb": round(predicted / 1e9, 4),
        "measured_gb": round(peak / 1e9, 4),
        "error": round(predicted / peak - 1, 4),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(n_tokens / seconds),
    }
    return Finding(name=name, status="PASS" if abs(numbers["error"]) <= NEAR else "FAIL", numbers=numbers)


def _planned(base: BaseModel) -> Plan:
    """The plan that `lora_config` makes."""
    plan = plan_of(base, METHODS["lora"], rank=16)
    assert plan is not None, "a Llama has linear maps"
    return plan


def check_one_b(place: Place) -> Finding:
    """A 1 B model in bfloat16."""
    shape = TINY if place.tiny else ONE_B
    return memory_finding("memory of 1 B", base_of(shape, place), skeleton_of(shape), place)


def check_eight_b(place: Place) -> Finding:
    """An 8 B model in bfloat16."""
    if not place.tiny and torch.cuda.get_device_properties(place.device).total_memory < 24e9:
        return Finding(name="memory of 8 B", status="SKIP", numbers={"reason": "less than 24 GB"})
    shape = TINY | {"num_hidden_layers": 3} if place.tiny else EIGHT_B
    return memory_finding("memory of 8 B", base_of(shape, place), skeleton_of(shape), place)


def check_four_bits(place: Place) -> Finding:
    """A model in 4 bits: trained, unchanged, and on a GPU of the size that a replay says."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return Finding(name="4 bits", status="SKIP", numbers={"reason": "bitsandbytes is not installed"})
    shape = TINY if place.tiny else ONE_B
    with tempfile.TemporaryDirectory() as folder:
        plain = base_of(shape, place)
        plain.module.save_pretrained(folder)
        del plain
        base = models.load(
            ModelSpec(id=folder, quantize="4bit"),
            auto_class=TASK.auto_class,
            label_names=(),
            needs_tokenizer=False,
            device=str(place.device),
            precision=Precision(dtype="bfloat16"),
        )
    before = base.sha256()
    measurement = bench_of(base, place, batch_size=8).measure(_planned(base), rung(2, 8))
    numbers: dict[str, Any] = {"status": measurement.status.value, "unchanged": base.sha256() == before}
    is_good = measurement.status is Status.COMPLETE and numbers["unchanged"]
    if place.tiny:  # on a CPU bitsandbytes unpacks into buffers of its own
        return Finding(name="4 bits", status="PASS" if is_good else "FAIL", numbers=numbers)
    skeleton = skeleton_of(shape)
    quantise_maps(skeleton.module, "4bit", skipped=("lm_head",))
    found = memory_finding("4 bits", base, skeleton, place)
    status = found.status if is_good else "FAIL"
    return dataclasses.replace(found, status=status, numbers=found.numbers | numbers)


class _FullDevice:
    """A task that runs out of memory with more than two rows, as a full GPU does."""

    def __init__(self) -> None:
        self.largest = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(TASK, name)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The task's loss, if there are few rows."""
        n_rows = len(batch["input_ids"])
        if n_rows > 2:
            raise torch.OutOfMemoryError("a pretended lack of memory")
        self.largest = max(self.largest, n_rows)
        return TASK.loss(model, batch)


def check_out_of_memory(place: Place) -> Finding:
    """A trial without enough memory is a value, or passes in smaller pieces; the base model stays usable."""
    base = base_of(TINY if place.tiny else ONE_B, place)
    before, plan = base.sha256(), _planned(base)
    n_tokens = 32 if place.tiny else 512
    compute = Compute(micro_batch_tokens=4 * n_tokens)
    ballast = None
    if not place.tiny:
        free, _ = torch.cuda.mem_get_info(place.device)
        ballast = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device=place.device)
    task = _FullDevice() if place.tiny else TASK
    short = bench_of(base, place, n_tokens=n_tokens, batch_size=8, task=task, compute=compute)
    starved = short.measure(plan, rung(1, 8))
    del ballast
    after = bench_of(base, place, batch_size=8).measure(plan, rung(1, 8))
    numbers = {
        "without_memory": starved.status.value,
        "afterwards": after.status.value,
        "unchanged": base.sha256() == before,
    }
    is_value = starved.status in (Status.OUT_OF_MEMORY, Status.COMPLETE)
    is_good = is_value and after.status is Status.COMPLETE and numbers["unchanged"]
    return Finding(name="out of memory", status="PASS" if is_good else "FAIL", numbers=numbers)


def check_resumed(place: Place) -> Finding:
    """A run that is paused after 2 of 4 steps ends where an unbroken one ends."""
    base, losses = base_of(TINY, place), []
    plan = _planned(base)
    for stops in ((2, 4), (4,)):
        with tempfile.TemporaryDirectory() as folder:
            bench = bench_of(
                base,
                place,
                batch_size=8,
                rung_steps=(2, 4),
                paused=lambda plan, seed, folder=folder: Path(folder) / f"{plan.digest}-{seed}",
            )
            losses.append([bench.measure(plan, rung(n_steps, 8)).loss for n_steps in stops][-1])
    gap = abs(losses[0] - losses[1]) if None not in losses else float("inf")
    # On a GPU sums may come in another order; on a CPU the numbers are the same to the bit.
    status = "PASS" if gap <= (0.0 if place.tiny else 1e-4) else "FAIL"
    return Finding(name="resumed", status=status, numbers={"loss": losses[0], "gap": gap})


def check_packing(place: Place) -> Finding:
    """What four LoRA adapters in one batch gain over four batches, one each; a probe, which always passes."""
    n_adapters, n_rows, n_tokens = 4, 2 if place.tiny else 8, 16 if place.tiny else 128
    base = base_of(TINY if place.tiny else ONE_B, place)
    model = get_peft_model(base.module, lora_config(), adapter_name="a0")
    for index in range(1, n_adapters):
        model.add_adapter(f"a{index}", lora_config())
    model.eval()  # the only mode in which peft takes adapter_names
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    ids = torch.ones(n_rows, n_tokens, dtype=torch.long, device=place.device)

    def seconds(batches: Sequence[list[str]]) -> float:
        for _ in range(2):  # the first one warms up
            _wait(place)
            started = time.perf_counter()
            for names in batches:
                rows = ids.repeat(len(names) // n_rows, 1)
                with place.precision.autocast(place.device):
                    model(input_ids=rows, labels=rows, adapter_names=names).loss.backward()
            _wait(place)
        return time.perf_counter() - started

    each = [[f"a{index}"] * n_rows for index in range(n_adapters)]
    apart, packed = seconds(each), seconds([[name for names in each for name in names]])
    numbers = {"seconds_apart": round(apart, 3), "seconds_packed": round(packed, 3)}
    return Finding(name="packing", status="PASS", numbers=numbers | {"gain": round(apart / packed, 2)})


def _wait(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)


CHECKS: dict[str, Callable[[Place], Finding]] = {
    "methods": check_methods,
    "one_b": check_one_b,
    "eight_b": check_eight_b,
    "four_bits": check_four_bits,
    "out_of_memory": check_out_of_memory,
    "resumed": check_resumed,
    "packing": check_packing,
}


def run(place: Place, names: Sequence[str]) -> list[Finding]:
    """The findings of some checks; one that raises fails."""
    findings = []
    for name in names:
        started = time.perf_counter()
        try:
            found = CHECKS[name](place)
        except Exception as error:  # the other checks go on
            found = Finding(name=name, status="FAIL", numbers={"error": f"{type(error).__name__}: {error}"})
        findings.append(found)
        words = ", ".join(f"{key} {value}" for key, value in found.numbers.items())
        print(f"{found.status}  {found.name}: {words} ({time.perf_counter() - started:.0f} s)", flush=True)
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
    return findings


def main() -> int:
    """Run the checks; returns the exit code: 0 all passed, 1 some failed, 2 no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--only", nargs="*", choices=list(CHECKS), help="these checks alone")
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        print("There is no GPU here; run this where torch sees one, or pass --cpu.", file=sys.stderr)
        return 2
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # of peft and transformers, about what the checks do on purpose
    place = Place(device=torch.device("cpu" if given.cpu else "cuda"), tiny=given.cpu)
    findings = run(place, given.only or list(CHECKS))
    device = "cpu" if given.cpu else torch.cuda.get_device_name(place.device)
    answer = {"device": device, "torch": torch.__version__, "checks": [vars(found) for found in findings]}
    print(json.dumps(answer, indent=2))
    return int(any(found.status == "FAIL" for found in findings))


if __name__ == "__main__":
    sys.exit(main())
