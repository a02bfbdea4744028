"""The intake: takes what came to the callback URL, and says what became of it once that is durable.

Reports that wait are stored together in one transaction. What the database cannot take in time goes to the spool, and
from there into the database as soon as it can. A report has its id from its receipt, and storing it again does nothing:
so whatever is in doubt is simply spooled as well.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DataError, IntegrityError

from webapp.callbacks.batch_writer import _AT_ONCE, BatchWriter, Overloaded, TooLate
from webapp.callbacks.request import CallbackRequest
from webapp.callbacks.spool import SpoolError
from webapp.calls.report import StatusReport
from webapp.esms import callback as esms_callback
from webapp.esms import parameters
from webapp.storage.errors import NotMigrated, Unavailable, WriteFailed
from webapp.storage.rejected import Rejected
from webapp.storage.types import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from webapp.callbacks.spool import Spool
    from webapp.storage.database import Database
    from webapp.storage.writer import Writer

log = logging.getLogger(__name__)
_PROBE_SECONDS = 1.0
_SUSPECTS_AT_MOST = 1000
_SHARE = 0.4
"""Of the time in which to answer, so much for the database and as much for the spool; the rest is for all else."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a report: the effect that storing it had, or ``spooled``."""

    result: str
    reference_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It was no report, and is kept; ``reason`` is fit for the sender."""

    reason: str


Outcome = Taken | Refused


@dataclass(frozen=True, slots=True)
class _Reading:
    """An arrival, and the report that it is or why it is none."""

    arrival: CallbackRequest
    report: StatusReport | None
    reason: str = ""

    def is_about(self, calls: Collection[str]) -> bool:
        """Whether it is a report of one of these calls."""
        return self.report is not None and self.report.reference_id in calls


class Ingest:
    """Takes arrivals into one database, through one spool (None: there is none)."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        spool: Spool | None,
        answer_within: timedelta,
        clean: Callable[[str], str] = str,
    ) -> None:
        """Start nothing yet. ``clean`` takes the secrets out of what reports say."""
        self._database = database
        self._writer = writer
        self._spool = spool
        self._clean = clean
        self.answer_seconds = answer_within.total_seconds()
        self._to_database: BatchWriter[_Reading, Outcome] = BatchWriter(self._record)
        self._to_spool: BatchWriter[CallbackRequest, None] = BatchWriter(self._append)
        self._away = threading.Event()
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None
        self._lock = threading.Lock()
        self._last_success = 0.0
        self._suspects: dict[tuple[UUID, str], float] = {}
        self._refused: dict[UUID, str] = {}

    def take(self, arrival: CallbackRequest, spent: float = 0.0) -> Outcome:
        """What became of an arrival, durably, in time; raises Unavailable if neither database nor spool can take it.

        ``spent`` are the seconds that went by since it began to come.
        """
        seconds = max(0.0, self.answer_seconds - spent) * _SHARE
        reading = _read(arrival, self._clean)
        if not self._away.is_set():
            try:
                return self._to_database.do(reading, seconds)
            except Overloaded:
                raise
            except Unavailable as problem:
                self._leave(str(problem))
            except TooLate:
                self._leave(f"{self._database.name}: no answer in {seconds:.1f} s")
        return self._keep(reading, seconds)

    def begin(self) -> None:
        """Take nothing into the database before it is there, and at the right migration; and look after the spool."""
        try:
            self._database.check()
        except (Unavailable, NotMigrated) as problem:
            self._leave(str(problem))
        self.start()

    def start(self) -> None:
        """Look after the spool from now on: what an earlier process left there is stored as soon as that can be."""
        if self._spool is None:
            return
        with self._lock:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._look_after, daemon=True, name="spool-keeper")
                self._keeper.start()

    def close(self) -> None:
        """Look after nothing any more, and close the connections that are not in use."""
        self._closed.set()
        if self._keeper is not None:
            self._keeper.join()
        self._database.close()
        if self._spool is not None:
            self._spool.close()

    @property
    def refused(self) -> dict[UUID, str]:
        """What the last drain left in the spool because the database refuses it for itself, and in which words."""
        return dict(self._refused)

    def drain(self, watch: Callable[[int], None] = lambda _stored: None) -> bool:
        """Store all that waits in the spool, oldest first; False if another process is at it.

        Raises Unavailable and SpoolError. What the database refuses alone (a locked call) is left for the next time;
        if that is for what it says, it is kept among the rejected then.
        """
        if self._spool is None:
            return True
        with self._spool.draining() as mine:
            if mine:
                self._drain(self._spool, watch)
            return mine

    def _drain(self, spool: Spool, watch: Callable[[int], None]) -> None:
        after, number, stored, refused = 0, _AT_ONCE, 0, False
        last: UUID | None = None
        locked: set[str] = set()
        self._refused = {}
        while found := spool.oldest(number, after=after):
            readings = [(position, _read_in_passing(arrival, self._clean)) for position, arrival in found]
            # Each report of a locked call would wait for the lock anew, and all others behind it.
            left = [position for position, reading in readings if reading.is_about(locked)]
            taken = [(position, reading) for position, reading in readings if not reading.is_about(locked)]
            try:
                self._record([reading for _, reading in taken])
            except Unavailable as problem:
                self._database.check()
                # It takes writes: what it refuses is in this portion, and need not concern those that come meanwhile.
                self._come_back()
                if len(taken) > 1:
                    number = max(1, len(found) // 4)
                    continue
                position, alone = taken[0]
                if not self._set_apart(alone, problem):
                    after, refused = position, True
                    if isinstance(problem, WriteFailed):
                        self._refused[alone.arrival.id] = str(problem)
                    elif alone.report:
                        locked.add(alone.report.reference_id)
                    continue
            try:
                spool.remove(reading.arrival.id for _, reading in taken)
                after = left[-1] if left else after
            except SpoolError:
                after = found[-1][0]
            last = found[-1][1].id
            stored, number = stored + len(taken), min(number * 2, _AT_ONCE)
            watch(stored)
        if not refused:
            self._suspects.clear()
            if last:
                spool.drop(last)

    def _set_apart(self, reading: _Reading, problem: Unavailable) -> bool:
        """Whether a report that the database refuses alone is kept among the rejected by now, and out of the way."""
        # Neither an outage nor a trigger that refuses everything may look like a report that nobody can store. So the
        # error must speak of what is written, and come again in the same words after others, begun later, were stored.
        if reading.report is None or not isinstance(problem, WriteFailed):
            return False
        suspect = reading.arrival.id, str(problem)
        first = self._suspects.get(suspect)
        if first is None and len(self._suspects) < _SUSPECTS_AT_MOST:
            self._suspects[suspect] = time.monotonic()
        if first is None or self._last_success < first:
            return False
        try:
            self._writer.reject(_rejected(reading.arrival, _reason(problem)))
        except Unavailable:
            return False
        del self._suspects[suspect]
        log.error("a report that the database refuses again and again is kept in rejected_callbacks: %s", problem)
        return True

    def _record(self, readings: Sequence[_Reading]) -> list[Outcome]:
        """Store readings in one transaction, and keep what is no report; one that spoils it for all is found."""
        now = datetime.now(UTC)
        effects = self._effects([reading.report for reading in readings if reading.report], now)
        outcomes = [effects[reading.arrival.id] if reading.report else Refused(reading.reason) for reading in readings]
        for reading, outcome in zip(readings, outcomes, strict=True):
            if isinstance(outcome, Refused):
                # Its id may be there already, kept by an earlier program for a reason in other words.
                with suppress(IntegrityError):
                    self._writer.reject(_rejected(reading.arrival, outcome.reason))
        return outcomes

    def _effects(self, reports: list[StatusReport], now: datetime) -> dict[Any, Outcome]:
        if not reports:
            return {}
        began = time.monotonic()
        try:
            effects = self._writer.record(reports, now)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, what came is kept
            if len(reports) == 1:
                return {reports[0].id: Refused(_reason(error))}
            half = len(reports) // 2
            return self._effects(reports[:half], now) | self._effects(reports[half:], now)
        self._last_success = max(self._last_success, began)
        return {report.id: Taken(effect, report.reference_id) for report, effect in zip(reports, effects, strict=True)}

    def _keep(self, reading: _Reading, seconds: float) -> Outcome:
        if self._spool is None:
            raise Unavailable(f"{self._database.name} cannot take reports now, and the spool is off")
        try:
            self._to_spool.do(reading.arrival, seconds)
        except SpoolError as problem:
            raise Unavailable(f"neither the database nor the spool can take a report: {problem}") from problem
        except TooLate:
            raise Unavailable("neither the database nor the spool took a report in time") from None
        self.start()
        return Taken("spooled", reading.report.reference_id) if reading.report else Refused(reading.reason)

    def _append(self, arrivals: list[CallbackRequest]) -> list[None]:
        assert self._spool is not None  # noqa: S101
        self._spool.append(arrivals)
        return [None] * len(arrivals)

    def _leave(self, problem: str) -> None:
        """Send reports straight to the spool, until a probe finds that the database takes them again."""
        with self._lock:
            first = not self._away.is_set()
            if self._spool is not None:
                self._away.set()
        if first:
            log.error("the database does not take reports (%s)", problem)
        self.start()

    def _come_back(self) -> None:
        with self._lock:
            was_away = self._away.is_set()
            self._away.clear()
        if was_away:
            log.warning("the database takes reports again")

    def _look_after(self) -> None:
        while not self._closed.is_set():
            try:
                if self._away.is_set():
                    self._database.check()
                    self._come_back()
                # A portion that is stored tells as much as a probe, and a deep spool takes long.
                self.drain(lambda _stored: self._come_back())
            except (Unavailable, NotMigrated) as problem:
                self._leave(str(problem))
            except SpoolError as problem:
                log.error("the spool cannot be drained: %s", problem)  # noqa: TRY400 - the words say all
            except Exception:
                log.exception("the spool cannot be drained; this is a bug")
            self._closed.wait(_PROBE_SECONDS)


def report_of(kept: CallbackRequest | Rejected, clean: Callable[[str], str] = str) -> StatusReport:
    """The report in a request that was kept; raises Unreadable, and ValueError for a payload that holds no request.

    One that was cut is none: the last of its values would be another than eSMS said.
    """
    if isinstance(kept, Rejected):
        query, body = esms_callback.stored_request(kept.payload)
    elif kept.problem:
        raise parameters.Unreadable(kept.problem)
    else:
        query, body = kept.query, kept.body
    return esms_callback.parse_callback(
        query,
        body,
        kept.content_type,
        report_id=kept.id,
        received_at=kept.received_at,
        remote_addr=kept.remote_addr,
        clean=clean,
    )


def _read(arrival: CallbackRequest, clean: Callable[[str], str]) -> _Reading:
    try:
        return _Reading(arrival, report_of(arrival, clean))
    except MemoryError:
        raise  # it says nothing of the arrival
    except Exception as error:  # noqa: BLE001 - whatever it is, what came is kept
        return _Reading(arrival, None, _reason(error))


def _read_in_passing(arrival: CallbackRequest, clean: Callable[[str], str]) -> _Reading:
    """Read it, and let other greenlets go on before the next: some bodies take milliseconds."""
    reading = _read(arrival, clean)
    time.sleep(0)
    return reading


def as_json(arrival: CallbackRequest, clean: Callable[[str], str] = str) -> dict[str, Any]:
    """An arrival as people are shown it: the request as it came, and what it says or why it cannot be read."""
    reading = _read(arrival, clean)
    said = {name: plain(value) for name, value in reading.report.said().items()} if reading.report else {}
    return {
        "id": str(arrival.id),
        "received_at": plain(arrival.received_at),
        "remote_addr": arrival.remote_addr,
        "method": arrival.method,
        "content_type": arrival.content_type,
        "query": arrival.query.decode("utf-8", "backslashreplace"),
        "body": arrival.body.decode("utf-8", "backslashreplace"),
        "reference_id": reading.report.reference_id if reading.report else None,
        "said": said,
        "reason": reading.reason or None,
    }


def _reason(error: Exception) -> str:
    if isinstance(error, parameters.Unreadable):
        return str(error)
    if isinstance(error, DataError | IntegrityError | WriteFailed):
        return "The database refuses a value of this report"
    log.error("a callback could not be taken; this is a bug", exc_info=error)
    return "This server could not read it"


def _rejected(arrival: CallbackRequest, reason: str) -> Rejected:
    return Rejected(
        id=arrival.id,
        received_at=arrival.received_at,
        remote_addr=arrival.remote_addr,
        method=arrival.method,
        content_type=_storable(arrival.content_type),
        payload=esms_callback.storable_request(arrival.query, arrival.body, whole=arrival.problem is None),
        reason=reason,
    )


def _storable(header: str | None) -> str | None:
    return header[: parameters.TEXT_LIMIT].replace("\0", "") if header else None
