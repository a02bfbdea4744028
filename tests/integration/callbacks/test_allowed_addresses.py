"""CALLBACK_ALLOWED_IPS: who is not in it sees what a wrong token sees, and only operators see more."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import requests
from commands import run
from constants import CALLBACK_TOKEN
from running import serving
from sqlalchemy import select

from webapp import create_app
from webapp.storage.claims import Due
from webapp.storage.models import callback_token_requests, calls, rejected_callbacks, status_reports
from webapp.storage.reader import Reader
from webapp.support.addresses import is_in, read_networks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask

    from webapp.storage.database import Database
    from webapp.support.settings import Settings

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
PATH = f"/esms/callback/{CALLBACK_TOKEN}"
QUERY = "?ReferenceId=a&SendStatus=5&CallStatus=ANSWERED"
ALLOWED = "203.0.113.0/24, 2001:db8::7"


@pytest.fixture
def guarded(settings: Settings) -> Iterator[Flask]:
    """An application behind one proxy that takes callbacks from few."""
    app = create_app(settings.model_copy(update={"callback_allowed_ips": read_networks(ALLOWED), "trusted_proxies": 1}))
    yield app
    for name in ("token_counter", "database", "ingest"):
        app.extensions[name].close()


def ask(app: Flask, path: str, address: str, method: str = "GET") -> tuple[int, bytes, list[tuple[str, str]]]:
    """All of an answer to a request that a proxy passes on."""
    with app.test_client().open(path, method=method, headers={"X-Forwarded-For": address}, data=b"x=1") as answer:
        return answer.status_code, answer.data, answer.headers.to_wsgi_list()


def test_others_get_the_answer_to_a_wrong_token_and_are_counted_and_never_stored(
    guarded: Flask, database: Database
) -> None:
    for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS"):
        wrong = ask(guarded, f"/esms/callback/wrong-token-of-any-kind{QUERY}", "203.0.113.7", method)
        for address in ("198.51.100.7", "2001:db8::8", "no address", "203.0.113.7, 198.51.100.7"):
            assert ask(guarded, f"{PATH}{QUERY}", address, method) == wrong
    shown = guarded.test_client().get("/metrics").text
    guarded.extensions["token_counter"].close()

    now = datetime.now(UTC)
    status = Reader(database).status(Due(placed_until=now, due_until=now))
    assert (status.not_allowed_last_hour, status.not_allowed_last_day, status.wrong_tokens.count) == (8, 8, 5), (
        "GET and POST alone: doctor's HEAD is no cause for alarm"
    )
    assert re.search(r"^esms_callbacks_not_allowed_total [1-9]", shown, re.MULTILINE)
    with database.snapshot() as connection:
        for table in (calls, status_reports, rejected_callbacks, callback_token_requests):
            assert connection.execute(select(table)).all() == []
    printed = run("status")
    assert printed.exit_code == 1
    assert "callbacks from addresses that CALLBACK_ALLOWED_IPS does not name: 8 in the last hour" in printed.stdout


@ON_SQLITE
def test_those_that_are_named_are_taken_right_behind_proxies(guarded: Flask) -> None:
    for address in ("203.0.113.7", "203.0.113.255:4711", "[2001:DB8::7]:80", "::ffff:203.0.113.1", "x, 203.0.113.7"):
        assert ask(guarded, f"{PATH}{QUERY}", address)[0] == 200


@ON_SQLITE
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("fast_path", ["on", "off"])
def test_a_server_asks_for_the_address_with_and_without_the_fast_path(tmp_path: Path, fast_path: str) -> None:
    arguments: dict[str, Any] = {"FAST_PATH": fast_path, "TRUSTED_PROXIES": "1", "CALLBACK_ALLOWED_IPS": ALLOWED}
    with serving(tmp_path / "log", "--workers", "1", **arguments) as url:
        answers = [
            requests.get(f"{url}{path}{QUERY}", headers={"X-Forwarded-For": address}, timeout=30)
            for path, address in ((PATH, "203.0.113.7:9"), (PATH, "198.51.100.7"), (f"{PATH}x", "198.51.100.7"))
        ]

    assert [answer.status_code for answer in answers] == [200, 404, 404]
    refused, wrong = ({**answer.headers, "Date": ""} for answer in answers[1:])
    assert (answers[1].content, refused) == (answers[2].content, wrong)
    log = (tmp_path / "log").read_text()
    assert re.search(r"198\.51\.100\.7 GET /esms/callback/<token> 404 .*address not allowed", log)


def test_networks_are_read_and_matched() -> None:
    networks = read_networks(" 203.0.113.0/24,2001:db8::/32 , 198.51.100.9 ,")

    for address in ("203.0.113.0", "203.0.113.255", "2001:db8:1::", "198.51.100.9", "::ffff:198.51.100.9"):
        assert is_in(address, networks)
    for other in ("203.0.114.0", "2001:db9::", "198.51.100.8", "", None, "nonsense", "::203.0.113.7"):
        assert not is_in(other, networks)
