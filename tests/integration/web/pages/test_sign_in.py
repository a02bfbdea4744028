"""Who sees the page: those who signed in by a form with a token, for twelve hours."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import TYPE_CHECKING

import pytest
from constants import API_TOKEN, CALLBACK_TOKEN
from pages import csrf_token, sign_in, text_of

from webapp import create_app
from webapp.support import accepted_tokens, tokens
from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.database import Database
    from webapp.support.settings import Settings

PAGE_TOKEN = "page-token-0123456789"
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    assert settings
    monkeypatch.setenv("PAGE_TOKEN", PAGE_TOKEN)
    return load_settings()


@pytest.fixture
def another(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The application after a restart with another token for reading."""
    assert settings
    monkeypatch.setenv("PAGE_TOKEN", "another-token-0123456789")
    app = create_app(load_settings())
    yield app
    for name in ("token_counter", "database", "ingest"):
        app.extensions[name].close()


@pytest.mark.parametrize("token", [API_TOKEN, PAGE_TOKEN])
def test_either_token_signs_in(client: FlaskClient, token: str) -> None:
    answer = sign_in(client, token)

    assert (answer.status_code, answer.location) == (302, "/")
    page = client.get("/").text
    assert 'action="/sign-out"' in page
    assert token not in page


@pytest.mark.parametrize("token", ["", "x", CALLBACK_TOKEN, API_TOKEN[:-1], "mã"])
def test_a_wrong_token_does_not(client: FlaskClient, token: str) -> None:
    answer = sign_in(client, token)

    assert answer.status_code == 403
    assert "Máy chủ này không có mã nào như vậy." in text_of(answer)
    assert 'name="token"' in client.get("/").text


def test_the_page_token_gives_no_access_to_the_api(client: FlaskClient) -> None:
    sign_in(client, PAGE_TOKEN)

    assert client.get("/api/calls").status_code == 401
    assert client.get("/api/calls", headers={"Authorization": f"Bearer {PAGE_TOKEN}"}).status_code == 401


def test_unsigned_the_page_tells_nothing_but_what_it_is(client: FlaskClient) -> None:
    answer = client.get("/?lang=en")

    assert answer.status_code == 200
    assert text_of(answer) == (
        "Skip to the content esms-calls VI EN Calls through eSMS This server receives the results of automated voice "
        "calls, and shows what became of them. Token Sign in The token is the one for the API, or one for reading "
        "only. The person who runs this server can give it to you."
    )


def test_signing_in_leads_to_the_page_that_was_asked_for(client: FlaskClient) -> None:
    assert sign_in(client, next="/calls?outcome=missing").location == "/calls?outcome=missing"


@pytest.mark.parametrize("address", ["https://a.example", "//a.example", "/\\a.example", "javascript:1", "/a\nb"])
def test_signing_in_leads_nowhere_else(client: FlaskClient, address: str) -> None:
    assert sign_in(client, next=address).location == "/"


def test_signing_out_ends_the_session(client: FlaskClient) -> None:
    sign_in(client)

    answer = client.post("/sign-out", data={"csrf_token": csrf_token(client.get("/"))})

    assert (answer.status_code, answer.location) == (302, "/")
    assert 'name="token"' in client.get("/").text


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_form_from_another_site_is_refused(client: FlaskClient, path: str) -> None:
    sign_in(client)

    answer = client.post(path, data={"token": API_TOKEN, "csrf_token": "x"})

    assert answer.status_code == 400
    assert "hãy tải lại trang rồi thử lại" in text_of(answer)
    assert 'action="/sign-out"' in client.get("/").text


def test_an_address_that_tries_tokens_has_to_wait(client: FlaskClient) -> None:
    for _ in range(3):
        assert sign_in(client, "wrong").status_code == 403

    answer = sign_in(client)

    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert "Hãy thử lại sau 1 giây" in text_of(answer)


