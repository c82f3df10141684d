"""Workers behind a PostgreSQL database: who gets a call, what is repeated, who leaves, what is not shown."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from toys.postgresql import PASSWORD, binaries, ended, running_server, running_workers
from toys.processes import descendants
from toys.serving import HANGS, SERVING, Answering, Dying, DyingOnce, Refusing, Waiting

from autopeft.errors import DatabaseError, SpecError, TrainingError, WorkerLostError
from autopeft.executors.parts import Database, database_url
from autopeft.executors.parts.serving import _Search, _Worker
from autopeft.executors.postgresql import postgresql_pool
from autopeft.records import VERSION

pytestmark = pytest.mark.skipif(binaries() is None, reason="needs PostgreSQL's programs")

LEASE_SECONDS = 3.0


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def pool(server, monkeypatch):
    """The executor with a short lease, shut down afterwards."""
    monkeypatch.setenv("DATABASE_URL", server.url)
    made = postgresql_pool(LEASE_SECONDS)
    yield made
    made.shutdown()


def rows_in(server):
    """The number of rows in each table."""
    database = Database(server.url)
    tables = ("autopeft_search", "autopeft_worker", "autopeft_call")
    counts = [database.run(f"SELECT count(*) FROM {table}")[0][0] for table in tables]
    database.close()
    return counts


def in_time(condition, *, seconds=60.0):
    """Whether a condition comes true within a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_workers_share_the_calls_keep_what_they_made_and_leave_at_the_end(pool, server):
    with running_workers(2, server.url, command=SERVING) as workers:
        answer = pool.start(Answering(), local=None, n_workers=2)
        answers = [future.result(timeout=HANGS) for future in [pool.submit(answer, i) for i in range(12)]]
        assert [value for _, value in answers] == list(range(12))
        assert len({process for process, _ in answers}) <= 2
        assert {process for process, _ in answers} <= {
            child for worker in workers for child in descendants(worker.pid)
        }
        pool.shutdown()
        assert ended(workers)
        assert [worker.returncode for worker in workers] == [0, 0]
        told = [worker.stdout.read() for worker in workers]
        assert sum(int(text.rpartition("calls:")[2]) for text in told) == 12
    assert rows_in(server) == [0, 0, 0]


def test_an_exception_comes_out_of_its_own_call_alone(pool, server):
    with running_workers(1, server.url, command=SERVING):
        bad, good = pool.submit(int, "seven"), pool.submit(int, "7")
        with pytest.raises(ValueError, match="'seven'"):
            bad.result(timeout=HANGS)
        assert good.result(timeout=HANGS) == 7


def test_a_call_of_what_the_worker_does_not_know_is_refused(pool, server):
    with running_workers(1, server.url, command=SERVING):
        future = pool.submit(os.system, "true")
        with pytest.raises(TrainingError, match="asks for posix:system, which is nothing"):
            future.result(timeout=HANGS)


def test_a_process_that_dies_is_replaced_and_its_call_repeated_once(pool, server, tmp_path):
    with running_workers(2, server.url, command=SERVING):
        work = pool.start(DyingOnce(tmp_path), local=None, n_workers=2)
        futures = [pool.submit(work, name) for name in ("a", "b", "c")]
        assert [future.result(timeout=HANGS) for future in futures] == ["a again", "b again", "c again"]


