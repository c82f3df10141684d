"""The map of a sensitivity as SVG: every site's value, no script; and what `analyze` says of examples."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from autopeft.cli import results
from autopeft.records import Site, SiteScores
from autopeft.report import enough_examples, heat_svg

LLAMA = ("q", "k", "v", "o", "gate", "up", "down")
SVG = "{http://www.w3.org/2000/svg}"


def site(name, layer, role, kind="linear"):
    sizes = {"in_features": 8, "out_features": 8, "has_bias": False}
    return Site(name=name, layer=layer, role=role, kind=kind, **sizes)


def stack(n_layers, roles, *, outside=True):
    """Sites of a model: every role in each layer, and a pooler."""
    sites = [site(f"h.{layer}.{role}", layer, role) for layer in range(n_layers) for role in roles]
    beside = [site("pooler.dense", None, "dense")]
    return (*sites, *(beside if outside else ()))


def score_of(sites, *, name="fisher", **fields):
    """The values 1, 2, 3 … in the order of the sites."""
    return SiteScores(name=name, values=tuple(n + 1.0 for n in range(len(sites))), **fields)


@pytest.mark.parametrize(
    ("rho", "n", "sentence"),
    [
        (0.972, 128, "enough examples: two halves of 128 have a rank correlation of 0.97"),
        (
            0.9499,
            128,
            "too few examples: two halves of 128 have a rank correlation of 0.94; pass --max-examples 256",
        ),
        (
            0.71,
            64,
            "too few examples: two halves of 64 have a rank correlation of 0.71; pass --max-examples 512",
        ),
        (
            -0.2,
            64,
            "too few examples: two halves of 64 have a rank correlation of −0.20; pass --max-examples 1000",
        ),
        (
            0.71,
            1000,
            "too few examples: two halves of 1,000 have a rank correlation of 0.71, and the train split has "
            "no more",
        ),
        (None, 16, "two halves of 16 examples have no rank correlation"),
        (None, 0, "needs no examples"),
    ],
)
def test_one_sentence_says_whether_enough_was_seen(rho, n, sentence):
    score = SiteScores(name="fisher", values=(), split_half=rho, n_examples=n)
    assert results._enough(score, n_train=1000) == sentence
    assert sentence.startswith(enough_examples(score))


@pytest.mark.parametrize(("n_layers", "roles"), [(2, ("q", "v")), (32, LLAMA)])
def test_svg_parses_and_holds_the_value_of_every_site_in_a_title(n_layers, roles):
    sites = stack(n_layers, roles)
    scores = (score_of(sites, name="gradient"), score_of(sites, name="a<b"))
    root = ElementTree.fromstring(heat_svg(sites, scores, title='tiny "<&>" on data'))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    for site, value in zip(sites, scores[0].values, strict=True):
        assert titles.count(f"{site.name}: {value:.3g}") == len(scores)
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert {*roles, "outside", *map(str, range(n_layers))} <= set(texts)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= set(
        "svg title style rect text tspan g".split()
    )


def test_svg_stays_inside_its_frame_and_panels_do_not_overlap():
    sites = stack(4, LLAMA)
    scores = [score_of(sites, name=f"score {n}") for n in range(5)]
    root = ElementTree.fromstring(heat_svg(sites, scores, title="x"))
    width, height = (int(root.get(side)) for side in ("width", "height"))
    boxes = set()
    for panel in root.findall(f"{SVG}g"):
        x0, y0 = map(int, re.findall(r"\d+", panel.get("transform")))
        for cell in panel.iter(f"{SVG}rect"):
            x, y, w, h = (int(cell.get(key)) for key in ("x", "y", "width", "height"))
            assert x0 + x + w <= width and y0 + y + h <= height
            boxes.add((x0 + x, y0 + y))
    assert len(boxes) == 5 * (4 * len(LLAMA) + 1)
