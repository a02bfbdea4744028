"""Loads a fortnight as the receiver and reconcile would have stored it, each thing at its time.

The parser, the writer, the client of eSMS and the sandbox are those of the program; only the clock is the demo's.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from webapp.callbacks import parsing
from webapp.callbacks.request import CallbackRequest
from webapp.esms.client import Client
from webapp.esms.lookup import LookupAnswer, LookupRequest
from webapp.esms.registrations import read_registration
from webapp.esms.stored import other_channel_of
from webapp.storage import rollups, runs
from webapp.storage.claims import due_at, lease_of
from webapp.storage.reader import Reader
from webapp.storage.rejected import OTHER_CHANNEL
from webapp.storage.runs import Run
from webapp.storage.writer import Writer
from webapp.support.token_redaction import NO_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from threading import Event

    from demo.fortnight import Callback, Fortnight, Registered
    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database
    from webapp.support.settings import Settings

_EVERY = timedelta(minutes=30)
"""How often reconcile ran."""
_BETWEEN_LOOKUPS = timedelta(milliseconds=120)
_MOST_DUE = 10_000


class _HalfHour(NamedTuple):
    """What happened until then, since the half hour before."""

    end: datetime
    registered: list[Registered]
    callbacks: list[Callback]


class Loader:
    """Loads a fortnight into one database."""

    def __init__(self, database: Database, esms: Sandbox, settings: Settings) -> None:
        """``esms`` learns the calls, and is asked about those that are due."""
        self._database, self._esms, self._settings = database, esms, settings
        self._writer, self._reader = Writer(database), Reader(database)
        self._client = Client(esms.api_url, "any", "any", settings.esms_timeout, message_url=esms.message_api_url)
        self._draw = random.Random(0)

    def load(self, made: Fortnight, now: datetime, show: Callable[[int, str], None], stop: Event) -> None:
        """Store what happened until ``now``, with a reconcile run every half hour, and make the figures.

        ``stop`` ends it at once.
        """
        self._esms.add(made.calls)
        self._esms.faults |= made.faults
        done = 0
        for part in _half_hours(made, now):
            if stop.is_set():
                return
            registrations = [read_registration(one.fields, self._settings.time_zone) for one in part.registered]
            self._writer.register(registrations, part.end)
            self._receive(part.callbacks, part.end)
            self._reconcile(part.end)
            done += len(part.callbacks)
            show(done, "callbacks")
        while rollups.waiting(self._database, None):
            rollups.refresh(self._database)
        self._client.close()

    def _receive(self, callbacks: Sequence[Callback], end: datetime) -> None:
        """Store callbacks as the receiver does."""
        reports = []
        for one in callbacks:
            request = CallbackRequest(self._id(one.at), one.at, one.remote_addr, "GET", None, one.query.encode(), b"")
            parsed = parsing.parse(request, NO_TOKENS)
            channel = parsed.report and other_channel_of(parsed.report)
            if channel or not parsed.report:
                reason = f"{OTHER_CHANNEL}{channel}" if channel else parsed.reason
                self._writer.reject(parsing.rejected(request, reason))
            else:
                reports.append(parsed.report)
        if reports:
            self._writer.record(reports, end)

    def _reconcile(self, now: datetime) -> None:
        """Ask about every call that is due, and store the answers and the run."""
        wanted = due_at(now, self._settings)
        due = self._reader.due(wanted, _MOST_DUE)[1] if self._reader.any_due(wanted) else []
        answers = [self._look_up(name, now + number * _BETWEEN_LOOKUPS) for number, name in enumerate(due, 1)]
        finished_at = now + (len(due) + 1) * _BETWEEN_LOOKUPS
        give_up = self._settings.reconcile_give_up
        conclusions = self._writer.conclude(answers, finished_at, give_up=give_up) if answers else []
        counts: dict[str, Any] = {f"{conclusion}": number for conclusion, number in Counter(conclusions).items()}
        run = Run(
            id=self._id(now),
            started_at=now,
            host="demo",
            finished_at=finished_at,
            outcome="done",
            checked=len(due),
            answered_at=finished_at if due else None,
            **counts,
        )
        runs.start_run(self._database, run, lease=lease_of(self._settings))

    def _look_up(self, reference_id: str, at: datetime) -> LookupAnswer:
        call = self._esms.calls[reference_id]
        answer = self._client.look_up(LookupRequest(reference_id, call.reference_id, call.kind))
        report = answer.report and replace(answer.report, id=self._id(at), received_at=at)
        return replace(answer, report=report)

    def _id(self, at: datetime) -> UUID:
        """A UUIDv7 of that time."""
        milliseconds, draw = int(at.timestamp() * 1000), self._draw.getrandbits
        return UUID(int=milliseconds << 80 | 7 << 76 | draw(12) << 64 | 2 << 62 | draw(62))


def _half_hours(made: Fortnight, now: datetime) -> Iterator[_HalfHour]:
    registered, callbacks = list(reversed(made.registered)), list(reversed(made.callbacks))
    end = min(one[-1].at for one in (registered, callbacks))
    while end < now:
        end = min(now, end + _EVERY)
        part = _HalfHour(end, [], [])
        while registered and registered[-1].at <= end:
            part.registered.append(registered.pop())
        while callbacks and callbacks[-1].at <= end:
            part.callbacks.append(callbacks.pop())
        yield part
