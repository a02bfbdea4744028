"""Audits, over real HTTP against the sandbox of eSMS: every forgery that eSMS can show is found, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
import requests
from click.testing import CliRunner, Result
from constants import API_KEY, API_TOKEN, CALLBACK_TOKEN, SECRET_KEY, SPELLINGS
from makers import callback, change_by_hand, stored_call, stored_reports
from running import Program, esms_calls, serving
from sqlalchemy import select
from until import until

from webapp.calls.rule import Call, Registration
from webapp.cli.audit import audit as command
from webapp.cli.commands import cli
from webapp.esms.client import Client
from webapp.esms.lookup import LOOKUP_FIELDS
from webapp.esms.sandbox.calls import PlacedCall, normalised
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox
from webapp.reconcile import audit as auditing
from webapp.reconcile import failures
from webapp.reconcile.audit import Auditor
from webapp.reconcile.sampling import upper_bound
from webapp.storage.errors import Unavailable
from webapp.storage.filters import CallFilter
from webapp.storage.models import Base
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.calls.report import StatusReport
    from webapp.reconcile.findings import Audit
    from webapp.storage.database import Database
    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
"""Enough where no database makes a difference."""
KEYS = {
    "population",
    "sample",
    "seed",
    "asked",
    "agree",
    "disagree",
    "unknown",
    "undecided",
    "failed",
    "failures",
    "unasked",
    "cut_short",
    "bound",
    "fields",
    "compared",
    "more",
    "seconds",
}
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
"""When the calls were placed; all callbacks came since, and before now."""
SECRETS = [*SPELLINGS, CALLBACK_TOKEN, API_TOKEN]


@pytest.fixture
def esms(settings: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:  # noqa: ARG001 - it sets the rest
    """ESMS for every command that is run from here; asked as fast as it can be."""
    with Sandbox(Options(seed=11, api_key=API_KEY, secret_key=SECRET_KEY)) as sandbox:
        for name, value in {
            "ESMS_API_URL": sandbox.api_url,
            "ESMS_API_KEY": API_KEY,
            "ESMS_SECRET_KEY": SECRET_KEY,
            "ESMS_TIMEOUT": "2s",
            "RECONCILE_RATE": "1000",
            "RECONCILE_CONCURRENCY": "16",
        }.items():
            monkeypatch.setenv(name, value)
        yield sandbox


def audit(*arguments: object, **environment: str | None) -> Result:
    """The command, in this process; it shows no secret."""
    result = CliRunner().invoke(cli, ["audit", *map(str, arguments)], env=environment)
    assert "Unexpected" not in result.stderr, result.stderr
    assert [secret for secret in SECRETS if secret in result.output] == []
    return result


def found(*arguments: object, code: int, **environment: str | None) -> dict[str, Any]:
    """What an audit finds, as JSON."""
    result = audit("--json", *arguments, **environment)
    assert result.exit_code == code, result.output
    findings: dict[str, Any] = json.loads(result.stdout)
    assert findings.keys() == KEYS
    assert findings["asked"] == findings["agree"] + findings["failed"] + sum(len(findings[name]) for name in FINDINGS)
    return findings


FINDINGS = ("disagree", "unknown", "undecided")


def differing(findings: dict[str, Any]) -> dict[str, list[str]]:
    """The fields in which calls disagree, by call."""
    return {one["reference_id"]: one["fields"] for one in findings["disagree"]}


def final_callback(call: PlacedCall, seconds: float = 0, **said: Any) -> StatusReport:
    """The true final callback of a call, received that long after BEGAN."""
    truth: dict[str, Any] = {
        "received_at": BEGAN + timedelta(seconds=seconds),
        "call_status": call.call_status,
        "call_duration": call.call_duration,
        "ivr": call.ivr,
        "send_status": call.send_status,
        "sent_result": call.sent_result,
        "price": call.price,
        "cid": call.cid,
    }
    return callback(normalised(call.reference_id), **(truth | said))


def settled(esms: Sandbox, database: Database, count: int, *, campaign: str | None = "june") -> list[str]:
    """Calls whose true callbacks came; each placed a second after the one before."""
    placed = esms.place(count)
    if campaign:
        registrations = [
            Registration(
                reference_id=normalised(call.reference_id),
                campaign=campaign,
                placed_at=BEGAN + timedelta(seconds=number),
            )
            for number, call in enumerate(placed)
        ]
        Writer(database).register(registrations, BEGAN)
    Writer(database).record([final_callback(call, number) for number, call in enumerate(placed)], BEGAN)
    return [normalised(call.reference_id) for call in placed]


def forge(database: Database, reference_id: str, seconds: float = 1000, **said: Any) -> None:
    """A forged final callback, later than the true one."""
    received_at = BEGAN + timedelta(seconds=seconds)
    Writer(database).record([callback(reference_id, received_at=received_at, **({"send_status": 5} | said))], BEGAN)


def everything(database: Database) -> dict[str, list[Any]]:
    """All that is stored, but for the shared rate."""
    tables = [table for table in Base.metadata.sorted_tables if table.name not in {"lookup_rate", "lookup_latencies"}]
    with database.snapshot(limited=False) as connection:
        return {
            table.name: connection.execute(select(table).order_by(*table.primary_key)).all()  # type: ignore[misc]
            for table in tables
        }


def auditor(database: Database, *, fix: bool = False) -> Auditor:
    settings = load_settings()
    client = Client(settings.esms_api_url, API_KEY, SECRET_KEY, settings.esms_timeout)
    return Auditor(database, client, settings, fix=fix)


# What is found


def forgeries(truth: PlacedCall) -> dict[str, dict[str, Any]]:
    """Callbacks that say something untrue about an answered call in which a key was pressed; by what they forge."""
    true: dict[str, Any] = {
        "CallStatus": "ANSWERED",
        "CallDuration": truth.call_duration,
        "Ivr": truth.ivr,
        "SendStatus": 5,
        "SentResult": 1,
        "Price": truth.price,
        "CID": truth.cid,
    }
    untrue: dict[str, dict[str, Any]] = {
        "call_status": {"CallStatus": "NO ANSWER"},
        "call_duration": {"CallDuration": truth.call_duration + 1},
        "ivr": {"Ivr": "9"},
        "send_status": {"SendStatus": 4},
        "sent_result": {"SentResult": 0},
        "price": {"Price": "1.0000"},
        "cid": {"CID": "02800000000"},
    }
    return {field: true | said for field, said in untrue.items()}


@ON_SQLITE
@pytest.mark.usefixtures("settings")
def test_in_a_campaign_each_forgery_that_esms_can_confirm_is_found_and_nothing_else(
    tmp_path: Path, settings: Settings, esms: Sandbox
) -> None:
    """With doubled and late callbacks, and failed calls whose CallStatus is empty; --fix then makes all true."""
    esms.options = replace(esms.options, doubled=0.2, late=0.2, late_by=0.2)
    with serving(tmp_path / "server.log") as url:
        address = f"{url}/esms/callback/{settings.callback_tokens()[0]}"
        placed = esms.place(100, callback_url=address)
        assert esms_calls("register", stdin=as_csv(placed)).returncode == 0
        assert esms.wait(60)
        assert {True} == {any(getattr(call, fate) for call in placed) for fate in ("doubled", "late")}
        assert any(call.call_status is None for call in placed)
        findings = found(code=0)
        assert (findings["population"], findings["asked"], findings["agree"], findings["bound"]) == (
            100,
            100,
            100,
            None,
        )

        answered = [call for call in placed if call.call_status == "ANSWERED" and call.ivr]
        forged: dict[str, list[str]] = {}
        for field, victims in zip(forgeries(answered[0]), batches(answered, 3), strict=False):
            for victim in victims:
                say(address, victim, forgeries(victim)[field])
                if field in LOOKUP_FIELDS and field != "price":  # eSMS says that of voice OTP alone
                    forged[normalised(victim.reference_id)] = [field]
        keyless = next(call for call in placed if call.call_status == "ANSWERED" and not call.ivr)
        say(address, keyless, {"CallStatus": "ANSWERED", "SendStatus": 5, "Ivr": "7"})
        two_at_once = answered[21]
        say(
            address, two_at_once, {"CallStatus": "BUSY", "SendStatus": 5, "CallDuration": two_at_once.call_duration + 9}
        )
        forged[normalised(two_at_once.reference_id)] = ["call_status", "call_duration"]
        say(address, None, {"ReferenceId": "never-placed", "CallStatus": "ANSWERED", "SendStatus": 5})

        findings = found(code=1)

        assert len(forged) == 16
        assert differing(findings) == forged
        assert (findings["unknown"], findings["undecided"], findings["failed"], findings["unasked"]) == (
            ["never-placed"],
            [],
            0,
            0,
        )
        one = next(one for one in findings["disagree"] if one["fields"] == ["call_status", "call_duration"])
        truth = esms.calls[one["reference_id"]]
        assert one["stored"] == {"call_status": "BUSY", "call_duration": truth.call_duration + 9}
        assert one["esms"] == {"call_status": "ANSWERED", "call_duration": truth.call_duration}
        assert "effect" not in one

        findings = found("--fix", code=1)
        assert differing(findings) == forged
        assert {one["put_right"] for one in findings["disagree"]} == {True}
        rank = dict.fromkeys(("call_status", "call_duration", "ivr", "sent_result"), "corrected")
        assert [one["effect"] for one in findings["disagree"]] == [
            rank.get(one["fields"][0], "confirmed") for one in findings["disagree"]
        ]

        findings = found(code=1)
        assert (findings["disagree"], findings["unknown"], findings["agree"]) == ([], ["never-placed"], 100)
        assert found("--campaign", "june", code=0)["asked"] == 100
        exported = [json.loads(line) for line in esms_calls("export", "--format", "jsonl").stdout.splitlines()]
        for call in exported:
            if truth_of := esms.calls.get(call["reference_id"]):
                assert call["call_status"] == truth_of.lookup_status
                assert (call["call_duration"], call["sent_result"], call["send_status"], call["conflict"]) == (
                    truth_of.call_duration,
                    truth_of.sent_result,
                    5,
                    False,
                )
        assert esms_calls("replay", "--check").returncode == 0


def as_csv(placed: list[PlacedCall]) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["reference_id", "campaign"])
    rows.writerows([call.reference_id, "june"] for call in placed)
    return text.getvalue()


def batches(calls: list[PlacedCall], size: int) -> Iterator[list[PlacedCall]]:
    return (calls[place : place + size] for place in range(0, len(calls), size))


def say(address: str, call: PlacedCall | None, said: dict[str, Any]) -> None:
    identity = {"ReferenceId": call.reference_id} if call else {}
    answer = requests.get(address, params=identity | said, timeout=10)
    assert answer.status_code == 200, answer.text


@ON_SQLITE
def test_a_call_that_esms_does_not_know_is_a_finding_of_its_own(esms: Sandbox, database: Database) -> None:
    one, other, *rest = settled(esms, database, 5)
    esms.faults = {one: "104", other: "105"}

    findings = found(code=1)
    shown = audit()

    assert (sorted(findings["unknown"]), findings["disagree"], findings["agree"]) == (
        sorted([one, other]),
        [],
        len(rest),
    )
    assert shown.exit_code == 1
    assert "unknown to eSMS (code 104 or 105): forged, or too old for it: 2\n" in shown.stdout
    assert f"  {one}\n" in shown.stdout


@ON_SQLITE
def test_an_answer_that_is_not_final_disagrees_in_send_status_and_nothing_said_is_no_finding(
    esms: Sandbox, database: Database
) -> None:
    one, other, *_ = settled(esms, database, 4)
    esms.faults = {one: "not-final", other: "nothing-said"}

    findings = found("--fix", code=1)

    assert findings["disagree"] == [
        {
            "reference_id": one,
            "fields": ["send_status"],
            "stored": {"send_status": 5},
            "esms": {"send_status": 7},
            "final": False,
            "effect": "stale",
            "put_right": False,
        }
    ]
    assert findings["undecided"] == [other]
    assert "5       7 (not over)" in audit().stdout
    assert stored_call(database, one).send_status == 5


@ON_SQLITE
def test_unknown_codes_and_failures_are_no_findings_and_are_named(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESMS_TIMEOUT", "1s")
    names = settled(esms, database, 8)
    faults = ["unknown-code", "http-500", "hang", "reset", "garbage", "wrong-reference", "http-503"]
    esms.faults = dict(zip(names, faults, strict=False))

    findings = found(code=1)
    shown = audit()

    codes = ["999", "http-500", "timeout", "unreachable", "unreadable", "wrong-reference", "http-503"]
    assert findings["failures"] == dict.fromkeys(codes, 1)
    assert (findings["failed"], findings["agree"], *(findings[name] for name in FINDINGS)) == (7, 1, [], [], [])
    assert shown.exit_code == 1
    assert f"failed with timeout: 1. No whole answer came within ESMS_TIMEOUT.\n  {names[2]}\n" in shown.stdout
    monkeypatch.setattr(failures, "NAMED_FAILURES", 2)
    esms.faults = dict.fromkeys(names[:5], "http-500")
    assert re.search(r"failed with http-500: 5\.\n  \S+, \S+ and 3 more\n", audit().stdout)


@ON_SQLITE
def test_code_99_decides_nothing_by_itself(esms: Sandbox, database: Database) -> None:
    names = settled(esms, database, 2)
    esms.answer_all_with("99")

    findings = found(code=1)

    assert (sorted(findings["undecided"]), findings["compared"]) == (sorted(names), dict.fromkeys(LOOKUP_FIELDS, 0))


# Without --fix nothing is written


def test_without_fix_neither_calls_nor_history_nor_runs_change_at_all(esms: Sandbox, database: Database) -> None:
    one, other, third, *_ = settled(esms, database, 6)
    forge(database, one, ivr="9")
    forge(database, "never-placed", call_status="ANSWERED")
    esms.faults = {other: "not-final", third: "unknown-code"}
    before = everything(database)

    for arguments in ([], ["--sample", "3"], ["--unregistered"]):
        audit(*arguments)

    assert everything(database) == before
    assert before["calls"][0].conflict or any(call.conflict for call in before["calls"])


def test_with_fix_every_answer_is_a_report_and_no_attempt_is_charged(esms: Sandbox, database: Database) -> None:
    one, other, *rest = settled(esms, database, 4)
    forge(database, one, ivr="9", sent_result=0)
    forge(database, other, price=Decimal(1))

    findings = found("--fix", code=1)

    assert set(differing(findings)) == {one}
    for name in (one, other, *rest):
        call, truth = stored_call(database, name), esms.calls[name]
        *_, report = stored_reports(database, name)
        assert (report.source, call.confirmed_at) == ("lookup", report.received_at)
        assert (call.call_status, call.sent_result) == (truth.lookup_status, truth.sent_result)
        assert (call.lookup_count, call.next_lookup_at, call.conflict) == (0, None, False)
    assert found(code=0)["agree"] == 4


def test_what_a_forger_dates_into_the_future_of_our_clock_stays_and_is_reported(
    esms: Sandbox, database: Database
) -> None:
    """For the outcome a lookup beats every callback; for SendStatus the newest report wins."""
    (name,) = settled(esms, database, 1)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    Writer(database).record([callback(name, received_at=tomorrow, send_status=4)], BEGAN)

    (one,) = found("--fix", code=1)["disagree"]

    assert (one["fields"], one["put_right"]) == (["send_status"], False)


# Which calls


def test_only_settled_calls_in_the_range_are_asked_about_whatever_their_age(esms: Sandbox, database: Database) -> None:
    june = settled(esms, database, 4)
    july = settled(esms, database, 2, campaign="july")
    unregistered = settled(esms, database, 3, campaign=None)
    Writer(database).register([Registration(reference_id="missing")], BEGAN)
    Writer(database).record([callback("ringing", send_status=7)], BEGAN)

    def after(seconds: int) -> str:
        return (BEGAN + timedelta(seconds=seconds)).isoformat()

    def asked(*arguments: object) -> set[str]:
        esms.lookups.clear()
        found(*arguments, code=0, RECONCILE_GIVE_UP="1s")
        return {one.reference_id for one in esms.lookups}

    assert asked() == {*june, *july, *unregistered}
    assert asked("--campaign", "july") == set(july)
    assert asked("--unregistered") == set(unregistered)
    assert asked("--campaign", "june", "--since", after(1), "--until", after(3)) == set(june[1:3])
    assert asked("--until", after(1)) == {june[0], july[0], unregistered[0]}


@ON_SQLITE
def test_nothing_to_ask_about_is_said_in_words(esms: Sandbox) -> None:
    shown = audit("--campaign", "none")

    assert (shown.exit_code, shown.stdout) == (
        0,
        "No call in this range is settled: there is nothing to ask about.\n",
    )
    assert found("--sample", 5, code=0)["population"] == 0
    assert esms.lookups == []


@pytest.mark.parametrize(("sample", "size"), [("7", 7), ("1%", 1), ("10%", 4), ("99.9%", 40), ("1000", 40)])
@ON_SQLITE
def test_a_sample_asks_about_exactly_as_many_and_the_seed_repeats_it(
    esms: Sandbox, database: Database, sample: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_PORTION", 7)
    monkeypatch.setattr("webapp.storage.reader._PORTION", 7)
    names = settled(esms, database, 40)

    findings = found("--sample", sample, code=0)
    first = [one.reference_id for one in esms.lookups]
    esms.lookups.clear()
    again = found("--sample", sample, "--seed", findings["seed"], code=0)
    second = [one.reference_id for one in esms.lookups]

    assert (findings["population"], findings["sample"], findings["asked"], findings["agree"]) == (40, size, size, size)
    assert len(set(first)) == len(first) == size
    assert set(first) <= set(names)
    assert sorted(first) == sorted(second)
    assert {**findings, "seconds": 0} == {**again, "seconds": 0}
    if size < 40:
        assert findings["bound"] == pytest.approx(1 - 0.05 ** (1 / size))
    else:
        assert findings["bound"] is None


def test_a_full_audit_reads_its_calls_in_portions(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_PORTION", 7)
    names = settled(esms, database, 30)

    findings = found(code=0)

    assert sorted(one.reference_id for one in esms.lookups) == sorted(names)
    assert (findings["sample"], findings["seed"], findings["asked"], findings["unasked"]) == (None, None, 30, 0)


@ON_SQLITE
def test_any_seed_is_taken_and_printed_by_default(esms: Sandbox, database: Database) -> None:
    settled(esms, database, 30)

    seeds = {found("--sample", 1, code=0)["seed"] for _ in range(3)}
    (shown,) = re.findall(r"--seed ([0-9]+) draws them again", audit("--sample", "2").stdout)

    assert len(seeds) == 3
    assert int(shown) >= 0


# While calls change


def test_a_report_that_comes_while_esms_is_asked_makes_no_false_finding(esms: Sandbox, database: Database) -> None:
    """It is asked about once more, and compared with the call as it is then."""
    (name,) = settled(esms, database, 1)
    truth = esms.calls[name]
    forge(database, name, call_status="BUSY")
    esms.options = replace(esms.options, latency=0.3)

    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(auditor(database).run, CallFilter(), None, 0, stop=Event(), watch=lambda _: None)
        until(lambda: esms.lookups)
        Writer(database).record([final_callback(truth, 2000, call_status=truth.lookup_status)], BEGAN)
        findings = run.result()

    assert (findings.agree, findings.disagreeing, findings.undecided) == (1, [], [])
    assert len(esms.lookups) == 2


def test_a_call_that_changes_again_and_again_is_left_undecided(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback comes between any two readings of the call."""
    (name, other) = settled(esms, database, 2)
    seconds = iter(range(1000, 2000))

    calls_by_id = Reader.calls_by_id

    def calls_that_change(reader: Reader, reference_ids: Any) -> dict[str, Call]:
        forge(database, name, next(seconds), price=Decimal(1))
        return calls_by_id(reader, reference_ids)

    monkeypatch.setattr(Reader, "calls_by_id", calls_that_change)

    findings = auditor(database, fix=True).run(CallFilter(), None, 0, stop=Event(), watch=lambda _: None)

    assert (findings.undecided, findings.agree, findings.unasked, findings.all_agree) == ([name], 1, 0, False)
    assert Counter(one.reference_id for one in esms.lookups) == {name: 2, other: 1}
    assert {report.source for report in stored_reports(database, name)} == {"callback"}


