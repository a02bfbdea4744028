"""Doctor sends a challenge to the CallbackUrl: only this very server can answer it, and strangers learn nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import requests
from commands import ON_POSTGRESQL, ON_SQLITE
from constants import CALLBACK_TOKEN
from doctoring import examined, listening
from peers import new_authority, peer, replying, server_context
from reconciling import everything
from running import free_port

from webapp import create_app
from webapp.callbacks import proof
from webapp.storage.database import Database
from webapp.storage.database_identity import identity
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from flask import Flask
    from servers import Shared

    from webapp.support.settings import Settings

CHALLENGE = "0123456789abcdef" * 2


@pytest.fixture
def address(app: Flask, healthy: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the application is served; PUBLIC_URL names it."""
    assert healthy
    with listening(app) as url:
        monkeypatch.setenv("PUBLIC_URL", url)
        yield url


def through(app: Flask, *hops: str, replaces: bool = False) -> Any:
    """The application as proxies pass requests to it: each puts the address of its client into X-Forwarded-For."""

    def pass_on(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = [] if replaces else [environ["HTTP_X_FORWARDED_FOR"]] if "HTTP_X_FORWARDED_FOR" in environ else []
        return app(environ | {"HTTP_X_FORWARDED_FOR": ", ".join([*given, *hops])}, start_response)

    return pass_on


@ON_SQLITE
def test_the_callback_url_reaches_this_server(address: str) -> None:
    found = examined()

    assert found.exit_code == 0
    assert found.checks["public URL"] == (
        "warning",
        f"{address} is this server, and no address that eSMS can reach -> set PUBLIC_URL to a public one",
    )
    assert found.checks["proxies"].result == "ok"


@pytest.mark.usefixtures("address")
def test_a_server_of_either_database_proves_itself_and_stores_nothing(database: Database) -> None:
    before = everything(database)

    assert "is this server" in examined().checks["public URL"].words
    assert everything(database) == before


@ON_SQLITE
@pytest.mark.parametrize(
    ("hops", "replaces", "trusted", "words"),
    [
        (["203.0.113.9"], False, 1, "ok"),
        (["203.0.113.9"], True, 1, "ok"),
        (["203.0.113.9", "10.0.0.2"], False, 2, "ok"),
        (["203.0.113.9"], False, 0, "set TRUSTED_PROXIES=1, and restart"),
        (["203.0.113.9", "10.0.0.2"], False, 1, "set TRUSTED_PROXIES=2, and restart"),
        (["203.0.113.9"], True, 2, "set TRUSTED_PROXIES=1, and restart"),
        ([], True, 1, "set TRUSTED_PROXIES=0, and restart"),
    ],
)
def test_trusted_proxies_must_be_as_many_as_put_addresses_into_the_header(
    healthy: Settings,
    monkeypatch: pytest.MonkeyPatch,
    hops: list[str],
    replaces: bool,  # noqa: FBT001 - a parameter of the test
    trusted: int,
    words: str,
) -> None:
    assert healthy
    monkeypatch.setenv("TRUSTED_PROXIES", str(trusted))
    with listening(through(create_app(load_settings()), *hops, replaces=replaces)) as url:
        monkeypatch.setenv("PUBLIC_URL", url)
        found = examined().checks["proxies"]

    assert words in f"{found.result} {found.words}"
    assert found.result == ("ok" if words == "ok" else "failed")


@ON_SQLITE
@pytest.mark.usefixtures("address")
def test_a_server_that_runs_with_other_settings_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "3")
    found = examined().checks["proxies"]

    assert found.result == "failed"
    assert "the server runs with TRUSTED_PROXIES=0, and the setting here is 3 -> restart the server" in found.words


@ON_SQLITE
@pytest.mark.usefixtures("address")
def test_a_server_with_the_same_token_and_another_database_is_not_this_one(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(shared.migrated_file.read_bytes())
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{copy}")
    found = examined().checks["public URL"]

    assert found.result == "failed"
    assert "has this token, and another database -> run doctor with the settings of that server" in found.words


@ON_SQLITE
@pytest.mark.usefixtures("address")
def test_a_server_with_another_token_is_not_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBACK_TOKEN", "another-token-of-the-tests")
    found = examined().checks["public URL"]

    assert found.result == "failed"
    assert "answers 404 to the CallbackUrl -> another program answers there, or a server with another" in found.words


@ON_SQLITE
@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("301 Moved Permanently", "set PUBLIC_URL to the address to which it leads"),
        ("401 Unauthorized", "the proxy asks for a password"),
        ("405 Method Not Allowed", "does not prove that it is this server -> restart the server after an upgrade"),
        ("502 Bad Gateway", "start the server, and see whether the proxy passes to the address of --bind"),
        ("418 I'm a teapot", "see the log of the proxy"),
    ],
)
@pytest.mark.usefixtures("healthy")
def test_a_proxy_that_does_not_pass_the_request_on_is_named(
    monkeypatch: pytest.MonkeyPatch, status: str, words: str
) -> None:
    with peer(replying(f"HTTP/1.1 {status}")) as proxy:
        monkeypatch.setenv("PUBLIC_URL", proxy.url)
        found = examined().checks["public URL"]

    assert found.result == "failed"
    assert words in found.words
    assert proxy.requests[0].startswith(f"HEAD /esms/callback/{CALLBACK_TOKEN} HTTP")


