"""Views that explain themselves, and figures for each local day that the receiver keeps up to date.

The views hold the time zone as a literal: ``esms-calls time-zone set`` makes them anew by the functions here, those of
the newest migration that has them. On both databases the index of local days keeps callbacks in the spool while it is built
(a minute for 10 million calls, with the other indexes). After the migration the server computes the figures, newest day first.
A migration imports nothing of `webapp`, so that it stays what it was; and it has a working downgrade.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"

FIRST_ZONE = "Asia/Ho_Chi_Minh"
FIRST_OFFSET_SECONDS = 25200
INDEX = "ix_calls_local_day"
LISTED = {
    "ix_calls_without_result": "settled_at IS NULL AND gave_up_at IS NULL",
    "ix_calls_given_up": "gave_up_at IS NOT NULL",
    "ix_calls_in_conflict": "conflict{}",
    "ix_calls_in_price_conflict": "price_conflict{}",
}
"""Indexes of calls that are few, and their conditions."""
HOUR = {
    "postgresql": "date_trunc('hour', placed_at, 'UTC')",
    "sqlite": "substr(placed_at, 1, 13) || ':00:00.000000Z'",
}
NOW = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"}


class PostgreSQL:
    """How PostgreSQL says what the views need; ``zone`` is a name that it knows, such as Asia/Ho_Chi_Minh."""

    name = "postgresql"
    conflict = "conflict"
    now = "now()"

    def __init__(self, zone: str, _offset_seconds: int) -> None:
        """Work for this zone."""
        self.zone = zone.replace("'", "''")

    def local(self, moment: str) -> str:
        """The wall clock at a moment, within the years that every zone has."""
        within = (
            f"least(greatest({moment}, '0001-01-02 00:00:00+00'::timestamptz), '9999-12-30 00:00:00+00'::timestamptz)"
        )
        return f"({within} AT TIME ZONE '{self.zone}')"

    def day(self, moment: str) -> str:
        """The local day, a date."""
        return f"{self.local(moment)}::date"

    def hour(self, moment: str) -> str:
        """The local hour, 0 to 23."""
        return f"extract(hour FROM {self.local(moment)})::integer"

    def weekday(self, day: str) -> str:
        """The weekday of a date, 1 (Monday) to 7."""
        return f"extract(isodow FROM {day})::integer"

    def seconds(self, until: str, since: str) -> str:
        """Whole seconds between two moments, 0 or more; NULL where one is."""
        difference = f"floor(extract(epoch FROM {until} - {since}))"
        return f"CASE WHEN {difference} < 0 THEN 0 ELSE {difference} END::bigint"

    def later(self, moment: str) -> str:
        """The last second of the hour that begins at that moment."""
        return f"{moment} + interval '3599 seconds'"

    def days_ago(self, number: int) -> str:
        """The local day ``number`` days before today."""
        return f"({self.day('now()')} - {number})"

    def as_of(self, oldest: str) -> str:
        """The time of the oldest mark, else now; on a replica not later than the last transaction that it has."""
        replayed = "CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END"
        return f"least(coalesce({oldest}, now()), {replayed})"

    def vnd(self, price: str) -> str:
        """A price in VND, exact."""
        return price

    def vnd_of_sum(self, whole: str, fraction: str) -> str:
        """A sum of prices in VND, from that of whole VND and that of 1/10,000."""
        return f"CAST({whole} + {fraction} / 10000.0 AS numeric(24, 4))"


class SQLite:
    """How SQLite says it: it knows no zones, so ``offset_seconds`` is added to UTC."""

    name = "sqlite"
    conflict = "(conflict = 1)"
    """As in the condition of the index, or SQLite would not use that."""
    now = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"

    def __init__(self, zone: str, offset_seconds: int) -> None:
        """Work for this zone, which is always ``offset_seconds`` ahead of UTC."""
        self.zone = zone.replace("'", "''")
        self._shift = f"'{offset_seconds:+d} seconds'"

    def _within(self, moment: str) -> str:
        """Without fractions of a second, which SQLite rounds up; within the years of which it knows local days."""
        return f"min(max(substr({moment}, 1, 19), '0001-01-02T00:00:00'), '9999-12-30T00:00:00')"

    def local(self, moment: str) -> str:
        """The wall clock at a moment, as text."""
        return f"datetime({self._within(moment)}, {self._shift})"

    def day(self, moment: str) -> str:
        """The local day, as text such as 2026-11-23."""
        return f"date({self._within(moment)}, {self._shift})"

    def hour(self, moment: str) -> str:
        """The local hour, 0 to 23."""
        return f"CAST(strftime('%H', {self._within(moment)}, {self._shift}) AS INTEGER)"

    def weekday(self, day: str) -> str:
        """The weekday of a date, 1 (Monday) to 7."""
        return f"((CAST(strftime('%w', {day}) AS INTEGER) + 6) % 7 + 1)"

    def seconds(self, until: str, since: str) -> str:
        """Whole seconds between two moments, 0 or more; NULL where one is."""
        whole = f"strftime('%s', substr({until}, 1, 19)) - strftime('%s', substr({since}, 1, 19))"
        return f"max(0, {whole} - (substr({until}, 21, 6) < substr({since}, 21, 6)))"

    def later(self, moment: str) -> str:
        """The last second of the hour that begins at that moment."""
        return f"substr({moment}, 1, 13) || ':59:59'"

    def days_ago(self, number: int) -> str:
        """The local day ``number`` days before today."""
        return f"date('now', {self._shift}, '-{number} days')"

    def as_of(self, oldest: str) -> str:
        """The time of the oldest mark, else now."""
        return f"coalesce({oldest}, {self.now})"

    def vnd(self, price: str) -> str:
        """A price in VND; never a whole number, which SQLite would divide without a rest."""
        return f"CAST({price} AS REAL)"

    def vnd_of_sum(self, whole: str, fraction: str) -> str:
        """A sum of prices in VND, from that of whole VND and that of 1/10,000."""
        return f"{whole} + {fraction} / 10000.0"


@dataclass(frozen=True)
class View:
    """A view: its columns are (name, comment, expression), ``rest`` is what follows them."""

    name: str
    comment: str
    columns: list[tuple[str, str, str]]
    rest: str


ANSWERED = "outcome = 'answered'"


def call_facts(words: Any) -> View:
    """One row a call, right by default."""
    day = words.day("placed_at")
    return View(
        "call_facts",
        "One row a call, exact now, with local days and with values only where they mean something",
        [
            ("reference_id", "The identity that eSMS gave the call", "reference_id"),
            ("request_id", "The id that the placing request carried. NULL: not known", "request_id"),
            ("kind", "voice or otp. NULL: not known yet", "kind"),
            ("phone", "The number called, as +84901888484. NULL: not known, or no number", "phone_e164"),
            ("campaign", "The campaign, as registered. NULL: none was named", "campaign"),
            ("placed_at", "When the call was placed, UTC", "placed_at"),
            ("local_day", "The day on which it was placed, by the clocks of TIME_ZONE", day),
            ("local_hour", "The hour of that day, 0 to 23", words.hour("placed_at")),
            ("local_weekday", "The weekday of that day: 1 is Monday, 7 is Sunday", words.weekday(day)),
            (
                "outcome",
                "How it ended: answered, unanswered, other, rejected, delivered, unknown, given_up or missing",
                "outcome",
            ),
            (
                "status_word",
                "The CallStatus of eSMS where the outcome is other, else NULL",
                "CASE WHEN outcome = 'other' THEN call_status END",
            ),
            (
                "talk_seconds",
                "Length in seconds of an answered call, else NULL",
                f"CASE WHEN {ANSWERED} THEN call_duration END",
            ),
            (
                "keys_pressed",
                "The keys that were pressed in an answered call, as text. NULL: none, or not answered",
                f"CASE WHEN {ANSWERED} THEN ivr END",
            ),
            ("price_vnd", "The price in VND. NULL: not known", words.vnd("price")),
            (
                "price_is_final",
                "Whether a price is known and a final callback came (of a voice OTP: or a final look-up), which is what says prices",
                "(price IS NOT NULL AND (callback_at IS NOT NULL OR (kind IS NOT NULL AND kind = 'otp' AND confirmed_at IS NOT NULL)))",
            ),
            (
                "callback_seconds",
                "Seconds from placing the call to its first final callback, 0 or more. NULL: none came",
                words.seconds("callback_at", "placed_at"),
            ),
            ("settled_by", "Source of the first final report: callback or lookup. NULL: not settled", "settled_by"),
            (
                "recovered",
                "Whether a look-up settled the call and no final callback ever came",
                "(settled_by IS NOT NULL AND settled_by = 'lookup' AND callback_at IS NULL)",
            ),
            ("confirmed", "Whether a final look-up confirmed the outcome", "(confirmed_at IS NOT NULL)"),
            ("conflict", "Whether a callback disagrees now, and no look-up has decided since", words.conflict),
            (
                "price_conflict",
                "Whether final callbacks say different prices, and no look-up says one",
                "price_conflict",
            ),
            (
                "registered",
                "Whether the call was registered; else it is known from reports only",
                "(registered_at IS NOT NULL)",
            ),
        ],
        "FROM calls",
    )


def from_rollups(words: Any) -> list[View]:
    """The views that read the figures: as exact as ``figures_as_of`` is recent, and the same as on the page."""
    total = "CAST(sum({}) AS bigint)".format
    of_facet = "FROM call_rollups WHERE scope IN ('campaign', 'none') AND facet = '{}'".format
    of_day = ("local_day", "The local day on which the calls were placed", "local_day")
    of_campaign = ("campaign", "The campaign. NULL: calls without one", "campaign")
    edge = "CAST(label AS bigint)"
    classes = (
        f"FROM (SELECT local_day, scope, campaign, calls, {edge} AS seconds,"
        f" sum(calls) OVER (PARTITION BY local_day, scope, campaign ORDER BY {edge}) AS up_to_here,"
        " sum(calls) OVER (PARTITION BY local_day, scope, campaign) AS of_all"
        f" {of_facet('delay')}) AS classes GROUP BY local_day, scope, campaign"
    )
    percentile = "min(seconds) FILTER (WHERE up_to_here * 100 >= of_all * {})".format
    return [
        View(
            "daily_outcomes",
            "How many calls of each day and campaign ended how; from the figures",
            [
                of_day,
                of_campaign,
                ("outcome", "How the calls ended, as in call_facts", "label"),
                ("calls", "Number of calls", "calls"),
                ("talk_seconds", "Seconds of the answered calls together", "answered_seconds"),
                ("price_vnd", "Known prices together, in VND", words.vnd_of_sum("price", "price_fraction")),
                ("calls_without_price", "Number of calls whose price is not known", "unpriced"),
            ],
            of_facet("outcome"),
        ),
        View(
            "hourly_answers",
            "How many calls of each local hour and campaign were answered; from the figures",
            [
                of_day,
                ("local_weekday", "The weekday of that day: 1 is Monday, 7 is Sunday", words.weekday("local_day")),
                ("local_hour", "The local hour in which the calls were placed, 0 to 23", "CAST(label AS integer)"),
                of_campaign,
                ("calls", "Number of calls", "calls"),
                (
                    "with_outcome",
                    "Number of calls that were answered, unanswered or other: the share is answered of these",
                    "with_outcome",
                ),
                ("answered", "Number of answered calls", "answered"),
            ],
            of_facet("hour"),
        ),
        View(
            "ivr_choices",
            "Which keys were pressed in answered calls, by day and campaign; from the figures",
            [
                of_day,
                of_campaign,
                ("key", "The key; none; several for more than one", "label"),
                ("calls", "Number of answered calls", "calls"),
            ],
            of_facet("key"),
        ),
        View(
            "campaign_results",
            "One row for each campaign, and one for calls without any; from the figures",
            [
                of_campaign,
                ("first_day", "The local day of its first call", "min(local_day)"),
                ("last_day", "The local day of its last call", "max(local_day)"),
                ("calls", "Number of calls", total("calls")),
                ("with_outcome", "Number of calls that were answered, unanswered or other", total("with_outcome")),
                ("answered", "Number of answered calls", total("answered")),
                (
                    "answered_share",
                    "Answered calls of those with_outcome, 0 to 1. NULL: there are none",
                    "CAST(sum(answered) AS double precision) / nullif(sum(with_outcome), 0)",
                ),
                (
                    "mean_talk_seconds",
                    "Mean length in seconds of the answered calls whose length is known. NULL: there are none",
                    "CAST(sum(answered_seconds) AS double precision) / nullif(sum(timed), 0)",
                ),
                ("price_vnd", "Known prices together, in VND", words.vnd_of_sum("sum(price)", "sum(price_fraction)")),
                ("calls_without_price", "Number of calls whose price is not known", total("unpriced")),
                (
                    "settled",
                    "Number of calls that have a result",
                    total("CASE WHEN label IN ('missing', 'given_up') THEN 0 ELSE calls END"),
                ),
                (
                    "missing",
                    "Number of calls without a result, not given up",
                    total("CASE WHEN label = 'missing' THEN calls ELSE 0 END"),
                ),
                (
                    "recovered",
                    "Number of calls that a look-up settled and of which no final callback came",
                    total("recovered"),
                ),
                ("conflicts", "Number of calls in conflict now", total("conflicts")),
            ],
            f"{of_facet('outcome')} GROUP BY scope, campaign",
        ),
        View(
            "callback_delays",
            "How long final callbacks took, by day and campaign; from the figures: each percentile is the upper edge of its class",
            [
                of_day,
                of_campaign,
                ("calls", "Number of calls of which a final callback came", total("calls")),
                ("p50", "Seconds within which half of the callbacks came", percentile(50)),
                ("p95", "Seconds within which 95 of 100 came", percentile(95)),
                ("p99", "Seconds within which 99 of 100 came", percentile(99)),
            ],
            classes,
        ),
    ]


def histories(words: Any) -> list[View]:
    """The views that read tables other than calls, or the calls that are missing."""
    counts = [
        (name, comment, name)
        for name, comment in (
            ("checked", "Look-ups charged: the sum of settled, pending, not_found, failed and gave_up"),
            ("settled", "Look-ups that were final: the call was settled, confirmed or corrected"),
            ("pending", "Look-ups of calls that eSMS has not finished"),
            ("not_found", "Look-ups of calls that eSMS does not know yet"),
            ("failed", "Look-ups that failed; the calls are asked about again"),
            ("gave_up", "Look-ups after which the call was given up"),
        )
    ]
    said = ("call_status", "call_duration", "ivr", "send_status", "sent_result", "price", "cid", "request_id", "phone")
    return [
        View(
            "missing_calls",
            "Calls without a result that were not given up, exact now",
            [
                ("reference_id", "The identity that eSMS gave the call", "reference_id"),
                ("campaign", "The campaign. NULL: none was named", "campaign"),
                ("placed_at", "When the call was placed, UTC", "placed_at"),
                ("waiting_seconds", "Seconds since then", words.seconds(words.now, "placed_at")),
                ("lookup_count", "How often eSMS was asked", "lookup_count"),
                ("last_lookup_code", "How the last look-up ended. NULL: none yet", "last_lookup_code"),
                ("next_lookup_at", "When eSMS is asked again, UTC. NULL: once its grace is over", "next_lookup_at"),
            ],
            "FROM calls WHERE settled_at IS NULL AND gave_up_at IS NULL",
        ),
        View(
            "report_history",
            "One row for every report: what eSMS said about a call, when, and what it did",
            [
                ("reference_id", "The call that the report is about", "reference_id"),
                ("received_at", "When it was received, UTC", "received_at"),
                ("local_time", "The same by the clocks of TIME_ZONE", words.local("received_at")),
                ("source", "callback: eSMS called us; lookup: we asked", "source"),
                (
                    "effect",
                    "What it did: settled, stale, conflict, corrected, confirmed, enriched, progressed or duplicate",
                    "effect",
                ),
                ("lookup_code", "eSMS's code. NULL: a callback", "lookup_code"),
                *((name, f"What the report said, as in calls.{name}. NULL: not said", name) for name in said),
                ("unread", "Names of parameters that could not be read. NULL: none", "unread"),
                ("id", "The report's id: reports of one moment are in its order", "id"),
            ],
            "FROM status_reports",
        ),
        View(
            "reconcile_history",
            "One row for every reconcile run",
            [
                ("run", "The run's id", "id"),
                ("started_at", "When it started, UTC", "started_at"),
                ("local_start", "The same by the clocks of TIME_ZONE", words.local("started_at")),
                (
                    "seconds",
                    "How long it took. NULL: it has not ended, or died",
                    words.seconds("finished_at", "started_at"),
                ),
                ("outcome", "done, failures, refused, interrupted or died. NULL: under way, or died unseen", "outcome"),
                *counts,
            ],
            "FROM reconcile_runs",
        ),
        View(
            "figures_as_of",
            "One row: how recent the figures are",
            [
                (
                    "as_of",
                    "Figures hold all changes until then, UTC: the oldest mark that waits, else now; of a replica its last transaction, if that is older",
                    words.as_of("min(marked_at)"),
                ),
                ("time_zone", "The zone of all local days and times in the views", f"'{words.zone}'"),
                ("today", "The local day now", words.days_ago(0)),
                ("yesterday", "The one before", words.days_ago(1)),
                ("day_before_yesterday", "The one before that", words.days_ago(2)),
                ("marks_waiting", "Number of marks that wait for the figures to be made anew", "count(*)"),
            ],
            "FROM rollup_marks",
        ),
        View(
            "stale_days",
            "The marks, and the local days whose figures are made anew because of them",
            [
                ("mark_id", "The mark", "id"),
                ("first_day", "The local day of the beginning of its hour", words.day("hour")),
                (
                    "last_day",
                    "The local day of the end of its hour: another one in some zones",
                    words.day(words.later("hour")),
                ),
            ],
            "FROM rollup_marks",
        ),
    ]


def words_of(dialect: str, zone: str, offset_seconds: int) -> Any:
    """The dialect's words for a zone; ``offset_seconds`` is the zone's offset from UTC, for SQLite."""
    return (PostgreSQL if dialect == "postgresql" else SQLite)(zone, offset_seconds)


def views(words: Any) -> list[View]:
    """All views, in an order in which they can be made."""
    return [call_facts(words), *from_rollups(words), *histories(words)]


def create_views(words: Any) -> Iterator[str]:
    """The statements that make the views and the index of local days, each with its comments."""
    yield f"CREATE INDEX {INDEX} ON calls (({words.day('placed_at')}))"
    for view in views(words):
        if words.name == "sqlite":
            columns = ", ".join(f"{sql} AS {name} /* {comment} */" for name, comment, sql in view.columns)
            yield f"CREATE VIEW {view.name} AS /* {view.comment} */ SELECT {columns} {view.rest}"
            continue
        columns = ", ".join(f"{sql} AS {name}" for name, _, sql in view.columns)
        yield f"CREATE VIEW {view.name} AS SELECT {columns} {view.rest}"
        yield f"COMMENT ON VIEW {view.name} IS '{_quoted(view.comment)}'"
        for name, comment, _ in view.columns:
            yield f"COMMENT ON COLUMN {view.name}.{name} IS '{_quoted(comment)}'"


def drop_views(words: Any) -> Iterator[str]:
    """The statements that take them away."""
    yield from (f"DROP VIEW {view.name}" for view in reversed(views(words)))
    yield f"DROP INDEX {INDEX}"


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def moment() -> sa.types.TypeEngine[Any]:
    """A time: on SQLite text of a fixed width, which sorts as time does."""
    return sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def create_tables() -> None:
    """The figures, and the marks that say which of them are out of date."""
    number = sa.BigInteger()
    op.create_table(
        "call_rollups",
        sa.Column(
            "scope",
            sa.Text(),
            nullable=False,
            comment="all: every call; campaign: those of one; none: those without one",
        ),
        sa.Column("campaign", sa.Text(), comment="The campaign. NULL: scope is not campaign"),
        sa.Column("facet", sa.Text(), nullable=False, comment="What label says: outcome, hour, key, talk or delay"),
        sa.Column(
            "local_day",
            sa.Date(),
            nullable=False,
            comment="The day on which the calls were placed, by the clocks of TIME_ZONE",
        ),
        sa.Column(
            "label",
            sa.Text(),
            nullable=False,
            comment="The outcome; the hour, 00 to 23; the key, none or several; the upper edge in seconds of a class of talk time or callback delay",
        ),
        sa.Column("calls", number, nullable=False, comment="Number of calls"),
        sa.Column(
            "with_outcome",
            number,
            nullable=False,
            comment="Of these, number of those that were answered, unanswered or other",
        ),
        sa.Column("answered", number, nullable=False, comment="Number of answered calls"),
        sa.Column("timed", number, nullable=False, comment="Number of answered calls whose length is known"),
        sa.Column("answered_seconds", number, nullable=False, comment="Seconds of the answered calls together"),
        # Apart, for bigint holds no 93,000 of the highest price in 1/10,000 VND, and anyone may forge a price.
        sa.Column(
            "price",
            number,
            nullable=False,
            comment="Known prices together, without what each has behind the point, in VND",
        ),
        sa.Column(
            "price_fraction",
            number,
            nullable=False,
            comment="What prices have behind the point, together, in 1/10,000 VND",
        ),
        sa.Column("unpriced", number, nullable=False, comment="Number of calls whose price is not known"),
        sa.Column(
            "recovered",
            number,
            nullable=False,
            comment="Number of calls that a look-up settled and of which no final callback came",
        ),
        sa.Column("conflicts", number, nullable=False, comment="Number of calls in conflict"),
        sa.Column("confirmed", number, nullable=False, comment="Number of calls that a final look-up confirmed"),
        sa.Column("unregistered", number, nullable=False, comment="Number of calls that were never registered"),
        comment="Figures of whole local days, made anew from calls in the background: read by views, page and report",
    )
    op.create_index("ix_call_rollups_day", "call_rollups", ["local_day"])
    op.create_index("ix_call_rollups_facet", "call_rollups", ["scope", "facet", "campaign", "local_day"])
    op.create_table(
        "rollup_marks",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(),
            nullable=False,
            comment="Number of the mark, never used again",
        ),
        sa.Column(
            "hour",
            moment(),
            nullable=False,
            comment="Beginning of the hour in which the changed calls were placed, UTC",
        ),
        sa.Column("marked_at", moment(), nullable=False, comment="When they changed, UTC"),
        sa.PrimaryKeyConstraint("id", name="pk_rollup_marks"),
        comment="One row for each hour of which calls have changed since its figures were made",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rollup_version",
        sa.Column("one", sa.SmallInteger(), nullable=False, autoincrement=False, comment="Always 1: one row"),
        sa.Column("version", number, nullable=False, comment="Number of times that figures were replaced"),
        sa.PrimaryKeyConstraint("one", name="pk_rollup_version"),
        comment="One row: counts how often figures were replaced, so that of two who do it at once one gives up",
    )


def create_indexes() -> None:
    """What lists of few calls are read from: newest placed first."""
    is_true = "" if op.get_context().dialect.name == "postgresql" else " = 1"
    for name, condition in LISTED.items():
        some = sa.text(condition.format(is_true))
        op.create_index(name, "calls", ["placed_at", "reference_id"], postgresql_where=some, sqlite_where=some)
    some = sa.text("effect = 'conflict'")
    op.create_index(
        "ix_status_reports_conflicts", "status_reports", ["reference_id"], postgresql_where=some, sqlite_where=some
    )


def order_texts(operators: dict[str, str]) -> None:
    """On PostgreSQL, make the indexes of phones and request ids anew; ``operators``: of the columns, by name."""
    if op.get_context().dialect.name != "postgresql":
        return
    for name, columns in (("ix_calls_phone", ["phone_e164", "placed_at"]), ("ix_calls_request_id", ["request_id"])):
        condition = sa.text(f"{columns[0]} IS NOT NULL")
        op.drop_index(name, "calls")
        op.create_index(name, "calls", columns, postgresql_where=condition, postgresql_ops=operators)


def run(statement: str) -> None:
    """Run a statement without parameters."""
    op.execute(statement.replace(":", r"\:"))


SEND_STATUS = (
    "Where eSMS is with the call: 1 awaiting approval, 2 waiting, 4 rejected, 5 done, 7 sent (SendStatus). NULL: not said",
    "Where eSMS is with the call: 0 draft, 1 awaiting approval, 2 waiting, 3 sending, 4 rejected, 5 done, 6 deleted, 7 sent (SendStatus). NULL: not said",
)
PRICE = (
    "Price of the call in VND (Price; of a voice OTP TotalPrice); only callbacks carry it. NULL: not said",
    "Price of the call in VND (Price; of a voice OTP TotalPrice); of a voice call only callbacks carry it. NULL: not said",
)
COMMENTS = {
    "calls.send_status": SEND_STATUS,
    "calls.price": PRICE,
    "calls.registered_fields": (
        "Which of request_id, phone and placed_at were registered, with commas: they outrank reports. NULL: none",
        "Which of request_id, phone, placed_at, kind and esms_id were registered, with commas: they outrank reports. NULL: none",
    ),
    "calls.confirmed_fields": (
        "Which of call_status, call_duration and ivr a final lookup said, with commas: callbacks cannot replace them. NULL: none",
        "Which of call_status, call_duration, ivr and sent_result a final lookup said, with commas: callbacks cannot replace them. NULL: none",
    ),
    "calls.last_lookup_code": (
        "How the last look-up ended: eSMS's code, or http-500 and the like, timeout, unreachable, unreadable, wrong-reference. NULL: none yet",
        "How the last look-up ended: eSMS's code, or http-500 and the like, timeout, unreachable, tls, unreadable, wrong-reference. NULL: none yet",
    ),
    "status_reports.send_status": SEND_STATUS,
    "status_reports.price": PRICE,
}
"""What columns said of themselves before, and what is so since the rule of 0005."""


def describe_columns(*, newer: bool) -> None:
    """On PostgreSQL, let columns say what they hold. SQLite has no statement that changes a comment: it keeps the first."""
    if op.get_context().dialect.name == "postgresql":
        for column, comments in COMMENTS.items():
            run(f"COMMENT ON COLUMN {column} IS '{_quoted(comments[newer])}'")


def upgrade() -> None:
    """Make the tables and views, and mark the hours of all calls."""
    dialect = op.get_context().dialect.name
    describe_columns(newer=True)
    create_tables()
    create_indexes()
    order_texts({"phone_e164": "text_pattern_ops", "request_id": "text_pattern_ops"})
    for statement in create_views(words_of(dialect, FIRST_ZONE, FIRST_OFFSET_SECONDS)):
        run(statement)
    run(f"INSERT INTO rollup_marks (hour, marked_at) SELECT DISTINCT {HOUR[dialect]}, {NOW[dialect]} FROM calls")  # noqa: S608


def downgrade() -> None:
    """Drop them."""
    dialect = op.get_context().dialect.name
    describe_columns(newer=False)
    for statement in drop_views(words_of(dialect, FIRST_ZONE, FIRST_OFFSET_SECONDS)):
        op.execute(statement)
    order_texts({})
    op.drop_index("ix_status_reports_conflicts", "status_reports")
    for name in LISTED:
        op.drop_index(name, "calls")
    op.drop_table("rollup_version")
    op.drop_table("rollup_marks")
    op.drop_table("call_rollups")
