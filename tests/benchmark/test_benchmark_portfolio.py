"""A computed list has the plans that the tables say are best, and its evidence."""

from __future__ import annotations

import portfolio
import yaml
from toys.benchmark import toy_candidates, write_table

BEST = {"ia3/attention": 0.9, "road/all": 0.8}


def test_challengers_join_by_what_they_add_and_an_entry_that_adds_nothing_is_left_out(tmp_path):
    def truth(candidate, split, steps, seed):
        share = BEST.get(candidate.arm, 0.5) - 0.2 * abs(candidate.position - 0.62)
        return 2 - share, share

    cell = portfolio.Cell(write_table(tmp_path / "toy", truth, toy_candidates()))
    entries = portfolio.portfolio([cell], cell.today)
    challengers = [(e.method, e.placement, e.rate) for e in entries if not e.baseline]
    assert challengers == [("ia3", "attention", 0.62)], "RoAd is worse in the only cell"
    written = yaml.safe_load(portfolio.as_yaml("classification", [cell], entries))["classification"]
    assert written[-1]["evidence"] == "mean regret 0.00 with it, 45.00 without it", "the baselines have 45 %"
