"""The tables in docs/methods.md, made from the methods, the toys that they are tested on, and the scores.

    PYTHONPATH=tests python tests/repository/readme_tables.py

writes them into the page, between its markers; `test_docs` holds the page against them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from toys.bases import toy_base

from autopeft.extension import Method, discover
from autopeft.records import Site, rate

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
ARCHITECTURES = {
    "BERT": "bert",
    "GPT-2": "gpt2",
    "Llama": "llama",
    "T5": "t5",
    "ViT": "vit",
    "causal LM": "llama-lm",
    "T5 LM": "t5-lm",
    "MoE LM": "moe-lm",
}
NOUNS = {"linear": "maps", "conv1d": "maps", "norm": "norms", "parameter": "experts"}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def method_table() -> str:
    """What each method costs and promises."""
    rows = []
    for name, method in discover("autopeft.methods").items():
        low, high = method.learning_rate_range
        start = "yes" if method.identity_at_start else "no"
        rows.append(
            (
                f"`{name}`",
                method.label,
                method.summary,
                method.formula,
                start,
                "yes" if method.merges else "no",
                ", ".join(method.servers({})) or "–",
                f"{rate(low)} … {rate(high)}",
                f"{method.step_time:.2f}",
            )
        )
    header = (
        "name",
        "method",
        "trains",
        "parameters per site",
        "identity at start",
        "merges",
        "servers",
        "learning rates at 384",
        "step time",
    )
    return markdown(header, rows)


def fit_table() -> str:
    """Where each method fits on the toys, and why not elsewhere."""
    sites = {title: toy_base(name).sites for title, name in ARCHITECTURES.items()}
    rows = []
    for name, method in discover("autopeft.methods").items():
        cells = [cell(method, toy) for toy in sites.values()]
        rows.append((f"`{name}`", *cells, reasons(method, [site for toy in sites.values() for site in toy])))
    return markdown(("method", *sites, "not elsewhere, because"), rows)


def cell(method: Method, sites: Sequence[Site]) -> str:
    """Maps, norms or experts; with the roles where it is not all of them."""
    parts = []
    for noun in dict.fromkeys(NOUNS[site.kind] for site in sites):
        same_noun = [site for site in sites if NOUNS[site.kind] == noun]
        taken = list(dict.fromkeys(site.role for site in same_noun if method.refusal(site) is None))
        refused = list(dict.fromkeys(site.role for site in same_noun if method.refusal(site) is not None))
        if taken and not refused:
            parts.append(noun)
        elif taken:
            few = len(taken) <= len(refused)
            parts.append(", ".join(taken) if few else f"{noun} but {', '.join(refused)}")
    return "; ".join(dict.fromkeys(parts)) or "–"


def reasons(method: Method, sites: Sequence[Site]) -> str:
    """Why a method of linear maps does not take some of them."""
    maps = [method.refusal(site) for site in sites if NOUNS[site.kind] == "maps"]
    return "; ".join(dict.fromkeys(filter(None, maps))) if None in maps else ""


def score_table() -> str:
    """What each score says, and the pass that it needs; scores share one."""
    scores = discover("autopeft.sensitivity").items()
    passes = {True: "forward and backward", False: "none"}
    rows = (
        (f"`{name}`", score.summary.replace("|", "\\|"), score.unit, passes[score.reads_examples])
        for name, score in scores
    )
    return markdown(("score", "says of a site", "unit", "pass"), rows)


TABLES = {"methods": method_table, "fits": fit_table, "scores": score_table}


def filled(text: str) -> str:
    """The page with its tables made anew."""
    for name, make in TABLES.items():
        place = re.search(rf"<!-- table {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        assert place, f"the page has no place for the table {name}"
        text = f"{text[: place.start(1)]}\n{make()}\n\n{text[place.end(1) :]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
