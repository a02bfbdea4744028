"""Many at once: threads, connections and processes that write the same calls lose nothing and double nothing."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from makers import NOW, answer, at, by_reports, callback, fold_of, lookup, stored_call, stored_reports
from running import PROCESSES
from servers import fresh_database
from sqlalchemy import text

from webapp.calls import rule
from webapp.calls.rule import Registration
from webapp.storage.claims import Due, claim, release
from webapp.storage.database import Database
from webapp.storage.filters import CallFilter
from webapp.storage.reader import Reader
from webapp.storage.writer import Registered, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from webapp.calls.report import StatusReport

PATIENCE = timedelta(seconds=60)
SECONDS = 120
"""After this long a test is stuck."""


@contextmanager
def others(database: Database, number: int, patience: timedelta = PATIENCE) -> Iterator[list[Database]]:
    """Other Databases of the same database, as other processes have them."""
    url = database.url.render_as_string(hide_password=False)
    found = [Database(url, patience=patience) for _ in range(number)]
    try:
        yield found
    finally:
        for one in found:
            one.close()


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Do all of the jobs in threads that start at the same moment; what each gave, or the first failure."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        start.wait(SECONDS)
        return job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        return [future.result(SECONDS) for future in [threads.submit(run, job) for job in jobs]]


def many_reports(names: str, each: int) -> list[StatusReport]:
    """Reports of all kinds, of few moments, that say different things."""
    chance = random.Random(each)  # noqa: S311 - no secret
    words: list[dict[str, Any]] = [
        {"send_status": 7, "ivr": "9"},
        {"call_status": "ANSWERED", "call_duration": 3},
        {"call_status": "BUSY"},
        {"call_status": "ANSWERED", "ivr": "1"},
        {"cid": "842"},
    ]
    return [
        chance.choice([callback, callback, lookup])(name, chance.randrange(each), **chance.choice(words))
        for name in names
        for _ in range(each)
    ]


def write_shuffled(database: Database, reports: list[StatusReport], seed: int) -> None:
    """Write all of the reports, some of them twice, in an order and in batches of one's own."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    mine = reports + chance.sample(reports, len(reports) // 4)
    chance.shuffle(mine)
    writer = Writer(database)
    while mine:
        size = chance.randint(1, 6)
        batch, mine = mine[:size], mine[size:]
        if seed % 3 == 0:
            answers = [answer(report) for report in batch if report.source == "lookup"]
            writer.conclude(answers, NOW, give_up=timedelta(hours=72))
            batch = [report for report in batch if report.source == "callback"]
        writer.record(batch, NOW)


def assert_every_report_counts_once(database: Database, reports: list[StatusReport]) -> None:
    for name in {report.reference_id for report in reports}:
        mine = [report for report in reports if report.reference_id == name]
        call = stored_call(database, name)
        assert call.report_count == len(mine)
        assert by_reports(call) == by_reports(rule.fold_all(call, mine))
        assert stored_reports(database, name) == sorted(mine, key=lambda report: report.order)


@pytest.mark.parametrize(("names", "each"), [("a", 40), ("abcdefgh", 6)], ids=["one call", "several calls"])
def test_threads_that_write_the_same_reports_in_their_own_order_end_in_their_fold(
    database: Database, names: str, each: int
) -> None:
    reports = many_reports(names, each)
    with others(database, 3) as found:
        at_once(*[partial(write_shuffled, one, reports, seed) for seed, one in enumerate([*found, *found])])

    assert_every_report_counts_once(database, reports)


def write_in_a_process(url: str, reports: list[StatusReport], seed: int, start: Barrier) -> None:
    database = Database(url, patience=PATIENCE)
    start.wait(SECONDS)
    write_shuffled(database, reports, seed)
    database.close()


def migrate_in_a_process(urls: list[str], start: Barrier) -> None:
    for url in urls:
        start.wait(SECONDS)
        database = Database(url, patience=PATIENCE)
        database.migrate()
        database.check()
        database.close()


