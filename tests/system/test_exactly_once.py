"""Each report is stored exactly once: shown by ending the process between each two steps, and by the order of syncs.

A crash leaves the page cache as it is, so it says nothing of what would be on the disk without power: that no answer
leaves before the sync of the file that holds its report has returned is read from a trace of the system calls.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from ledger import TOKEN
from makers import by_reports, stored_call, stored_reports
from outages import sqlite_locked
from running import COMMAND, PROCESSES, free_port
from sqlalchemy import make_url, text
from until import until

from webapp.callbacks.ingest import Ingest
from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import Spool
from webapp.callbacks.store import Accepted, CallbackStore, NotAccepted, OtherChannel
from webapp.calls import rule
from webapp.esms import parameters
from webapp.storage.database import Database
from webapp.storage.locked_calls import LockedCalls
from webapp.storage.rejected import RejectedCallbacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CRASHED = 9
LIMIT = 1 << 20
SEAMS: dict[str, tuple[type, str]] = {
    "spool append": (Spool, "append"),
    "spool read": (Spool, "oldest"),
    "transaction": (CallbackStore, "_store_together"),
    "writing, not committed": (LockedCalls, "write"),
    "rejection": (RejectedCallbacks, "keep"),
    "spool remove": (Spool, "remove"),
}


def arrival(query: str) -> CallbackRequest:
    """A callback as it comes in now."""
    return CallbackRequest(parameters.new_id(), datetime.now(UTC), "203.0.113.7", "GET", None, query.encode(), b"")


def some_arrivals() -> list[CallbackRequest]:
    """Two reports of one call, one of another, and one that nobody can read."""
    said = ("ReferenceId=a&SendStatus=7", "ReferenceId=b&SendStatus=5", "SendStatus=5", "ReferenceId=a&CallStatus=BUSY")
    return [arrival(words) for words in said]


def drain(ingest: Ingest) -> None:
    """Drain the spool once."""
    assert ingest.drain
    for _ in ingest.drain.run():
        pass


@contextmanager
def receiving(url: str, folder: Path, answer_within: timedelta = timedelta(seconds=5)) -> Iterator[Ingest]:
    """An intake as a receiver has it, with the spool in that folder."""
    database = Database(url, patience=timedelta(seconds=3))
    ingest = Ingest(database, Spool(folder, LIMIT), answer_within)
    try:
        yield ingest
    finally:
        ingest.close()


def plant(seam: str, moment: str, act: Callable[[], Any]) -> None:
    """Have something happen before or after a step, in this process, once."""
    owner, name = SEAMS[seam]
    real, acted = getattr(owner, name), threading.Event()

    @wraps(real)
    def step(*arguments: Any, **named: Any) -> Any:
        if moment == "before" and not acted.is_set():
            acted.set()
            act()
        result = real(*arguments, **named)
        if moment == "after" and not acted.is_set():
            acted.set()
            act()
        return result

    setattr(owner, name, step)


def crash() -> None:
    """End at once, as by kill -9: nothing is flushed, closed or rolled back."""
    os._exit(CRASHED)


def take_and_crash(url: str, folder: Path, what: CallbackRequest, seam: str, moment: str) -> None:
    plant(seam, moment, crash)
    with receiving(url, folder) as ingest:
        ingest.receive(what)


def drain_and_crash(url: str, folder: Path, seam: str, moment: str) -> None:
    plant(seam, moment, crash)
    with receiving(url, folder) as ingest:
        drain(ingest)


def in_a_process_of_its_own(work: Callable[..., None], *arguments: Any) -> int | None:
    """Its exit code."""
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def assert_stored_once(database: Database, arrivals: list[CallbackRequest]) -> None:
    """Each is in history or among the rejected, once, and every call is the fold of its history."""
    with database.snapshot(limited=False) as connection:
        stored = [str(name) for name in connection.scalars(text("SELECT id FROM status_reports"))]
        rejected = connection.execute(text("SELECT id, count FROM rejected_callbacks")).all()
        names = list(connection.scalars(text("SELECT reference_id FROM calls")))
    assert sorted(stored + [str(name) for name, _ in rejected]) == sorted(str(one.id) for one in arrivals)
    assert [count for _, count in rejected] == [1] * len(rejected)
    for name in names:
        call, reports = stored_call(database, name), stored_reports(database, name)
        assert by_reports(call) == by_reports(rule.fold_all(call, reports))
        assert call.report_count == len(reports)


# Crashes


@pytest.mark.parametrize(
    ("seam", "moment", "stored"),
    [("spool append", "before", False), ("spool append", "after", True)],
)
def test_a_receiver_that_dies_around_the_append_has_in_its_spool_what_it_may_have_answered(
    database: Database, tmp_path: Path, seam: str, moment: str, *, stored: bool
) -> None:
    what = arrival("ReferenceId=a&SendStatus=5")

    away = f"sqlite:///{tmp_path / 'nowhere' / 'calls.db'}"
    assert in_a_process_of_its_own(take_and_crash, away, tmp_path, what, seam, moment) == CRASHED
    with receiving(url_of(database), tmp_path) as ingest:
        drain(ingest)

    assert_stored_once(database, [what] if stored else [])


@pytest.mark.parametrize(
    ("seam", "moment", "stored"),
    [
        ("transaction", "before", False),
        ("writing, not committed", "after", False),
        ("transaction", "after", True),
    ],
)
def test_a_receiver_that_dies_around_the_commit_has_stored_all_or_nothing(
    database: Database, tmp_path: Path, seam: str, moment: str, *, stored: bool
) -> None:
    what = arrival("ReferenceId=a&SendStatus=5")

    assert in_a_process_of_its_own(take_and_crash, url_of(database), tmp_path, what, seam, moment) == CRASHED
    with receiving(url_of(database), tmp_path) as ingest:
        drain(ingest)

    assert_stored_once(database, [what] if stored else [])


@pytest.mark.parametrize(
    ("seam", "moment"),
    [
        ("spool read", "before"),
        ("spool read", "after"),
        ("transaction", "before"),
        ("writing, not committed", "after"),
        ("transaction", "after"),
        ("rejection", "before"),
        ("rejection", "after"),
        ("spool remove", "before"),
        ("spool remove", "after"),
    ],
)
def test_a_drain_that_dies_between_two_steps_is_done_again_and_stores_each_once(
    database: Database, tmp_path: Path, seam: str, moment: str
) -> None:
    spool, arrivals = Spool(tmp_path, LIMIT), some_arrivals()
    spool.append(arrivals)

    assert in_a_process_of_its_own(drain_and_crash, url_of(database), tmp_path, seam, moment) == CRASHED
    with receiving(url_of(database), tmp_path) as ingest:
        drain(ingest)

    assert_stored_once(database, arrivals)
    assert spool.depth().reports == 0
    spool.close()


@pytest.mark.parametrize("place", range(5))
def test_report_that_the_database_refuses_is_found_in_its_batch_and_the_others_are_stored(
    database: Database, tmp_path: Path, place: int
) -> None:
    poison = {
        True: "CREATE TRIGGER no_poison BEFORE INSERT ON status_reports WHEN new.reference_id = 'poison' "
        "BEGIN SELECT RAISE(ABORT, 'poison'); END",
        False: "ALTER TABLE status_reports ADD CONSTRAINT no_poison CHECK (reference_id <> 'poison')",
    }[database.is_sqlite]
    with database.transaction() as connection:
        connection.execute(text(poison))
    arrivals = [arrival(f"ReferenceId={'poison' if number == place else 'a'}&Ivr={number}") for number in range(5)]
    spool = Spool(tmp_path, LIMIT)
    spool.append(arrivals)

    with receiving(url_of(database), tmp_path) as ingest:
        drain(ingest)

    with database.snapshot(limited=False) as connection:
        kept = [str(name) for name in connection.scalars(text("SELECT id FROM rejected_callbacks"))]
    assert kept == [str(arrivals[place].id)]
    assert_stored_once(database, arrivals)
    spool.close()


# What is in doubt


@pytest.mark.parametrize("query", ["ReferenceId=a&SendStatus=5", "SendStatus=5"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_report_spooled_because_of_a_slow_commit_is_stored_once_though_that_commit_succeeds(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, query: str
) -> None:
    seam = "transaction" if "ReferenceId" in query else "rejection"
    owner, name = SEAMS[seam]
    monkeypatch.setattr(owner, name, getattr(owner, name))  # puts it back in the end
    goes_on = threading.Event()
    plant(seam, moment, lambda: goes_on.wait(60))
    spool, what = Spool(tmp_path, LIMIT), arrival(query)

    later: list[CallbackRequest] = []

    def one_more_is_stored() -> bool:
        later.append(arrival("ReferenceId=b"))
        return ingest.receive(later[-1]) != Accepted("spooled", "b")

    with receiving(url_of(database), tmp_path, timedelta(seconds=1)) as ingest:
        answer = ingest.receive(what)
        goes_on.set()
        until(one_more_is_stored, 30, "the commit that took too long has come, and another after it")
        until(lambda: spool.depth().reports == 0, 30, "the spool is drained")

    assert answer == Accepted("spooled", "a") if "ReferenceId" in query else isinstance(answer, NotAccepted)
    assert_stored_once(database, [what, *later])
    spool.close()


def test_a_spool_that_is_begun_anew_while_it_is_drained_loses_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "instance"
    first, second = some_arrivals(), some_arrivals()
    spool = Spool(folder, LIMIT)
    spool.append(first)

    def begin_anew() -> None:
        folder.rename(tmp_path / "gone")
        spool.append(second)

    monkeypatch.setattr(*SEAMS["transaction"], CallbackStore._store_together)  # noqa: SLF001 - puts it back in the end
    plant("transaction", "after", begin_anew)
    with receiving(url_of(database), folder) as ingest:
        drain(ingest)
        drain(ingest)

    with database.snapshot(limited=False) as connection:
        stored = {str(name) for name in connection.scalars(text("SELECT id FROM status_reports"))}
    assert {str(one.id) for one in first + second if b"ReferenceId" in one.query} == stored
    spool.close()


class Line:
    """A line to PostgreSQL that can be cut around a commit."""

    def __init__(self, url: str) -> None:
        """Listen on loopback, and hand on all that comes."""
        there = make_url(url)
        host = str(there.query.get("host") or there.host)
        self._there = (host, int(there.port or 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = (
            there.set(host="127.0.0.1", port=self._listener.getsockname()[1], query={})
            .update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
            .render_as_string(hide_password=False)
        )
        self.cuts = 0
        self._after = True
        self.done = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, moment: str, times: int) -> None:
        """Cut the line so often before or after a commit has reached the server; its answer comes through never."""
        self._after, self.cuts = moment == "after", times

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        host, port = self._there
        unix = host.startswith("/")
        there = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        with here, there:
            there.connect(f"{host}/.s.PGSQL.{port}" if unix else (host, port))
            cutting = threading.Event()
            back = threading.Thread(target=self._hand_back, args=(there, here, cutting), daemon=True)
            back.start()
            with suppress(OSError):
                while words := here.recv(65536):
                    if b"COMMIT" in words and self.cuts:
                        self.cuts -= 1
                        self.done += 1
                        cutting.set()
                        if self._after:
                            there.sendall(words)
                            back.join(10)
                        break
                    there.sendall(words)
            for side in (here, there):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            back.join(10)

    @staticmethod
    def _hand_back(there: socket.socket, here: socket.socket, cutting: threading.Event) -> None:
        with suppress(OSError):
            while (words := there.recv(65536)) and not cutting.is_set():
                here.sendall(words)


@pytest.mark.parametrize("times", [1, 9])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_connection_that_is_lost_in_a_commit_leaves_no_report_out_and_stores_none_twice(
    database: Database, tmp_path: Path, moment: str, times: int
) -> None:
    line, spool, arrivals = Line(url_of(database)), Spool(tmp_path, LIMIT), some_arrivals()
    with receiving(line.url, tmp_path) as ingest:
        for number, what in enumerate(arrivals):
            if number:
                line.cut(moment, times)
            answer = ingest.receive(what)
            assert isinstance(answer, NotAccepted | OtherChannel) or answer.result in {
                "spooled",
                "progressed",
                "settled",
            }
        line.cut(moment, 0)
        until(lambda: spool.depth().reports == 0, 30, "the spool is drained")

    assert line.done >= 1, "no commit was cut"
    assert_stored_once(database, arrivals)
    line.close()
    spool.close()


# The order


STRACE = shutil.which("strace")
TRACED = pytest.mark.skipif(STRACE is None, reason="strace is not there (Debian: apt-get install strace)")
CALLS = "fsync,fdatasync,ftruncate,pwrite64,recvfrom,sendto,sendmsg,write,writev"
AFTER_WRITING = {
    "calls.db-wal": [("sync", "/calls.db-wal")],
    "spool.db": [("sync", "/spool.db"), ("ftruncate", "/spool.db-journal"), ("sync", "/spool.db-journal")],
}
"""What has to return in this order, once what shows a report is written to a file, before that report is answered.

