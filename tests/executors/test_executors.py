"""The contract of an executor: result, exception and order come back."""

from __future__ import annotations

import pytest

from autopeft.extension import Executor, discover

EXECUTORS = discover("autopeft.executors")


@pytest.fixture(params=EXECUTORS)
def executor(request):
    """Each discovered executor, shut down afterwards."""
    yield EXECUTORS[request.param]
    EXECUTORS[request.param].shutdown()


def test_part_meets_the_protocol(executor):
    assert isinstance(executor, Executor)


def test_result_comes_back(executor):
    assert executor.submit(pow, 2, 10).result(timeout=60) == 1024


def test_exception_comes_out_of_its_own_future_alone(executor):
    bad, good = executor.submit(int, "seven"), executor.submit(int, "7")
    with pytest.raises(ValueError, match="'seven'"):
        bad.result(timeout=60)
    assert good.result(timeout=60) == 7


def test_results_are_in_the_order_of_the_submits(executor):
    futures = [executor.submit(int, str(i)) for i in range(8)]
    assert [future.result(timeout=60) for future in futures] == list(range(8))


def test_serial_has_finished_when_submit_returns():
    seen = []
    future = EXECUTORS["serial"].submit(seen.append, 1)
    assert future.done()
    assert seen == [1]


def test_serial_lets_a_keyboard_interrupt_through():
    def interrupted():
        raise KeyboardInterrupt("ctrl-c")

    with pytest.raises(KeyboardInterrupt, match="ctrl-c"):
        EXECUTORS["serial"].submit(interrupted)