def test_a_call_that_is_gone_meanwhile_is_undecided(esms: Sandbox, database: Database) -> None:
    (name,) = settled(esms, database, 1)
    esms.options = replace(esms.options, latency=0.3)

    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(auditor(database).run, CallFilter(), None, 0, stop=Event(), watch=lambda _: None)
        until(lambda: esms.lookups)
        change_by_hand(database, "DELETE FROM calls")
        findings = run.result()

    assert (findings.undecided, findings.unasked) == ([name], 0)


# How it may end


@pytest.mark.parametrize("code", ["101", "140", "143"])
@ON_SQLITE
def test_a_refused_account_ends_it_at_once_with_3(esms: Sandbox, database: Database, code: str) -> None:
    settled(esms, database, 10)
    esms.answer_all_with(code)

    result = audit("--json", RECONCILE_CONCURRENCY="2")

    findings = json.loads(result.stdout)
    assert (result.exit_code, findings["asked"], findings["unasked"], findings["cut_short"]) == (3, 0, 10, "refused")
    assert len(esms.lookups) <= 4
    assert f"Error: eSMS refuses the account (code {code})" in result.stderr
    assert "not asked about: 10, because eSMS refuses the account" in result.stderr


@ON_SQLITE
def test_when_esms_does_not_answer_it_ends_after_30_look_ups_and_says_how_many_were_not_asked(
    esms: Sandbox, database: Database
) -> None:
    settled(esms, database, 100)
    esms.answer_all_with("reset")
    before = everything(database)

    findings = found(code=1)
    shown = audit("--sample", "90")

    assert (findings["asked"], findings["cut_short"], findings["bound"]) == (findings["failed"], "no answer", None)
    assert 30 <= findings["asked"] == 100 - findings["unasked"] <= 60
    assert shown.exit_code == 1
    assert "Nothing is known about the share of disagreeing calls" in shown.stdout
    assert re.search("not asked about: [0-9]+, because eSMS does not answer", shown.stdout)
    assert re.search(r"Error: eSMS does not answer \(unreachable [0-9]+; 127\.0\.0\.1\)", shown.stderr)
    assert len(esms.lookups) <= 120
    assert everything(database) == before