def test_a_changed_token_ends_the_sessions(client: FlaskClient, another: Flask) -> None:
    sign_in(client, PAGE_TOKEN)
    cookie = client.get_cookie("esms_calls")
    assert cookie
    later = another.test_client()
    later.set_cookie("esms_calls", cookie.value)

    assert 'name="token"' in later.get("/").text


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_for_this_site_and_no_script(client: FlaskClient, scheme: str, *, secure: bool) -> None:
    answer = client.get("/?lang=vi", base_url=f"{scheme}://localhost")

    cookies = [SimpleCookie(header) for header in answer.headers.getlist("Set-Cookie")]
    assert sorted(name for cookie in cookies for name in cookie) == ["esms_calls", "language"]
    for cookie in cookies:
        for morsel in cookie.values():
            assert (morsel["httponly"], morsel["samesite"], bool(morsel["secure"])) == (True, "Lax", secure)


@pytest.mark.parametrize("path", ["/", "/sign-in", "/static/page.css", "/static/nothing.css"])
def test_every_answer_has_the_headers_that_protect_it(client: FlaskClient, path: str) -> None:
    with client.get(path) as answer:
        answer.get_data()

    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == ("public, max-age=3600" if path == "/static/page.css" else "no-store")


def test_an_unknown_address_is_a_page_for_browsers_alone(client: FlaskClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

    page = client.get("/no-such-page", headers=browser)
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "Không có trang nào ở địa chỉ này." in text_of(page)
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    for path, headers in (("/no-such-page", {}), ("/api/x", browser), ("/esms/x", browser)):
        assert client.get(path, headers=headers).mimetype == "application/json"
    wrong = [client.get(f"/esms/callback/{'x' * 20}", headers=headers) for headers in ({}, browser)]
    assert [(one.status_code, one.data, one.headers.getlist("Set-Cookie")) for one in wrong] == [
        (404, wrong[0].data, [])
    ] * 2


def test_callbacks_and_the_api_get_no_cookie(client: FlaskClient) -> None:
    sign_in(client)
    answers = [
        client.get(f"/esms/callback/{CALLBACK_TOKEN}?ReferenceId=a&SendStatus=5"),
        client.get("/api/calls", headers={"Authorization": f"Bearer {API_TOKEN}"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.headers.getlist("Set-Cookie") for answer in answers] == [[], []]


def test_the_language_is_chosen_by_the_url_then_by_the_browser(client: FlaskClient) -> None:
    english = {"Accept-Language": "en-GB,en;q=0.9"}

    assert '<html lang="vi">' in client.get("/").text
    assert '<html lang="en">' in client.get("/", headers=english).text
    assert '<html lang="vi">' in client.get("/?lang=vi", headers=english).text
    assert '<html lang="vi">' in client.get("/", headers=english).text
    assert '<html lang="vi">' in client.get("/?lang=xx", headers=english).text


def test_with_page_off_there_is_none(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings
    assert database
    monkeypatch.setenv("PAGE", "off")
    app = create_app(load_settings())

    answer = app.test_client().get("/")

    assert (answer.status_code, answer.content_type) == (404, "application/json")
    for name in ("token_counter", "database", "ingest"):
        app.extensions[name].close()


def test_an_api_token_that_is_rotated_while_the_server_runs_ends_the_sessions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepted_tokens, "PAUSE_SECONDS", 0)
    monkeypatch.delenv("API_TOKEN")
    kept = load_settings()
    kept.make_tokens()
    (old,) = kept.api_tokens()
    app = create_app(kept)
    client = app.test_client()
    sign_in(client, old)
    assert "sign-out" in client.get("/").text

    tokens.change_tokens(settings.instance_dir, "api_token", lambda found: ("the-new-token-0123456789", *found))
    assert "sign-out" not in client.get("/").text
    assert sign_in(client, old).status_code == 302
    tokens.change_tokens(settings.instance_dir, "api_token", lambda found: found[:1])
    assert "sign-out" not in client.get("/").text
    assert sign_in(client, old).status_code == 403
    assert sign_in(client, "the-new-token-0123456789").status_code == 302
    for name in ("token_counter", "database", "ingest"):
        app.extensions[name].close()
