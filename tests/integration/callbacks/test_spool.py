"""The spool: what goes in comes out, processes share it, and a corrupt file is replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import sqlite3
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import at
from running import PROCESSES

from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Depth, Spool, SpoolError
from webapp.esms import parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

LIMIT = 1 << 20
PAGE = 4096


def request(number: int = 0, *, query: bytes = b"", body: bytes = b"") -> CallbackRequest:
    return CallbackRequest(
        parameters.new_id(), at(number), "203.0.113.7", "POST", "text/plain", query or b"n=%d" % number, body
    )


def requests(number: int, *, size: int = 0) -> list[CallbackRequest]:
    return [request(place, body=b"x" * size) for place in range(number)]


def contents(spool: Spool) -> list[CallbackRequest]:
    return [found for _, found in spool.oldest(10_000)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "instance"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    spool = Spool(folder, LIMIT)
    yield spool
    spool.close()


# What goes in and out


def test_requests_are_read_back_unchanged_oldest_first(spool: Spool) -> None:
    some = requests(5)
    some[2] = CallbackRequest(
        some[2].id, some[2].received_at, None, "GET", None, b"", b"", "body: ended before it was whole"
    )
    spool.append(some[:2])
    spool.append(some[2:])

    found = spool.oldest(3)

    assert [one for _, one in found] == some[:3]
    assert [one for _, one in spool.oldest(9, after=found[-1][0])] == some[3:]


def test_what_is_removed_is_gone_and_the_rest_stays(spool: Spool) -> None:
    some = requests(5)
    spool.append(some)

    spool.remove([some[0].id, some[3].id, parameters.new_id()])
    spool.remove([])

    assert contents(spool) == [some[1], some[2], some[4]]


def test_the_same_id_again_is_left_as_it_is(spool: Spool) -> None:
    first = request(1)
    spool.append([first])
    spool.append([replace(first, query=b"other"), request(2)])

    assert [found.query for found in contents(spool)] == [b"n=1", b"n=2"]


def test_depth_has_the_number_and_the_age_of_spooled_requests(spool: Spool) -> None:
    spool.append(requests(3, size=10_000))

    depth = spool.depth()

    assert (depth.reports, depth.oldest_at, depth.oldest_seconds(at(90))) == (3, at(0), 90)
    assert depth.oldest_seconds(at(-5)) == 0, "a clock that was put back makes no negative age"
    assert 30_000 < depth.size < 70_000


def test_reading_a_spool_that_was_never_needed_makes_no_file(spool: Spool, folder: Path) -> None:
    assert (spool.depth(), contents(spool)) == (Depth(), [])
    with spool.draining() as mine:
        assert not mine
    assert Depth().oldest_seconds(at(0)) == 0
    assert not folder.exists()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=4))
def test_any_bytes_are_read_back_unchanged(said: list[tuple[bytes, bytes]]) -> None:
    some = [replace(request(number), query=query, body=body) for number, (query, body) in enumerate(said)]
    with TemporaryDirectory(dir="/dev/shm") as name:
        spool = Spool(Path(name), LIMIT)
        spool.append(some)
        assert contents(spool) == some
        spool.close()


# Its files


def test_spool_files_are_readable_for_their_user_alone(spool: Spool, folder: Path) -> None:
    before = os.umask(0)
    try:
        spool.append(requests(2))
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir() if file.stat().st_size}
    finally:
        os.umask(before)

    assert modes == {"spool.db": 0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_drained_spool_is_removed_unless_a_request_arrived_meanwhile(spool: Spool, folder: Path) -> None:
    some = requests(3)
    spool.append(some)
    spool.delete_if_drained(some[1].id)
    assert contents(spool) == some

    spool.delete_if_drained(some[2].id)
    assert not (folder / "spool.db").exists()
    spool.append(some[:1])
    assert contents(spool) == some[:1]


@pytest.mark.parametrize("step", range(4))
def test_process_with_an_open_spool_that_a_dying_one_removed_begins_a_new_file(
    spool: Spool, folder: Path, step: int
) -> None:
    first, second = requests(2)
    spool.append([first])

    process = PROCESSES.Process(target=drop_and_die, args=(folder, first, step))
    process.start()
    process.join()
    spool.append([second])

    assert process.exitcode == (DIED if step < 3 else 0), "there are three steps"
    assert contents(spool) == ([first, second] if step == 0 else [second])
    assert spool.depth().reports == len(contents(spool))


DIED = 9


def drop_and_die(folder: Path, last: CallbackRequest, step: int) -> None:
    """End before that of the steps that change files."""
    steps = count()

    def watch(event: str, _: object) -> None:
        if event in {"os.remove", "os.truncate"} and next(steps) == step:
            os._exit(DIED)

    spool = Spool(folder, LIMIT)
    sys.addaudithook(watch)
    spool.delete_if_drained(last.id)


def test_a_folder_that_is_gone_is_made_again(spool: Spool, folder: Path, tmp_path: Path) -> None:
    spool.append(requests(2))
    folder.rename(tmp_path / "gone")

    assert spool.depth() == Depth()
    some = requests(3)
    spool.append(some)
    assert contents(spool) == some


def uses(spool: Spool) -> list[Callable[[], object]]:
    return [
        lambda: spool.append([request()]),
        lambda: spool.oldest(1),
        lambda: spool.remove([parameters.new_id()]),
        spool.depth,
    ]


def test_file_in_place_of_the_spool_folder_is_an_error_that_names_it(spool: Spool, folder: Path) -> None:
    folder.touch()

    with pytest.raises(SpoolError, match=r"spool\.db: .*instance"):
        spool.append([request()])
    assert spool.depth() == Depth()


def test_folder_in_place_of_the_spool_file_is_an_error_of_every_method(spool: Spool, folder: Path) -> None:
    (folder / "spool.db").mkdir(parents=True)

    for use in uses(spool):
        with pytest.raises(SpoolError, match="unable to open"):
            use()


def test_lock_that_is_not_released_is_an_error_of_every_method(spool: Spool, folder: Path) -> None:
    spool.append([request()])
    (folder / "spool.drain").mkdir()
    with pytest.raises(SpoolError, match=r"spool\.drain"), spool.draining():
        pass
    (folder / "spool.lock").unlink()
    (folder / "spool.lock").mkdir()

    for use in uses(spool)[:-1]:
        with pytest.raises(SpoolError, match=r"spool\.lock"):
            use()
    assert spool.depth().reports == 1, "that needs none"


@pytest.mark.parametrize("why", ["may not be entered", "has a name that is too long", "is a link to itself"])
def test_unreadable_spool_folder_is_an_error_of_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    folder = tmp_path / ("x" * 300 if "long" in why else "instance")
    if why == "is a link to itself":
        folder.symlink_to(folder)
    if why == "may not be entered":  # made up, for root enters everything
        monkeypatch.setattr(Path, "stat", not_allowed)
    spool = Spool(folder, LIMIT)

    others: list[Callable[[], object]] = [
        lambda: spool.delete_if_drained(parameters.new_id()),
        lambda: ExitStack().enter_context(spool.draining()),
    ]
    for use in uses(spool) + others:
        with pytest.raises(SpoolError, match=r"spool\.db: "):
            use()


def not_allowed(path: Path, **_: object) -> os.stat_result:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


# Its limit


def fill(spool: Spool) -> list[CallbackRequest]:
    taken: list[CallbackRequest] = []
    try:
        while len(taken) < 1000:
            one = request(len(taken), body=b"x" * 3000)
            spool.append([one])
            taken.append(one)
    except SpoolError as error:
        assert "has reached SPOOL_LIMIT (1 MiB)" in str(error)  # noqa: PT017 - it comes after an unknown number
    return taken


def test_a_spool_is_full_by_the_pages_in_use_and_accepts_again_once_it_is_drained(spool: Spool, folder: Path) -> None:
    taken = fill(spool)
    assert LIMIT * 0.9 < spool.depth().size <= LIMIT
    assert contents(spool) == taken
    size = (folder / "spool.db").stat().st_size

    spool.remove(one.id for one in taken)

    assert (folder / "spool.db").stat().st_size == size
    assert spool.depth().size < LIMIT * 0.1
    assert len(fill(spool)) == len(taken)


def test_requests_that_do_not_fit_together_are_refused_together(spool: Spool) -> None:
    with pytest.raises(SpoolError, match="SPOOL_LIMIT"):
        spool.append(requests(20, size=60_000))
    assert contents(spool) == []


# Many at once


def append_many(folder: Path, name: int) -> None:
    spool = Spool(folder, LIMIT)
    for number in range(20):
        spool.append([request(query=b"%d %d" % (name, number))])


def test_several_processes_share_a_spool_and_nothing_is_lost(spool: Spool, folder: Path) -> None:
    processes = [PROCESSES.Process(target=append_many, args=(folder, name)) for name in range(3)]
    for process in processes:
        process.start()
    seen: dict[bytes, int] = {}
    while any(process.is_alive() for process in processes) or spool.depth().reports:
        for _, one in spool.oldest(7):
            seen[one.query] = seen.get(one.query, 0) + 1
            spool.remove([one.id])

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert seen == {b"%d %d" % (name, number): 1 for name in range(3) for number in range(20)}


def rewrite_for_ever(folder: Path) -> None:
    spool = Spool(folder, LIMIT)
    while True:
        some = requests(40, size=9000)
        spool.append(some)
        spool.remove([one.id for one in some])


def test_depth_is_of_one_moment_while_other_processes_write(spool: Spool, folder: Path) -> None:
    spool.append(requests(5))
    process = PROCESSES.Process(target=rewrite_for_ever, args=(folder,))
    process.start()
    seen: set[int] = set()
    until = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < until:
        seen |= {spool.depth().reports for _ in range(50)}
    process.kill()
    process.join()

    assert seen == {5, 45}


def test_threads_use_the_spool_one_after_the_other(spool: Spool) -> None:
    some = requests(40)
    threads = [threading.Thread(target=spool.append, args=(some[place::4],)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert {one.id for one in contents(spool)} == {one.id for one in some}


def hold(folder: Path, held: Connection) -> None:
    """Hold all locks, in the middle of a transaction, until the process is killed."""
    with (folder / "spool.lock").open("ab") as lock, (folder / "spool.drain").open("ab") as drain:
        for file in (lock, drain):
            fcntl.flock(file, fcntl.LOCK_EX)
        with closing(sqlite3.connect(folder / "spool.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            other.execute("DELETE FROM arrivals")
            held.send(None)
            held.poll(60)


def test_killed_process_releases_the_spool_locks(spool: Spool, folder: Path) -> None:
    some = requests(2)
    spool.append(some[:1])
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(folder, there))
    process.start()
    here.recv()
    waiting = threading.Thread(target=spool.append, args=(some[1:],))
    waiting.start()
    with spool.draining() as mine:
        assert not mine
    waiting.join(0.3)
    assert waiting.is_alive()

    process.kill()
    process.join()
    waiting.join(10)

    assert contents(spool) == some
    with spool.draining() as mine:
        assert mine


def test_stopped_process_with_the_locks_delays_others_only_briefly(
    spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.callbacks.spool._SPOOL_LOCK_SECONDS", 0.4)
    spool.append(requests(3))
    before = spool.depth()
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(folder, there))
    process.start()
    here.recv()
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert spool.depth() == before, "the depth is known all the same"
        for use in uses(spool)[:-1]:
            with pytest.raises(
                SpoolError, match=r"kept \S+/spool\.lock locked for 0\.4 s\. If it was stopped, .*kill -CONT"
            ):
                use()
        with spool.draining() as mine:
            assert not mine
        assert time.monotonic() - began < 60
    finally:
        process.kill()
        process.join()

    assert spool.depth().reports == len(contents(spool)) == 3


def test_only_one_drains_at_a_time(spool: Spool, folder: Path) -> None:
    spool.append([request()])
    other = Spool(folder, LIMIT)
    with spool.draining() as mine, other.draining() as theirs:
        assert (mine, theirs) == (True, False)
        other.append([request()])
    with other.draining() as theirs:
        assert theirs
    other.close()


# A file that is damaged


def overwrite(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * length)


@pytest.mark.parametrize("where", ["header", "root", "middle", "whole"])
def test_a_corrupt_file_is_set_aside_and_the_rows_that_sqlite_reads_are_kept(
    spool: Spool, folder: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    some = requests(60, size=1500)
    spool.append(some)
    spool.close()
    file = folder / "spool.db"
    content = file.read_bytes()
    pages = [place for place in range(0, len(content), PAGE) if b"n=30" in content[place : place + PAGE]]
    damages = {
        "header": [(0, 100)],
        "root": [(0, 2 * PAGE)],
        "middle": [(page, PAGE) for page in pages],
        "whole": [(0, len(content))],
    }
    for start, length in damages[where]:
        overwrite(file, start, length)
    damaged = file.read_bytes()

    late = request(99)
    spool.append([late])
    found = contents(spool)

    assert found == [one for one in [*some, late] if one in found], "in their order, none twice"
    assert late in found
    least, most = {"header": (1, 1), "root": (1, 1), "middle": (50, 60), "whole": (1, 1)}[where]
    assert least <= len(found) <= most
    assert spool.depth().reports == len(found)
    (aside,) = folder.glob("spool-corrupt-*.db")
    for start, length in damages[where]:
        assert aside.read_bytes()[start : start + length] == damaged[start : start + length]
    assert "THE SPOOL IS CORRUPT" in caplog.text
    if where == "middle":
        overwritten = b"".join(content[start : start + length] for start, length in damages[where])
        assert [one for one in some if one not in found] == [one for one in some if str(one.id).encode() in overwritten]


@pytest.mark.parametrize(
    "damage",
    [
        "id = 'no id'",
        "received_at = 'no time'",
        "remote_addr = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_row_that_makes_no_sense_costs_only_itself(spool: Spool, folder: Path, damage: str) -> None:
    some = requests(5)
    spool.append(some)
    with closing(sqlite3.connect(folder / "spool.db")) as other, other:
        other.execute(f"UPDATE arrivals SET {damage} WHERE position = 1")  # noqa: S608 - of our own

    assert spool.depth().reports in {4, 5}
    assert contents(spool) == some[1:]
    assert spool.depth().oldest_at == at(1)
    assert len(list(folder.glob("spool-corrupt-*.db"))) == 1


def test_a_row_whose_position_was_overwritten_ends_the_reading_from_that_side(spool: Spool, folder: Path) -> None:
    some = requests(60, size=1500)
    spool.append(some)
    spool.close()
    file = folder / "spool.db"
    content = file.read_bytes()
    early, late = (
        next(place for place in range(0, len(content), PAGE) if some[number].query in content[place : place + PAGE])
        for number in (20, 40)
    )
    first_cell = early + int.from_bytes(content[early + 8 : early + 10])
    assert content[first_cell + 2] in range(19, 22), "its position, behind two bytes that say how long it is"
    with file.open("r+b") as damaged:
        damaged.seek(first_cell + 2)
        damaged.write(b"\x01")
    overwrite(file, late, PAGE)

    assert contents(spool)[:18] == some[:18]
    assert len(list(folder.glob("spool-corrupt-*.db"))) == 1


def test_a_corrupt_file_stays_until_what_can_be_read_of_it_can_be_written(spool: Spool, folder: Path) -> None:
    spool.append(requests(60, size=1500))
    spool.close()
    file = folder / "spool.db"
    content = file.read_bytes()
    for place in range(0, len(content), PAGE):
        if b"n=30" in content[place : place + PAGE]:
            overwrite(file, place, PAGE)
    damaged = file.read_bytes()

    with no_file_beyond(16 * PAGE), pytest.raises(SpoolError, match=r"spool\.db"):
        contents(spool)
    assert file.read_bytes() == damaged
    assert list(folder.glob("spool-corrupt-*.db")) == []

    assert len(contents(spool)) >= 50
    assert len(list(folder.glob("spool-corrupt-*.db"))) == 1


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a full disk: no file of this process may grow beyond that."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_an_empty_file_is_an_empty_spool(spool: Spool, folder: Path) -> None:
    folder.mkdir()
    (folder / "spool.db").touch()

    assert spool.depth().reports == 0
    spool.append([one := request()])
    assert contents(spool) == [one]


def append_when_told(folder: Path, line: Connection) -> None:
    """With one connection all the time."""
    spool = Spool(folder, LIMIT)
    with suppress(EOFError):
        while one := line.recv():
            spool.append([one])
            line.send(None)


def test_a_process_that_has_the_file_open_notices_that_it_was_set_aside(spool: Spool, folder: Path) -> None:
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=append_when_told, args=(folder, there))
    process.start()
    some = requests(4)

    def theirs(one: CallbackRequest) -> None:
        here.send(one)
        assert here.poll(30)
        here.recv()

    theirs(some[0])
    spool.append(some[1:2])
    overwrite(folder / "spool.db", 0, 100)
    assert contents(spool) == []
    theirs(some[2])
    spool.append(some[3:])
    here.send(None)
    process.join(30)

    assert contents(spool) == some[2:]
    assert len(list(folder.glob("spool-corrupt-*.db"))) == 1
