"""Doctor asks eSMS about a call that does not exist: keys, the way to eSMS, and its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import psycopg
import pytest
from commands import ON_POSTGRESQL, ON_SQLITE
from doctoring import examined
from peers import peer, replying
from reconciling import everything
from running import free_port
from servers import fresh_database
from sqlalchemy import make_url

if TYPE_CHECKING:
    from servers import Shared

    from webapp.esms.sandbox.service import Sandbox
    from webapp.storage.database import Database
    from webapp.support.settings import Settings

pytestmark = pytest.mark.usefixtures("healthy")


@ON_SQLITE
@pytest.mark.parametrize("code", ["104", "105"])
def test_keys_are_good_where_the_call_is_unknown_and_nothing_is_stored(
    esms: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("ESMS_MESSAGE_API_URL", esms.message_api_url)
    esms.answer_all_with(code)
    before = everything(database)
    found = examined()

    assert {"eSMS keys", "eSMS keys for voice OTP", "clock of eSMS"} <= found.of("ok"), found
    assert everything(database) == before
    assert [lookup.api for lookup in esms.lookups] == ["voice", "otp"]
    assert len({lookup.reference_id for lookup in esms.lookups}) == 1


@ON_SQLITE
@pytest.mark.parametrize(
    ("fault", "result", "words"),
    [
        ("101", "failed", "wrong -> check ESMS_API_KEY and ESMS_SECRET_KEY"),
        ("140", "failed", "not whitelisted -> have eSMS add it"),
        ("143", "failed", "not active, or locked -> ask eSMS"),
        ("160", "warning", "limits the rate of look-ups now (code 160) -> run this again"),
        ("unknown-code", "warning", "code 999 for a call that does not exist, which says nothing of the keys -> see"),
        ("http-500", "failed", "(http-500) -> check ESMS_API_URL"),
        ("garbage", "failed", "(unreadable) -> check ESMS_API_URL"),
        ("hang", "failed", "-> check the network and ESMS_API_URL"),
        ("reset", "failed", "-> check the network and ESMS_API_URL"),
    ],
)
def test_whatever_else_esms_answers_has_its_remedy(
    esms: Sandbox, monkeypatch: pytest.MonkeyPatch, fault: str, result: str, words: str
) -> None:
    monkeypatch.setenv("ESMS_TIMEOUT", "1s" if fault == "hang" else "20s")
    esms.answer_all_with(fault)
    found = examined().checks["eSMS keys"]

    assert found.result == result
    assert words in found.words


@ON_SQLITE
def test_wrong_keys_are_named_and_not_shown(esms: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert esms
    monkeypatch.setenv("ESMS_SECRET_KEY", "the-password")
    found = examined().checks["eSMS keys"]

    assert found.result == "failed"
    assert "code 101" in found.words


@ON_SQLITE
def test_an_address_that_cannot_be_reached_is_named(esms: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert esms
    monkeypatch.setenv("ESMS_API_URL", f"http://127.0.0.1:{free_port()}")
    found = examined()

    assert found.checks["eSMS keys"].result == "failed"
    assert "Connection refused) -> check the network and ESMS_API_URL" in found.checks["eSMS keys"].words
    assert found.checks["clock of eSMS"].result == "skipped"


@ON_SQLITE
def test_a_proxy_that_cannot_be_used_is_named(esms: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert esms
    monkeypatch.setenv("ESMS_API_URL", "https://voiceapi.example.vn")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:the-password@127.0.0.1:1080")
    found = examined().checks["eSMS keys"]

    assert found.result == "failed"
    assert "HTTPS_PROXY is a SOCKS proxy, which cannot be used -> set it to an http:// proxy" in found.words


@ON_SQLITE
@pytest.mark.parametrize("minutes", [5, -5])
def test_a_clock_that_is_off_is_named(monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    theirs = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    body = '{"CodeResult": "104", "ErrorMessage": "Not found"}'
    with peer(replying("HTTP/1.1 200 OK", f"Date: {theirs}", body=body)) as esms:
        for name, value in {"ESMS_API_URL": esms.url, "ESMS_API_KEY": "a-key", "ESMS_SECRET_KEY": "b-key"}.items():
            monkeypatch.setenv(name, value)
        found = examined()

    assert found.checks["eSMS keys"].result == "ok"
    assert found.checks["clock of eSMS"].result == "failed"
    assert "set it by NTP" in found.checks["clock of eSMS"].words
    assert ("behind" if minutes > 0 else "ahead of") in found.checks["clock of eSMS"].words


@ON_SQLITE
def test_without_keys_nobody_is_asked() -> None:
    found = examined()

    assert found.checks["eSMS keys"].result == "skipped"
    assert "-> set both, from your eSMS account" in found.checks["eSMS keys"].words


# PostgreSQL's own faults


@ON_POSTGRESQL
def test_a_database_that_is_read_only_is_named(database: Database) -> None:
    name = database.url.database
    with database.transaction() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    found = examined().checks["writes"]

    assert found.result == "failed"
    assert "read-only transaction -> it is a standby: let DATABASE_URL name the primary" in found.words


@ON_POSTGRESQL
def test_a_database_that_does_not_exist_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(settings.database).set(database="another")
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    found = examined().checks["database"]

    assert found.result == "failed"
    assert '"another" does not exist -> create the role and the database' in found.words


@ON_POSTGRESQL
def test_an_empty_database_is_named(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_database(shared.postgresql) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        found = examined().checks["migration"]

    assert found.result == "failed"
    assert "at none, and " in found.words
    assert "-> run `esms-calls migrate`" in found.words


@ON_POSTGRESQL
def test_another_encoding_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    direct = database.url.set(drivername="postgresql")
    with psycopg.connect(direct.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute("CREATE DATABASE doctor_ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
        monkeypatch.setenv("DATABASE_URL", direct.set(database="doctor_ascii").render_as_string(hide_password=False))
        found = examined()
        connection.execute("DROP DATABASE doctor_ascii")

    assert found.checks["encoding"].result == "failed"
    assert "SQL_ASCII" in found.checks["encoding"].words
    assert "createdb --encoding=UTF8" in found.checks["encoding"].words
    assert "migration" not in found.checks
