"""The sketches of wide layers against numpy's full decompositions, on spectra such as gradients have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.sensitivity import SCORES

from autopeft.records import Site


def make_site(n_in, n_out):
    return Site(
        name="h.0.q", layer=0, role="q", kind="linear", in_features=n_in, out_features=n_out, has_bias=False
    )


def factors(n_in, n_out, *, power, seed=0):
    """Singular values r^-power and tokens (x, δ), shapes (N, in) and (N, out), with δᵀ x of those values."""
    generator = torch.Generator().manual_seed(seed)
    n = min(n_in, n_out)
    values = torch.arange(1, n + 1).double() ** -power
    left = torch.linalg.qr(torch.randn(n_out, n, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(n_in, n, generator=generator)).Q
    root = values.sqrt().float()
    return values.numpy(), (right * root).T, (left * root).T


def fed(name, site, x, delta, *, n_batches=4, seed=0):
    """The score's reducer after it has seen the tokens in some batches of one example each."""
    reducer = SCORES[name].reducer([site], seed=seed)
    for rows, gradients in zip(x.tensor_split(n_batches), delta.tensor_split(n_batches), strict=True):
        reducer.update(site, torch.nn.Identity(), rows[None], gradients[None])
    return reducer


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(384, 1536), (1500, 2000)], ids=["summed whole", "sketched"])
def test_energies_are_within_five_percent_of_those_of_the_full_svd(shape, power):
    site = make_site(*shape)
    values, x, delta = factors(*shape, power=power)
    reducer = fed("spectrum", site, x, delta)
    is_sketched = len(reducer.sums[site.name]) == 2
    assert is_sketched == (shape == (1500, 2000))
    energies = values[:16] ** 2
    assert reducer.profiles(1)[site.name] == pytest.approx(energies, rel=0.05)
    total = (values**2).sum()  # estimated from random projections where the map is sketched
    assert reducer.values(1)[site.name] == pytest.approx(total, rel=0.1 if is_sketched else 1e-4)
    assert reducer.values(10)[site.name] == pytest.approx(reducer.values(1)[site.name] / 100)


def test_sketches_of_halves_add_up_to_the_sketch_of_the_whole():
    site = make_site(1500, 2000)
    _, x, delta = factors(1500, 2000, power=0.7)
    whole = fed("spectrum", site, x, delta)
    half, other = fed("spectrum", site, x[:700], delta[:700]), fed("spectrum", site, x[700:], delta[700:])
    half.add(other)
    assert half.profiles(1)[site.name] == pytest.approx(whole.profiles(1)[site.name], rel=1e-3)


@pytest.mark.parametrize("power", [0.7, 1.0])
@pytest.mark.parametrize("width", [300, 1100], ids=["whole", "sketched"])
def test_shares_of_wide_inputs_are_those_of_numpys_svd(width, power):
    generator = torch.Generator().manual_seed(1)
    scales = torch.arange(1, width + 1).float() ** -power
    x = torch.randn(2 * width, width, generator=generator) * scales
    site = make_site(width, 4)
    reducer = fed("activation", site, x, x.new_empty(len(x), 0))
    energies = np.linalg.svd(x.double().numpy(), compute_uv=False) ** 2
    shares = energies / energies.sum()
    profile = reducer.profiles(1)[site.name]
    assert profile == pytest.approx(shares[:16], rel=0.05)
    assert reducer.values(1)[site.name] == pytest.approx(shares[:8].sum(), rel=0.02)