@ON_SQLITE
@pytest.mark.usefixtures("healthy")
def test_an_address_where_nobody_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBLIC_URL", f"http://127.0.0.1:{free_port()}")
    found = examined().checks["public URL"]

    assert found.result == "failed"
    assert "There is no connection to 127.0.0.1 (Connection refused) -> start server and proxy" in found.words


@ON_SQLITE
@pytest.mark.usefixtures("healthy")
def test_the_certificate_must_be_one_that_esms_can_check(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = new_authority()
    issuer.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with listening(app, tls=server_context(issuer, "127.0.0.1")) as url:
        monkeypatch.setenv("PUBLIC_URL", url)
        unknown = examined().checks["public URL"]
        monkeypatch.setenv("ESMS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        known = examined().checks["public URL"]

    assert unknown.result == "failed"
    assert "the certificate of 127.0.0.1 is not valid" in unknown.words
    assert "-> renew it" in unknown.words
    assert "is this server" in known.words


@ON_SQLITE
def test_strangers_get_no_proof(address: str, database: Database) -> None:
    answers = [
        requests.request(method, f"{address}/esms/callback/{token}", headers=headers, timeout=10)
        for method in ("HEAD", "GET", "OPTIONS", "PUT")
        for token, headers in (
            ("wrong-token-of-a-stranger", {}),
            ("wrong-token-of-a-stranger", {proof.CHALLENGE: CHALLENGE}),
        )
    ]
    heads = [{**answer.headers, "Date": ""} for answer in answers]
    right = requests.head(f"{address}/esms/callback/{CALLBACK_TOKEN}", timeout=10)
    broken = requests.head(
        f"{address}/esms/callback/{CALLBACK_TOKEN}", headers={proof.CHALLENGE: "' OR 1=1 --"}, timeout=10
    )

    assert {answer.status_code for answer in answers} == {404}
    assert heads == heads[:1] * len(heads)
    for answer in (*answers, right, broken):
        assert proof.PROOF not in answer.headers
    assert (right.status_code, broken.status_code) == (405, 405)
    assert everything(database)["calls"] == []


@ON_SQLITE
def test_a_callback_with_a_challenge_is_stored_like_any_other(address: str, database: Database) -> None:
    answer = requests.get(
        f"{address}/esms/callback/{CALLBACK_TOKEN}?ReferenceId=a&SendStatus=5&SentResult=1",
        headers={proof.CHALLENGE: CHALLENGE},
        timeout=10,
    )

    assert (answer.status_code, answer.json()) == (200, {"result": "settled"})
    assert proof.PROOF not in answer.headers
    assert [call["reference_id"] for call in everything(database)["calls"]] == ["a"]


def test_a_database_has_one_identity_and_another_has_another(
    database: Database, shared: Shared, tmp_path: Path
) -> None:
    again = Database(database.url.render_as_string(hide_password=False), patience=timedelta(seconds=5))
    assert identity(again) == identity(database)
    again.close()

    if database.is_sqlite:
        (tmp_path / "copy.db").write_bytes((tmp_path / "calls.db").read_bytes())
        copy = Database(f"sqlite:///{tmp_path / 'copy.db'}")
        assert identity(copy) != identity(database)
        copy.close()
    else:
        with shared.migrated_database() as url:
            other = Database(url)
            assert identity(other) != identity(database)
            other.close()


@ON_POSTGRESQL
def test_a_role_without_rights_of_its_own_can_read_the_identity(database: Database) -> None:
    expected = identity(database)
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS doctor_of_the_tests")
        connection.exec_driver_sql("CREATE ROLE doctor_of_the_tests LOGIN")
    plain = Database(
        database.url.set(username="doctor_of_the_tests", password=None).render_as_string(hide_password=False)
    )
    try:
        assert identity(plain) == expected
    finally:
        plain.close()
        with database.transaction() as connection:
            connection.exec_driver_sql("DROP ROLE doctor_of_the_tests")