A journal that is there after a loss of power undoes what it belongs to; so its end has to be on the disk as well.
"""


@contextmanager
def traced(folder: Path, **environment: str) -> Iterator[tuple[int, Path]]:
    """A server whose system calls are written down: its port, and where."""
    trace, port = folder / "trace", free_port()
    command = [
        str(STRACE),
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-s",
        "8192",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "-o", str(trace), COMMAND, "serve", "--bind", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | environment | {"CALLBACK_TOKEN": TOKEN, "API_TOKEN": TOKEN, "INSTANCE_DIR": str(folder)},
        )
    try:
        until(lambda: _answers(port, server), 60, "the server answers")
        yield port, trace
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            raise


def _answers(port: int, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "the server ended; may this process trace others?"
    with suppress(OSError):
        return send(port, "/healthz") == 200
    return False


def send(port: int, path: str) -> int:
    """One request on a connection of its own; the answer's status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


LINE = re.compile(r"(\d+) +(?:<\.\.\. \w+ resumed>|(\w+)\((?:(\d+)<([^>]*)>)?)(.*)")


class Step(NamedTuple):
    """A system call that began or returned, or both. ``began`` is the place in the trace where it began."""

    name: str
    line: str
    """The process, descriptor and file, which tell one connection from another."""
    began: int
    words: str
    begins: bool
    returns: bool


