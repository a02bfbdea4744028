"""What a run does and says about the way to eSMS: TLS, proxies, clocks, the message API, and when it last answered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from constants import API_KEY, SECRET_KEY
from makers import callback, stored_call, stored_reports
from peers import connect_proxy, new_authority, peer, replying, saying, server_context
from reconciling import ON_SQLITE, Command, asked, counts, everything, make_due, missing, rows

from webapp.calls.rule import Registration
from webapp.esms.sandbox.calls import normalised
from webapp.esms.sandbox.options import Options
from webapp.esms.sandbox.service import Sandbox
from webapp.reconcile import run
from webapp.storage.claims import due_at
from webapp.storage.models import reconcile_runs
from webapp.storage.reader import Reader
from webapp.storage.writer import Writer
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.calls.report import Kind
    from webapp.esms.sandbox.calls import PlacedCall
    from webapp.storage.database import Database

pytestmark = ON_SQLITE
NOW = ("--older-than", "0s")


def answered_at(database: Database) -> datetime | None:
    """Of the last run."""
    at: datetime | None = max(rows(database, reconcile_runs), key=lambda run: run["started_at"])["answered_at"]
    return at


# TLS, proxies and clear text


def test_a_certificate_that_is_not_trusted_is_named_with_the_remedy(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    reference_id, _ = missing(esms, database, 2)
    with peer(saying(CodeResponse="100"), server_context(new_authority(), "127.0.0.1")) as served:
        result = reconcile(*NOW, ESMS_API_URL=served.url)
    assert result.exit_code == 1
    assert "failed with tls: 2" in result.stdout
    assert "The TLS connection to 127.0.0.1 failed: " in result.stdout
    assert "ESMS_CA_BUNDLE" in result.stdout
    assert answered_at(database) is None
    assert stored_call(database, reference_id).last_lookup_code == "tls"


def test_a_run_that_ends_because_nothing_is_trusted_says_so(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    missing(esms, database, 40)
    with peer(saying(CodeResponse="100"), server_context(new_authority(), "127.0.0.1")) as served:
        result = reconcile(*NOW, ESMS_API_URL=served.url)
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert re.match(r"Error: eSMS does not answer \(tls \d+; 127\.0\.0\.1\)\. The TLS connection to ", error)
    assert "ESMS_CA_BUNDLE" in error


def test_with_the_bundle_and_through_a_proxy_calls_are_settled(
    esms: Sandbox, database: Database, reconcile: Command, tmp_path: Path
) -> None:
    reference_ids = missing(esms, database, 3)
    authority, bundle = new_authority(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    answer = saying(CodeResponse="100", SendStatus=5, CallStatus="ANSWERED")
    with peer(answer, server_context(authority, "127.0.0.1")) as served, connect_proxy() as proxy:
        for name in ("ESMS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            environment = {"ESMS_API_URL": served.url, "HTTPS_PROXY": proxy.url, name: str(bundle)}
            result = reconcile(*NOW, "--limit", "1", **environment)
            assert result.exit_code == 0, result.output
        assert len(proxy.requests) == 3
    assert {stored_call(database, name).call_status for name in reference_ids} == {"ANSWERED"}


@pytest.mark.parametrize("name", ["ESMS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, "not a certificate"])
@pytest.mark.parametrize("command", ["reconcile", "audit"])
def test_a_bundle_that_cannot_be_used_is_named(
    esms: Sandbox,  # noqa: ARG001 - it sets the keys
    tmp_path: Path,
    reconcile: Command,
    name: str,
    content: str | None,
    command: str,
) -> None:
    file = tmp_path / "bundle.pem"
    if content is not None:
        file.write_text(content)
    result = reconcile.invoke(command, **{name: str(file)})
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {name} cannot be ")
    assert str(file) in result.stderr
    assert "PEM" in result.stderr


@pytest.mark.parametrize("url", ["http://esms.example.vn/json", "http://192.0.2.1/json"])
def test_http_to_another_machine_is_warned_of_once(
    esms: Sandbox, reconcile: Command, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    assert reconcile(ESMS_API_URL=url, ESMS_MESSAGE_API_URL="off").exit_code == 0
    warnings = [record.getMessage() for record in caplog.records if "http://" in record.getMessage()]
    assert warnings == [
        "ESMS_API_URL begins with http://: the keys of your eSMS account go in clear to another machine. Use https://."
    ]
    caplog.clear()
    assert reconcile(ESMS_API_URL=esms.api_url).exit_code == 0
    assert "http://" not in caplog.text


def test_a_socks_proxy_is_refused_in_words_where_it_would_be_used(esms: Sandbox, reconcile: Command) -> None:
    https = {"ESMS_API_URL": "https://esms.example.vn/json", "HTTPS_PROXY": "socks5://user:hidden@127.0.0.1:1080"}
    result = reconcile(**https)
    assert result.exit_code == 2
    assert "HTTPS_PROXY is a SOCKS proxy" in result.stderr
    assert "hidden" not in result.output
    assert reconcile(**https, NO_PROXY=".example.vn").exit_code == 0
    assert reconcile(**(https | {"ESMS_API_URL": esms.api_url})).exit_code == 0


@pytest.mark.parametrize("refusal", ["407 Proxy Authentication Required", "407 Proxy refuses hidden/word", ""])
def test_the_proxys_password_is_shown_nowhere(
    esms: Sandbox, database: Database, reconcile: Command, caplog: pytest.LogCaptureFixture, refusal: str
) -> None:
    """Whether the proxy refuses, or what is behind it cannot be trusted."""
    missing(esms, database, 1)
    context = server_context(new_authority(), "127.0.0.1")
    with connect_proxy(refusal) as proxy, peer(saying(CodeResponse="100"), context) as served:
        proxy_url = proxy.url.replace("http://", "http://someone:hidden%2Fword@")
        result = reconcile(*NOW, ESMS_API_URL=served.url, HTTPS_PROXY=proxy_url)
        assert len(proxy.requests) == 1
    assert result.exit_code == 1
    assert ("does not connect to 127.0.0.1 (407 Proxy" in result.stdout) == bool(refusal)
    shown = f"{result.output} {caplog.text} {everything(database)}"
    assert [word for word in ("hidden", "c29tZW9uZTpoaWRkZW4vd29yZA==") if word in shown] == []


def test_a_callback_url_that_esms_repeats_is_stored_without_its_token(
    esms: Sandbox, database: Database, reconcile: Command
) -> None:
    (reference_id,) = missing(esms, database, 1)
    token = "the-callback-token-of-this-test"
    url = f"https://calls.example.vn/esms/callback/{token}?ReferenceId="
    repeated = {"CallbackUrl": url, "Placed": quote(url, safe=""), "ErrorMessage": f"{token} is the token"}
    with peer(saying(CodeResponse="100", SendStatus=5, CallStatus="ANSWERED", **repeated)) as served:
        result = reconcile(*NOW, ESMS_API_URL=served.url, CALLBACK_TOKEN=token)
    assert result.exit_code == 0, result.output
    (report,) = stored_reports(database, reference_id)
    assert json.loads(report.payload)["ErrorMessage"] == "*** is the token"
    assert token not in f"{result.output} {everything(database)}"


# When eSMS last answered


@pytest.mark.parametrize(
    ("fault", "answered"),
    [
        *((fault, True) for fault in ("105", "101", "unknown-code", "garbage", "redirect")),
        *((fault, False) for fault in ("http-500", "reset", "hang")),
    ],
)
def test_a_run_says_when_esms_last_answered(
    esms: Sandbox,
    database: Database,
    reconcile: Command,
    fault: str,
    answered: bool,  # noqa: FBT001
) -> None:
    missing(esms, database, 2)
    esms.answer_all_with(fault)
    began = datetime.now(UTC)
    result = reconcile(*NOW, "--json", ESMS_TIMEOUT="1s")
    at = json.loads(result.stdout)["answered_at"]
    assert (at is not None) == answered
    if answered:
        assert began - timedelta(seconds=1) <= datetime.fromisoformat(at) <= datetime.now(UTC)
        assert datetime.fromisoformat(at) == answered_at(database)


def test_a_run_with_nothing_due_has_no_answer(esms: Sandbox, database: Database, reconcile: Command) -> None:
    assert json.loads(reconcile("--json").stdout)["answered_at"] is None
    assert answered_at(database) is None
    assert asked(esms) == []


def test_an_answer_among_failures_counts(esms: Sandbox, database: Database, reconcile: Command) -> None:
    first, *others = missing(esms, database, 5)
    esms.faults.update(dict.fromkeys(others, "reset"))
    result = reconcile(*NOW, "--json")
    assert counts(result.stdout) == {"checked": 5, "settled": 1, "failed": 4}
    assert answered_at(database) is not None
    assert stored_call(database, first).settled


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_failure_before_an_answer_of_the_same_run_is_no_outage_whatever_changes_its_call_later(
    esms: Sandbox, database: Database, reconcile: Command, concurrency: int
) -> None:
    first, *_ = missing(esms, database, 5)
    esms.faults[first] = "reset"
    reconcile(*NOW, RECONCILE_CONCURRENCY=str(concurrency), RECONCILE_RATE="50")
    due, now = due_at(datetime.now(UTC), Settings()), datetime.now(UTC)
    assert Reader(database).status(due).no_answer.codes == {}
    Writer(database).record([callback(first, received_at=now, send_status=7)], now)
    assert Reader(database).status(due).no_answer.codes == {}

    esms.faults[first] = "reset"
    make_due(database, first)
    reconcile(*NOW)
    assert Reader(database).status(due).no_answer.codes == {"unreachable": 1}


# Clocks


@pytest.mark.parametrize(("seconds", "words"), [(300, "300 s ahead of eSMS's"), (-86400, "86400 s behind eSMS's")])
def test_a_clock_that_is_off_is_reported_once(
    esms: Sandbox,
    database: Database,
    reconcile: Command,
    caplog: pytest.LogCaptureFixture,
    seconds: int,
    words: str,
) -> None:
    missing(esms, database, 10)
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=seconds), usegmt=True)
    body = '{"CodeResult": "105"}'
    with peer(replying("HTTP/1.1 200 OK", f"Date: {date}", body=body)) as served:
        result = reconcile(*NOW, ESMS_API_URL=served.url)
    number, whose = words.split(" s ")
    found = [line for line in result.stdout.splitlines() if "This machine's clock is" in line]
    assert len(found) == 1
    assert whose in found[0]
    assert "set it by NTP" in found[0]
    assert abs(int(found[0].partition("clock is ")[2].partition(" s ")[0]) - int(number)) <= 5
    assert len([record for record in caplog.records if "This machine's clock is" in record.getMessage()]) == 1


def test_a_clock_that_differs_from_the_databases_is_reported(
    esms: Sandbox,  # noqa: ARG001 - it sets the rest
    reconcile: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where no call is due."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(minutes=10)

    monkeypatch.setattr(run, "datetime", Ahead)
    result = reconcile()
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if "This machine's clock is" in line]
    assert re.match(r"! This machine's clock is (600|599) s ahead of the database's: set it by NTP", line)


def test_a_clock_that_is_right_is_not_mentioned(esms: Sandbox, database: Database, reconcile: Command) -> None:
    missing(esms, database, 3)
    assert "clock" not in reconcile(*NOW).output


# Voice OTP


def playing(**options: float) -> Sandbox:
    """Another eSMS in place of the usual one."""
    return Sandbox(Options(api_key=API_KEY, secret_key=SECRET_KEY, **options))  # type: ignore[arg-type]


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {"ESMS_API_URL": sandbox.api_url, "ESMS_MESSAGE_API_URL": sandbox.message_api_url}


def register(database: Database, placed: list[PlacedCall], kind: Kind | None) -> list[str]:
    """Register the calls as placed an hour ago."""
    now = datetime.now(UTC)
    registrations = [
        Registration(
            reference_id=normalised(call.reference_id),
            placed_at=now - timedelta(hours=1),
            kind=kind,
            esms_id=call.reference_id,
        )
        for call in placed
    ]
    Writer(database).register(registrations, now)
    return [registration.reference_id for registration in registrations]


@pytest.mark.parametrize(("kind", "apis"), [("otp", ["otp"]), (None, ["voice", "otp"])])
def test_a_voice_otp_is_settled_by_the_message_api_in_one_look_up(
    esms: Sandbox,  # noqa: ARG001 - it sets the rest
    database: Database,
    reconcile: Command,
    kind: Kind | None,
    apis: list[str],
) -> None:
    with playing(otp=1) as sandbox:
        (placed,) = sandbox.place(1)
        (reference_id,) = register(database, [placed], kind)
        result = reconcile(*NOW, "--json", **environment(sandbox))
        assert counts(result.stdout) == {"checked": 1, "settled": 1}
        assert [lookup.api for lookup in sandbox.lookups] == apis
    call = stored_call(database, reference_id)
    assert (call.kind, call.lookup_count, call.settled_by) == ("otp", 1, "lookup")
    assert (call.sent_result, call.price, call.call_status) == (placed.sent_result, placed.price, None)
    (report,) = stored_reports(database, reference_id)
    assert (report.kind, report.lookup_code) == ("otp", "100")


def test_a_voice_call_is_asked_about_at_the_voice_api_alone(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
) -> None:
    with playing() as sandbox:
        register(database, sandbox.place(1), "voice")
        register(database, sandbox.place(1), None)
        assert counts(reconcile(*NOW, "--json", **environment(sandbox)).stdout) == {"checked": 2, "settled": 2}
        assert [lookup.api for lookup in sandbox.lookups] == ["voice", "voice"]


def test_a_call_that_neither_api_knows_is_not_found_and_stays_without_a_kind(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
) -> None:
    with playing() as sandbox, playing() as another:
        (reference_id,) = register(database, another.place(1), None)
        sandbox.calls.clear()
        assert counts(reconcile(*NOW, "--json", **environment(sandbox)).stdout) == {"checked": 1, "not_found": 1}
        assert [lookup.api for lookup in sandbox.lookups] == ["voice", "otp"]
    call = stored_call(database, reference_id)
    assert (call.kind, call.lookup_count, call.last_lookup_code) == (None, 1, "105")


def test_an_answer_that_says_nothing_shows_no_kind(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
) -> None:
    """Or a voice OTP that the voice API was too busy for would be asked about there for ever."""
    with playing(otp=1) as sandbox:
        (reference_id,) = register(database, sandbox.place(1), None)
        sandbox.answer_all_with("99")
        assert counts(reconcile(*NOW, "--json", **environment(sandbox)).stdout) == {"checked": 1, "pending": 1}
        assert stored_call(database, reference_id).kind is None
        sandbox.answer_all_with(None)
        make_due(database, reference_id)
        assert counts(reconcile(*NOW, "--json", **environment(sandbox)).stdout) == {"checked": 1, "settled": 1}
    assert stored_call(database, reference_id).kind == "otp"


def test_the_message_apis_refusal_of_the_account_ends_the_run(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
) -> None:
    unknown = saying(CodeResult="105", ErrorMessage="unknown")
    with playing() as sandbox, peer(unknown) as voice, peer(saying(CodeResponse="101", SMSID="x")) as message:
        (reference_id,) = register(database, sandbox.place(1), None)
        result = reconcile(*NOW, ESMS_API_URL=voice.url, ESMS_MESSAGE_API_URL=message.url)
    assert result.exit_code == 3
    assert "eSMS refuses the account (code 101)" in result.stderr
    assert stored_call(database, reference_id).lookup_count == 0


def test_esms_is_asked_with_the_id_as_it_spelled_it(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
) -> None:
    """As it was registered, else as the first report spelled it."""
    with playing(exact=1, otp=0.5) as sandbox:
        placed = [call for call in sandbox.place(400) if call.reference_id != normalised(call.reference_id)]
        assert len(placed) > 2
        register(database, placed[:2], None)
        now = datetime.now(UTC)
        reports = [
            replace(callback(normalised(call.reference_id), send_status=2), received_at=now - timedelta(hours=1))
            for call in placed[2:]
        ]
        spelled = [
            replace(report, esms_id=call.reference_id, kind=call.kind)
            for report, call in zip(reports, placed[2:], strict=True)
        ]
        Writer(database).record(spelled, now)
        result = reconcile(*NOW, "--json", **environment(sandbox))
        assert counts(result.stdout) == {"checked": len(placed), "settled": len(placed)}


def test_verify_confirms_voice_otp_at_the_message_api(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
) -> None:
    with playing(otp=1) as sandbox:
        (placed,) = sandbox.place(1)
        (reference_id,) = register(database, [placed], None)
        now = datetime.now(UTC)
        said: dict[str, Any] = {
            "send_status": 5,
            "sent_result": placed.sent_result,
            "price": placed.price,
            "kind": "otp",
        }
        Writer(database).record([callback(reference_id, **said)], now)
        result = reconcile(*NOW, "--json", VERIFY="all", **environment(sandbox))
        assert counts(result.stdout) == {"checked": 1, "settled": 1}
        assert [lookup.api for lookup in sandbox.lookups] == ["otp"]
    assert stored_call(database, reference_id).confirmed_at is not None


@pytest.mark.parametrize("forged", [False, True])
def test_an_audit_compares_the_price_of_a_voice_otp(
    esms: Sandbox,  # noqa: ARG001
    database: Database,
    reconcile: Command,
    forged: bool,  # noqa: FBT001
) -> None:
    with playing(otp=1) as sandbox:
        (placed,) = sandbox.place(1)
        (reference_id,) = register(database, [placed], None)
        said: dict[str, Any] = {"send_status": 5, "sent_result": placed.sent_result, "kind": "otp"}
        report = callback(reference_id, **said, price=placed.price + 1 if forged else placed.price)
        Writer(database).record([report], datetime.now(UTC))
        result = reconcile.invoke("audit", "--json", **environment(sandbox))
        assert [lookup.api for lookup in sandbox.lookups] == ["otp"]
    findings = json.loads(result.stdout)
    assert findings["agree"] == int(not forged)
    assert findings["compared"]["price"] == 1
    if forged:
        (one,) = findings["disagree"]
        assert one["stored"] == {"price": f"{report.price:.4f}"}
        assert one["esms"] == {"price": f"{placed.price:.4f}"}
