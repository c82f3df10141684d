"""How fast a device computes, and the rates of common GPUs."""

from __future__ import annotations

from dataclasses import dataclass

# The share of a card's data sheet that training reaches, and the time between two kernels of torch without
# compilation: the middle of what was fitted on two halves of 66 published configs, on NVIDIA's L40S
# (benchmarks/studies/published_times.md).
_FLOPS_SHARE, _BYTES_SHARE, _CALL_SECONDS = 0.85, 0.68, 8e-6


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of a device that training reaches."""

    name: str
    flops: float  # operations of products in a second
    bytes: float  # memory traffic in a second
    call_seconds: float  # from one kernel's start to the next
    runs_ahead: bool  # the device computes while further kernels are started, as a GPU does

    def of_kernel(self, flops: int, n_bytes: int) -> float:
        """Return the seconds of a kernel: of its products or memory traffic, the larger (a roofline)."""
        return max(flops / self.flops, n_bytes / self.bytes)

    def of_step(self, busy_seconds: float, n_calls: float) -> float:
        """Return the seconds of a step of `n_calls` kernels that compute for `busy_seconds`."""
        starting = n_calls * self.call_seconds
        return max(busy_seconds, starting) if self.runs_ahead else busy_seconds + starting


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU: GiB of memory that torch finds; by its data sheet dense TFLOP/s in 16 and 32 bits, and GB/s."""

    gib: float
    tflops: float
    float32_tflops: float
    gb_per_second: float
    dtype: str = "bfloat16"  # in which a search computes


# Memory as unsloth's banner prints it in public logs (T4 14.563 and 14.741, L4 22.161, RTX 3090 23.684, 4090
# 23.51 to 23.647, 5090 31.342), a little less for the others. The rest is from NVIDIA's data sheets: products
# without sparsity, sums in float32. T4 and V100 have no bfloat16. A T4 of 70 W sustains 24 TFLOP/s in
# products of 4,096 rows (forums.developer.nvidia.com/t/264462).
CARDS = {
    "t4": Card(gib=14.5, tflops=24 / _FLOPS_SHARE, float32_tflops=8.1, gb_per_second=300, dtype="float16"),
    "v100-16gb": Card(gib=15.7, tflops=125, float32_tflops=15.7, gb_per_second=900, dtype="float16"),
    "v100-32gb": Card(gib=31.7, tflops=125, float32_tflops=15.7, gb_per_second=900, dtype="float16"),
    "a10": Card(gib=22, tflops=125, float32_tflops=31, gb_per_second=600),
    "a6000": Card(gib=47.4, tflops=155, float32_tflops=38.7, gb_per_second=768),
    "l4": Card(gib=22.1, tflops=121, float32_tflops=30, gb_per_second=300),
    "l40s": Card(gib=44.5, tflops=362, float32_tflops=92, gb_per_second=864),
    "rtx3090": Card(gib=23.6, tflops=71, float32_tflops=36, gb_per_second=936),
    "rtx4090": Card(gib=23.5, tflops=165, float32_tflops=83, gb_per_second=1008),
    "rtx5090": Card(gib=31.3, tflops=210, float32_tflops=105, gb_per_second=1792),
    "a100-40gb": Card(gib=39.5, tflops=312, float32_tflops=19.5, gb_per_second=1555),
    "a100-80gb": Card(gib=79, tflops=312, float32_tflops=19.5, gb_per_second=2039),
    "h100": Card(gib=79, tflops=989, float32_tflops=67, gb_per_second=3350),
    "h200": Card(gib=139, tflops=989, float32_tflops=67, gb_per_second=4800),
}


def rates_of(card: str, *, dtype: str = "bfloat16") -> Rates:
    """Return the rates that training in a number format should reach on a card of CARDS."""
    sheet = CARDS[card]
    tflops = _FLOPS_SHARE * (sheet.float32_tflops if dtype == "float32" else sheet.tflops)
    return Rates(
        name=card,
        flops=tflops * 1e12,
        bytes=_BYTES_SHARE * sheet.gb_per_second * 1e9,
        call_seconds=_CALL_SECONDS,
        runs_ahead=True,
    )
