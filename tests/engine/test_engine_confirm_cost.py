"""What the confirmation has paid for stays, however little of the limit is left."""

from __future__ import annotations

import pytest
from toys.engine import Plan, is_baseline, method_of, run

from autopeft.records import Fidelity


def close_behind(plan: Plan, fidelity: Fidelity) -> float:
    """IA3, which is small, is a hundredth behind the baselines, which lead."""
    return {"lora": 0.8, "ia3": 0.79, "head": 0.75}[method_of(plan)] + 0.005 * is_baseline(plan)


@pytest.mark.parametrize("tenths", range(40, 90, 2))
def test_every_confirming_run_counts(tenths):
    outcome = run(close_behind, trials=9, max_cost=tenths / 10).outcome
    ran = {m.plan for m in outcome.measurements if m.fidelity.split == "confirm"}
    assert ran and ran == {confirmation.plan for confirmation in outcome.confirmations}