def test_a_call_at_which_two_processes_die_is_an_error(pool, server):
    with running_workers(1, server.url, command=SERVING):
        work = pool.start(Dying(), local=None, n_workers=1)
        with pytest.raises(WorkerLostError, match="the worker process died, 2 times"):
            pool.submit(work).result(timeout=HANGS)
        with pytest.raises(WorkerLostError):  # the next one runs
            pool.submit(work).result(timeout=HANGS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_the_call_of_a_worker_that_is_gone_goes_to_another(pool, server, tmp_path, number):
    with running_workers(2, server.url, command=SERVING) as workers:
        work = pool.start(Waiting(tmp_path), local=None, n_workers=1)
        future = pool.submit(work, 1)
        assert in_time(lambda: len(list(tmp_path.iterdir())) == 1)
        (first,) = tmp_path.iterdir()
        gone = next(worker for worker in workers if worker.pid == int(first.name))
        gone.send_signal(number)
        assert in_time(lambda: len(list(tmp_path.iterdir())) == 2)
        (tmp_path / "go").touch()
        assert future.result(timeout=HANGS) == 2
        if number == signal.SIGSTOP:  # it wakes up, and sees that its call is no longer its own
            gone.send_signal(signal.SIGCONT)
        else:
            assert gone.wait(60) == (143 if number == signal.SIGTERM else -9)
        pool.shutdown()
        assert ended(workers)


def test_workers_that_cannot_begin_say_why_and_six_of_them_stop_the_search(pool, server, caplog):
    work = pool.start(Refusing(), local=None, n_workers=1)
    future = pool.submit(work)
    for _ in range(6):
        with running_workers(1, server.url, command=SERVING) as workers:
            assert ended(workers)
            assert workers[0].returncode == 2
            assert workers[0].stdout.read().endswith("error: no model here\n")
    with pytest.raises(TrainingError, match=r"The last 6 workers could not begin, one on .+: no model"):
        future.result(timeout=HANGS)
    with pytest.raises(TrainingError):
        pool.submit(work).result(timeout=HANGS)
    assert caplog.text.count("could not begin: no model here") == 6


def test_a_worker_of_another_version_is_refused(pool, server):
    pool.start(Answering(), local=None, n_workers=1)
    database = Database(server.url)
    database.run("UPDATE autopeft_search SET version = '0.0.1'")
    with running_workers(1, server.url, command=SERVING) as workers:
        assert ended(workers)
        sentence = f"error: The search is of autopeft 0.0.1, and this worker of {VERSION}; install the same"
        assert sentence in workers[0].stdout.read()
    database.close()


def test_a_search_and_its_workers_outlive_a_short_stop_of_the_database(pool, server, tmp_path):
    with running_workers(1, server.url, command=SERVING):
        work = pool.start(Waiting(tmp_path), local=None, n_workers=1)
        future = pool.submit(work, 1)
        assert in_time(lambda: len(list(tmp_path.iterdir())) == 1)
        server.stop()
        server.start()
        (tmp_path / "go").touch()
        assert future.result(timeout=HANGS) == 2


def test_a_lost_database_is_one_sentence_for_search_and_worker(pool, server, tmp_path):
    with running_workers(1, server.url, command=SERVING) as workers:
        work = pool.start(Waiting(tmp_path), local=None, n_workers=1)
        future = pool.submit(work, 1)
        assert in_time(lambda: len(list(tmp_path.iterdir())) == 1)
        server.stop()
        try:
            with pytest.raises(DatabaseError, match=r"^The database /tmp/pg-.* was lost: .*\.$") as caught:
                future.result(timeout=HANGS)
            with pytest.raises(DatabaseError):
                pool.submit(work, 1).result(timeout=HANGS)
            assert ended(workers)
            told = workers[0].stdout.read()
            assert "was lost" in told.splitlines()[-1]
            assert "Traceback" not in told
            assert PASSWORD not in f"{caught.value}{told}"
            pool.shutdown()
        finally:
            server.start()
    assert rows_in(server)[0] == 1  # nobody could delete it; the next search does
    time.sleep(2 * LEASE_SECONDS)
    pool.start(Waiting(tmp_path), local=None, n_workers=1)
    assert rows_in(server) == [1, 0, 0]


def test_workers_leave_a_search_that_was_killed(server, tmp_path):
    script = tmp_path / "search.py"
    script.write_text(
        "import os, time\nfrom toys.serving import Answering\n"
        "from autopeft.executors.postgresql import postgresql_pool\n"
        f"pool = postgresql_pool({LEASE_SECONDS})\n"
        "answer = pool.start(Answering(), local=None, n_workers=1)\n"
        "print(pool.submit(answer, 1).result(), flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    with (
        running_workers(1, server.url, command=(sys.executable, str(script))) as searches,
        running_workers(1, server.url, command=SERVING) as workers,
    ):
        assert ended(searches)
        assert ended(workers)
        assert workers[0].returncode == 75
        assert "has not been heard of for 6 s; resume it" in workers[0].stdout.read()


def test_every_call_is_claimed_by_one_worker(server):
    """Eight connections take 200 calls at once."""
    database = Database(server.url)
    database.prepare()
    columns = "(id, version, host, n_workers, lease_seconds)"
    database.run(f"INSERT INTO autopeft_search {columns} VALUES ('s', '1', 'h', 8, 60)")
    numbers = "SELECT n::text, 's', '' FROM generate_series(1, 200) n"
    database.run(f"INSERT INTO autopeft_call (id, search, request) {numbers}")

    def claim_all(_):
        own = Database(server.url)
        worker = _Worker(own, _Search("s", VERSION, "h", None, 60.0), ())
        worker._join()
        claimed = []
        while (call := worker._claim()) is not None:
            claimed.append(call[0])
            own.run("UPDATE autopeft_call SET answer = '1' WHERE id = %s", call[0])
        own.close()
        return claimed

    with ThreadPoolExecutor(8) as threads:
        claimed = [call for calls in threads.map(claim_all, range(8)) for call in calls]
    database.run("DELETE FROM autopeft_search")
    database.close()
    assert sorted(claimed, key=int) == [str(number) for number in range(1, 201)]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "DATABASE_URL is not set"),
        (f"mysql://me:{PASSWORD}@host/name", "does not begin with postgresql://"),
        (f"postgresql://me:{PASSWORD}/x@host/name", "cannot be read; it should be of the form"),
        (f"postgresql://me:{PASSWORD}@x@host/name", "cannot be read; it should be of the form"),
        (f"postgresql://me@host/name?passwort={PASSWORD}", "cannot be read; it should be of the form"),
        (f"postgresql://me:{PASSWORD}@/x?host=/nowhere", "The database /nowhere:5432/x cannot be reached"),
    ],
)
def test_an_address_that_does_not_work_is_told_without_its_password(monkeypatch, url, fault):
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises((SpecError, DatabaseError), match=fault) as caught:
        Database(database_url())
    assert PASSWORD not in str(caught.value)


def test_a_wrong_password_is_told_without_it(server):
    with pytest.raises(DatabaseError, match="password authentication failed") as caught:
        Database(server.url.replace(PASSWORD, "Kopfsalat9"))
    assert "Kopfsalat9" not in str(caught.value)


def test_a_user_without_rights_gets_one_sentence_and_needs_none_to_make_tables_that_exist(server):
    owner = Database(server.url)
    owner.run("CREATE ROLE guest LOGIN PASSWORD 'guest1'; DROP TABLE IF EXISTS autopeft_call")
    guest = Database(server.url.replace(f"me:{PASSWORD}", "guest:guest1"))
    with pytest.raises(DatabaseError, match="refuses: permission denied for schema public"):
        guest.prepare()
    owner.prepare()
    guest.prepare()
    with pytest.raises(DatabaseError, match="refuses: permission denied for table autopeft_call"):
        guest.run("SELECT * FROM autopeft_call")
    owner.run("GRANT ALL ON autopeft_call TO guest")
    assert guest.run("SELECT * FROM autopeft_call") == []
    guest.close()
    owner.close()