def run_in_processes(work: Callable[..., None], *arguments: tuple[Any, ...]) -> None:
    """Do the work in as many processes, which must all succeed; the last argument is a barrier for all."""
    start = PROCESSES.Barrier(len(arguments))
    processes = [PROCESSES.Process(target=work, args=(*its, start)) for its in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_processes_that_write_the_same_reports_in_their_own_order_end_in_their_fold(database: Database) -> None:
    reports = many_reports("abc", 20)
    url = database.url.render_as_string(hide_password=False)

    run_in_processes(write_in_a_process, *[(url, reports, seed) for seed in range(3)])

    assert_every_report_counts_once(database, reports)


def test_receivers_whose_clocks_differ_agree_on_one_order(database: Database) -> None:
    behind = [callback("a", second - 3600, call_status="BUSY", cid=f"behind-{second}") for second in range(10)]
    ahead = [callback("a", second + 3600, call_status="ANSWERED", cid=f"ahead-{second}") for second in range(10)]

    def receive(one: Database, reports: list[StatusReport]) -> None:
        for report in reports:
            Writer(one).record([report], report.received_at)

    with others(database, 2) as found:
        at_once(partial(receive, found[0], behind), partial(receive, found[1], ahead))

    call = stored_call(database, "a")
    assert by_reports(call) == fold_of(behind + ahead)
    assert (call.cid, call.settled_at, call.last_reported_at) == ("ahead-0", at(-3600), at(3609))
    assert call.conflict


def test_a_registration_and_a_callback_of_one_moment_both_count(database: Database) -> None:
    with others(database, 2) as found:
        first, second = Writer(found[0]), Writer(found[1])
        for number in range(40):
            name = f"call-{number}"
            words = [Registration(reference_id=name, phone="mine", campaign="tet")]
            reports = [callback(name, 5, call_status="BUSY", phone="theirs")]

            counted, effects = at_once(partial(first.register, words, at(6)), partial(second.record, reports, at(7)))

            assert (counted, effects) == (Registered(1, 0, 0), ["settled"])
            call = stored_call(database, name)
            assert (call.phone, call.campaign, call.registered_at) == ("mine", "tet", at(6))
            assert (call.call_status, call.report_count, call.placed_at) == ("BUSY", 1, at(5))


def test_a_callback_and_a_look_up_of_one_moment_both_count(database: Database) -> None:
    with others(database, 2) as found:
        first, second = Writer(found[0]), Writer(found[1])
        for number in range(40):
            name = f"call-{number}"
            came, asked = callback(name, 5, call_status="BUSY"), lookup(name, 4, call_status="ANSWERED")

            at_once(
                partial(first.record, [came], at(7)),
                partial(second.conclude, [answer(asked)], at(7), give_up=timedelta(hours=72)),
            )

            call = stored_call(database, name)
            assert by_reports(call) == fold_of([came, asked])
            assert (call.lookup_count, call.conflict, call.next_lookup_at) == (1, True, at(7 + 300))


def test_the_same_report_written_by_many_at_the_same_moment_is_stored_once(database: Database) -> None:
    with others(database, 4) as found:
        for number in range(15):
            report = callback(f"call-{number}", 5, call_status="BUSY")

            effects = at_once(*[partial(Writer(one).record, [report], NOW) for one in found])

            assert effects == [["settled"]] * 4
            assert stored_call(database, report.reference_id).report_count == 1
            assert stored_reports(database, report.reference_id) == [report]


def test_calls_registered_by_many_at_the_same_moment_are_counted_once(database: Database) -> None:
    words = [Registration(reference_id=f"call-{number}") for number in range(300)]
    with others(database, 4) as found:
        orders = [words, words[::-1], words[100:] + words[:100], words[200:] + words[:200]]
        counts = at_once(*[partial(Writer(one).register, mine, NOW) for one, mine in zip(found, orders, strict=True)])

    assert sum(count.new for count in counts) == 300
    assert sum(count.already_known for count in counts) == 900


def test_no_two_claimers_get_the_same_call_and_none_is_left_behind(database: Database) -> None:
    names = {f"call-{number}" for number in range(120)}
    due = Due(placed_until=at(600), due_until=at(600))
    Writer(database).register([Registration(reference_id=name, placed_at=at(0)) for name in names], NOW)

    def claim_some(one: Database) -> list[str]:
        return [call.reference_id for _ in range(8) for call in claim(one, due, 5, now=at(600), until=at(700))]

    with others(database, 4) as found:
        shares = at_once(*[partial(claim_some, one) for one in found])

    left = claim(database, due, 1000, now=at(600), until=at(700))
    claimed = [*(name for share in shares for name in share), *(call.reference_id for call in left)]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == names


def test_claiming_and_releasing_while_callbacks_come_locks_no_one_out(database: Database) -> None:
    names = [f"call-{number}" for number in range(30)]
    due = Due(placed_until=at(600), due_until=at(600))
    Writer(database).register([Registration(reference_id=name, placed_at=at(0)) for name in names], NOW)
    reports = [callback(name, second, send_status=7) for name in names for second in range(8)]

    def claim_and_release(one: Database) -> None:
        for _ in range(30):
            claimed = claim(one, due, 20, now=at(600), until=at(700))
            names_backwards = sorted((call.reference_id for call in claimed), reverse=True)
            release(one, dict.fromkeys(names_backwards, at(700)))

    with others(database, 4) as found:
        at_once(
            partial(write_shuffled, found[0], reports, 1),
            partial(write_shuffled, found[1], reports, 2),
            partial(claim_and_release, found[2]),
            partial(claim_and_release, found[3]),
        )

    assert_every_report_counts_once(database, reports)
    assert len(claim(database, due, 100, now=at(600), until=at(700))) == 30


def test_a_call_is_folded_anew_while_reports_of_it_come(database: Database) -> None:
    reports = many_reports("ab", 30)

    def fold_anew(one: Database) -> None:
        for _ in range(20):
            Writer(one).refold(["b", "a"], NOW, check_only=False)

    with others(database, 3) as found:
        at_once(
            partial(write_shuffled, found[0], reports, 1),
            partial(write_shuffled, found[1], reports, 2),
            partial(fold_anew, found[2]),
        )

    assert_every_report_counts_once(database, reports)


# Readers and writers


def test_readers_are_not_blocked_by_a_writer_in_its_transaction(database: Database) -> None:
    Writer(database).record([callback("a", 1, call_status="BUSY")], NOW)

    def meanwhile(connection: Connection) -> None:
        connection.execute(text("UPDATE calls SET call_status = 'LATER'"))
        # Were the reader blocked, it would never come to its end: this transaction ends after it.
        with others(database, 1, patience=timedelta(seconds=5)) as (one,):
            page, _ = Reader(one).page(CallFilter(), None, 10)
            assert [call["call_status"] for call in page] == ["BUSY"]

    with database.transaction() as connection:
        meanwhile(connection)
    assert stored_call(database, "a").call_status == "LATER"


def test_a_writer_is_not_blocked_by_a_reader_in_its_transaction(database: Database) -> None:
    writer = Writer(database)
    writer.record([callback("a", 1, call_status="BUSY")], NOW)

    with database.snapshot(limited=False) as connection:
        before = connection.execute(text("SELECT call_status, report_count FROM calls")).all()
        writer.record([callback("a", 2, call_status="ANSWERED")], NOW)
        assert connection.execute(text("SELECT call_status, report_count FROM calls")).all() == before

    assert stored_call(database, "a").report_count == 2


# Migrations


def test_processes_that_migrate_at_the_same_moment_do_one_after_the_other(tmp_path: Path, postgresql: str) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}/calls.db" for number in range(4)]
    with fresh_database(postgresql) as one, fresh_database(postgresql) as two:
        urls += [one, two]
        run_in_processes(migrate_in_a_process, *[(urls,)] * 3)

        for url in urls:
            database = Database(url)
            database.check()
            database.close()


def test_a_thousand_calls_are_registered_while_their_callbacks_come(database: Database) -> None:
    names = [f"call-{number:04}" for number in range(1000)]
    with others(database, 3) as three:
        registered, *_ = at_once(
            lambda: Writer(three[0]).register(
                [Registration(reference_id=name, campaign="june") for name in names], NOW
            ),
            *(partial(_record_each, Writer(other), names[place::2]) for place, other in enumerate(three[1:])),
        )

    assert registered.new + registered.already_known == 1000
    assert Reader(database).count(CallFilter(campaign="june")) == 1000
    assert stored_call(database, names[0]).report_count == stored_call(database, names[-1]).report_count == 1


def _record_each(writer: Writer, names: list[str]) -> None:
    for start in range(0, len(names), 5):
        writer.record([callback(name, call_status="BUSY") for name in names[start : start + 5]], NOW)