def steps(trace: Path) -> Iterator[tuple[int, Step]]:
    """The system calls of a trace, each with its place in it."""
    under_way: dict[str, tuple[str, str, int]] = {}
    for place, text_line in enumerate(trace.read_text("utf-8", "replace").splitlines()):
        if not (found := LINE.match(text_line)):
            continue
        process, name, descriptor, target, words = found.groups()
        begins, returns = name is not None, not words.endswith("<unfinished ...>")
        call = (name, f"{process}:{descriptor}:{target}", place) if begins else under_way.pop(process, ("", "", place))
        if not returns:
            under_way[process] = call
        yield place, Step(*call, words, begins, returns)


class Journal:
    """How far a rollback journal is. What it is to undo may be written once it is synced, and not before."""

    synced = False
    _written = False

    def see(self, name: str, *, succeeded: bool) -> None:
        """A system call on it."""
        if name == "pwrite64":
            self._written, self.synced = True, False
        elif name == "sync" and succeeded:
            self.synced = self._written
        elif name == "ftruncate" and succeeded:
            self._written = self.synced = False


def early_answers(trace: Path, kept_in: str) -> tuple[int, list[str]]:
    """How many answers 200 left, and the markers of those before all of ``AFTER_WRITING`` had returned.

    A report is in the file once a page that shows its marker is written there. Each step after that counts if it began
    when the one before had returned. A page that is written before the journal is synced counts for nothing.
    """
    behind: dict[str, tuple[int, int]] = {}  # by marker: the number of steps that returned, and the place of the last
    asked: dict[str, str] = {}
    answered, early, journal = 0, [], Journal()
    for place, step in steps(trace):
        name = "sync" if step.name in {"fsync", "fdatasync"} else step.name
        succeeded = step.words.endswith("= 0")
        if step.line.endswith("-journal"):
            journal.see(name, succeeded=succeeded)
        if name == "pwrite64" and step.line.endswith(kept_in) and (journal.synced or kept_in != "spool.db"):
            behind = dict.fromkeys(re.findall(r"marker-\d+", step.words), (0, place)) | behind
        elif name in {"sync", "ftruncate"} and succeeded:
            for marker, (number, since) in behind.items():
                due = AFTER_WRITING[kept_in][number : number + 1]
                if step.began > since and any(name == what and step.line.endswith(file) for what, file in due):
                    behind[marker] = number + 1, place
        elif name == "recvfrom" and (found := re.search(r"GET /esms\S*(marker-\d+)", step.words)):
            asked[step.line] = found[1]
        elif name == "sendto" and step.begins and '"HTTP/1.1 200' in step.words and step.line in asked:
            answered += 1
            if behind.get(asked[step.line], (0, 0))[0] < len(AFTER_WRITING[kept_in]):
                early.append(asked[step.line])
            del asked[step.line]
    return answered, early