@ON_SQLITE
def test_when_esms_goes_down_in_between_what_was_found_is_shown(esms: Sandbox, database: Database) -> None:
    names = sorted(settled(esms, database, 150))
    forge(database, names[0], call_status="BUSY")
    esms.faults = dict.fromkeys(names[40:], "reset")

    findings = found(code=1)
    shown = audit().stdout

    assert differing(findings) == {names[0]: ["call_status"]}
    assert findings["cut_short"] == "no answer"
    assert findings["agree"] == 39
    # At most 60 go out after the last answer, and 7 of a concurrency of 8 before it.
    assert 70 <= findings["asked"] == 150 - findings["unasked"] <= 107
    assert "Nothing is estimated for the other calls: those asked about are not a random sample." in shown


@ON_SQLITE
def test_a_call_that_is_always_rate_limited_has_failed_after_three_repeats(esms: Sandbox, database: Database) -> None:
    settled(esms, database, 3)
    esms.answer_all_with("160")

    findings = found(code=1)

    assert (findings["failures"], findings["unasked"], findings["cut_short"]) == ({"160": 3}, 0, None)
    assert set(Counter(one.reference_id for one in esms.lookups).values()) == {4}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@ON_SQLITE
def test_when_interrupted_it_finishes_what_is_in_flight_and_reports_what_it_has(
    esms: Sandbox, database: Database, number: signal.Signals
) -> None:
    settled(esms, database, 30)
    esms.options = replace(esms.options, latency=0.2)
    environment = {"RECONCILE_CONCURRENCY": "3"}
    with Program("audit", "--json", "--sample", "20", environment=environment) as process:
        until(lambda: len(esms.lookups) >= 6)
        process.send_signal(number)
        shown, words = process.communicate(timeout=30)

    findings = json.loads(shown)
    done = len(esms.lookups)
    assert done < 20
    assert (process.returncode, findings["cut_short"]) == (1, "interrupted")
    assert (findings["asked"], findings["agree"], findings["unasked"]) == (done, done, 20 - done)
    assert findings["bound"] == pytest.approx(upper_bound(0, done))
    assert f"not asked about: {20 - done}, because the run was interrupted" in words


def test_it_can_be_stopped_while_it_draws(esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "_PORTION", 1)
    settled(esms, database, 10)
    stop = Event()

    findings = auditor(database).run(CallFilter(), 5, 1, stop=stop, watch=lambda _: stop.set())

    assert (findings.asked, findings.unasked, findings.cut_short, esms.lookups) == (0, 5, "interrupted", [])


@ON_SQLITE
def test_a_sample_of_all_that_is_cut_short_is_a_smaller_sample(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILE_CONCURRENCY", "2")
    settled(esms, database, 40)
    stop = Event()

    def watch(findings: Audit) -> None:
        if findings.asked >= 5:
            stop.set()

    findings = auditor(database).run(CallFilter(), Fraction(1), 3, stop=stop, watch=watch)

    assert 5 <= findings.asked == 40 - findings.unasked < 40
    assert findings.bound == upper_bound(0, findings.asked)


def test_a_call_that_is_settled_while_all_are_asked_about_may_be_asked_about_and_is_counted_then(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_PORTION", 1)
    settled(esms, database, 9)

    def watch(findings: Audit) -> None:
        assert findings.unasked >= 0
        if not stored_reports(database, "z-meanwhile"):
            forge(database, "z-meanwhile", call_status="ANSWERED")

    monkeypatch.setenv("RECONCILE_CONCURRENCY", "1")
    findings = auditor(database).run(CallFilter(), None, 0, stop=Event(), watch=watch)

    assert (findings.unknown, findings.agree, findings.population, findings.wanted) == (["z-meanwhile"], 9, 10, 10)


def test_a_database_that_goes_away_ends_it_with_4_and_what_was_found_is_reported(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(settled(esms, database, 100))
    forge(database, names[0], call_status="BUSY")
    real = Reader.calls_by_id

    def calls_by_id(reader: Reader, reference_ids: Any) -> dict[str, Call]:
        if len(esms.lookups) > 50:
            raise Unavailable("it is away")
        return real(reader, reference_ids)

    monkeypatch.setattr(Reader, "calls_by_id", calls_by_id)

    result = audit("--json", RECONCILE_CONCURRENCY="4")

    findings = json.loads(result.stdout)
    assert (result.exit_code, findings["cut_short"]) == (4, "database")
    assert 0 < findings["asked"] < 100
    assert differing(findings) == {names[0]: ["call_status"]}
    assert "because the database cannot be reached" in result.stderr
    assert "Error: The database cannot be used: it is away" in result.stderr


@ON_SQLITE
@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--sample", "0"], {}, "'0' is neither a number of calls, such as 1000, nor a share, such as 1%"),
        (["--sample", "0%"], {}, "'0%' is neither"),
        (["--sample", "101%"], {}, "'101%' is neither"),
        (["--sample", "-1"], {}, "'-1' is neither"),
        (["--sample", "1e3"], {}, "'1e3' is neither"),
        (["--sample", "٣"], {}, "is neither"),
        (["--seed", "1"], {}, "--seed goes with --sample"),
        (["--sample", "1", "--seed", "x"], {}, "--seed"),
        (["--since", "someday"], {}, "--since"),
        (["now"], {}, "now"),
        ([], {"ESMS_API_KEY": None}, "ESMS_API_KEY"),
        ([], {"RECONCILE_RATE": "0"}, "RECONCILE_RATE"),
    ],
)
def test_a_wrong_option_or_setting_ends_it_with_2(
    esms: Sandbox, arguments: list[str], environment: dict[str, str | None], named: str
) -> None:
    result = audit(*arguments, **environment)

    assert (result.exit_code, result.stdout, esms.lookups) == (2, "", [])
    assert named in result.stderr


@ON_SQLITE
def test_a_database_that_is_not_there_is_4(esms: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 1000)
    result = audit(DATABASE_URL=f"sqlite:///{tmp_path}/text")

    assert (result.exit_code, result.stdout, esms.lookups) == (4, "", [])


# The rate


@pytest.mark.parametrize("concurrency", ["1", "2", "200"])
@ON_SQLITE
def test_any_concurrency_asks_about_every_call(esms: Sandbox, database: Database, concurrency: str) -> None:
    settled(esms, database, 220 if concurrency == "200" else 20)

    findings = found(code=0, RECONCILE_CONCURRENCY=concurrency)

    assert findings["agree"] == findings["population"]


@ON_SQLITE
def test_it_shares_one_rate_with_reconcile(esms: Sandbox, database: Database) -> None:
    """Together no more than RECONCILE_RATE look-ups leave in any second."""
    settled(esms, database, 25)
    missing = [normalised(call.reference_id) for call in esms.place(25)]
    Writer(database).register([Registration(reference_id=name, placed_at=BEGAN) for name in missing], BEGAN)

    with ThreadPoolExecutor(2) as threads:
        runs = [
            threads.submit(esms_calls, *arguments, RECONCILE_RATE="20")
            for arguments in (["audit", "--campaign", "june"], ["reconcile", "--older-than", "0s"])
        ]
        ends = [run.result() for run in runs]

    assert [end.returncode for end in ends] == [0, 0], ends
    times = sorted(one.at for one in esms.lookups)
    assert len(times) == 50
    # What is measured here is when they come: each takes its few milliseconds.
    assert min(later - earlier for earlier, later in zip(times, times[20:], strict=False)) > 0.9


# What is shown


@ON_SQLITE
def test_a_disagreement_is_one_line_and_a_sentence_says_what_is_proved(esms: Sandbox, database: Database) -> None:
    names = settled(esms, database, 3)
    truth = esms.calls[names[0]]
    forge(database, names[0], call_status="BUSY\x1b[2J\u202e", call_duration=999)

    shown = audit().stdout

    header, line = shown.splitlines()[:2]
    assert header.split("  ")[0] == "reference id"
    assert re.split(r"\s{2,}", line) == [
        names[0],
        "call_status, call_duration",
        r"BUSY\x1b[2J\u202e, 999",
        f"{truth.lookup_status}, {truth.call_duration}",
    ]
    assert "Asked about 3 of 3 settled calls" in shown
    assert "2 agree, 1 disagree, 0 are unknown to eSMS, 0 are undecided, 0 failed." in shown
    assert "not cid, not the price of a voice call, and no value that eSMS or the store leaves empty." in shown
    assert "Every settled call in the range was asked about: nothing is estimated." in shown
    assert "\x1b" not in shown


@ON_SQLITE
def test_of_many_findings_the_first_are_shown_and_json_has_all(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.cli.audit._SHOWN_CALLS", 2)
    names = settled(esms, database, 5)
    for name in names:
        forge(database, name, call_status="BUSY")

    shown = audit("--fix")

    assert sum(name in shown.stdout for name in names) == 2
    assert "  and 3 more; --json has them all" in shown.stdout
    assert "of 5 calls that disagreed, 5 now say what eSMS says." in shown.stdout
    assert shown.stdout.count("  corrected\n") == 2


@ON_SQLITE
def test_a_sample_says_how_large_the_share_of_wrong_calls_can_be(esms: Sandbox, database: Database) -> None:
    names = settled(esms, database, 60)
    esms.faults = {names[0]: "105"}

    shown = audit("--sample", "59", "--seed", "4").stdout
    findings = found(
        "--sample", "59", "--seed", "4", code=1 if names[0] in {one.reference_id for one in esms.lookups} else 0
    )

    checked = findings["agree"]
    percent = math.ceil(10000 * (1 - 0.05 ** (1 / checked))) / 100
    assert f"A random sample of {checked} (--seed 4 draws them again)" in shown
    assert f"with 95 % confidence at most {percent:.2f} % of the 60 calls disagree" in shown
    assert findings["bound"] == pytest.approx(upper_bound(0, checked))


def test_the_help_says_that_fix_does_not_change_the_exit_code() -> None:
    assert command.help
    assert "also where --fix put them right" in command.help