MIGRATE = [COMMAND, "migrate"]
MAKE_TOKENS = [sys.executable, "-c", "from webapp.support.settings import load_settings as l; l().make_tokens()"]


@TRACED
@pytest.mark.parametrize("command", [MIGRATE, MAKE_TOKENS], ids=["migrate", "tokens"])
def test_instance_folder_and_its_files_are_synced_before_an_answer_relies_on_them(
    tmp_path: Path, command: list[str]
) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "new" / "instance"
    words = [
        str(STRACE),
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-e",
        "trace=mkdir,mkdirat,link,linkat,fsync",
        "-e",
        "signal=none",
        "-o",
    ]
    environment = os.environ | {"INSTANCE_DIR": str(folder)}
    subprocess.run([*words, str(trace), *command], check=True, env=environment, cwd=tmp_path, timeout=120)

    due: list[str] = []
    named = 0
    for line in trace.read_text().splitlines():
        if made := re.search(rf'(?:mkdir|link)(?:at)?\(.*"({tmp_path}[^"]+)".*= 0$', line):
            named += 1
            due.append(made[1].rpartition("/")[0])
        elif synced := re.search(r"fsync\(\d+<([^>]+)>\).*= 0$", line):
            due = [parent for parent in due if parent != synced[1]]
    assert named == (2 if command is MIGRATE else 4)
    assert due == []


@TRACED
@pytest.mark.parametrize("kept_in", AFTER_WRITING)
def test_no_200_leaves_before_the_sync_of_what_holds_its_report(tmp_path: Path, kept_in: str) -> None:
    number = 24

    def send_some(port: int, names: range) -> None:
        for place in names:
            words = f"ReferenceId=call-{place % 7}&SendStatus=5&mark=marker-{place:04}"
            assert send(port, f"/esms/callback/{TOKEN}?{words}") == 200

    with ExitStack() as until_the_end:
        port, trace = until_the_end.enter_context(traced(tmp_path))
        if kept_in == "spool.db":
            until_the_end.enter_context(sqlite_locked(tmp_path / "calls.db"))
        send_some(port, range(number))
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(send_some, [port] * 8, [range(number + first, 2 * number, 8) for first in range(8)]))

    answered, early = early_answers(trace, kept_in)
    assert answered == 2 * number
    assert early == []
