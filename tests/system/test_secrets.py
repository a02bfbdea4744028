"""Tokens, keys and passwords: the program is used in every way, right and wrong, and none of them is to be found."""

from __future__ import annotations

import json
import re
import socket
import threading
from base64 import b64encode
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
import requests
from click.testing import CliRunner
from makers import change_by_hand
from running import esms_calls, free_port, serving
from sqlalchemy import inspect, make_url, select, table, text

from webapp.cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.storage.database import Database

TOKEN, OLD_TOKEN = "first-callback-token-9f3c", "old-callback-token-71ab"
API_TOKEN, OLD_API_TOKEN = "first-token-of-the-api-c0de", "old-token-of-the-api-beef"
API_KEY, SECRET_KEY = "eSMS api/KEY+5d1e=&x", "eSMS:secret?key#77e0"
PASSWORD = "p@ss/word %41 of-the-database"
SECRETS = {
    "CALLBACK_TOKEN": f"{TOKEN},{OLD_TOKEN}",
    "API_TOKEN": f"{API_TOKEN},{OLD_API_TOKEN}",
    "ESMS_API_KEY": API_KEY,
    "ESMS_SECRET_KEY": SECRET_KEY,
}
ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
ALL = [TOKEN, OLD_TOKEN, API_TOKEN, OLD_API_TOKEN, API_KEY, SECRET_KEY, PASSWORD]
SENT_BACK = [TOKEN, OLD_TOKEN]
"""What is taken out of callbacks. What else a stranger guesses is stored as it came."""
GUESSED = [API_TOKEN, OLD_API_TOKEN, API_KEY, SECRET_KEY]
RIGHT = {"Authorization": f"Bearer {API_TOKEN}"}


def spellings(secret: str) -> set[str]:
    """The ways in which a secret might be written."""
    plain = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    return plain | {json.dumps(secret)[1:-1], b64encode(secret.encode()).decode().rstrip("=")[:-1]}


def shown(outputs: dict[str, str]) -> dict[str, list[str]]:
    """Which secrets are to be found where; of all that is shown, by its place."""
    found = defaultdict(list)
    for place, words in outputs.items():
        for secret in ALL:
            if any(spelling.lower() in words.lower() for spelling in spellings(secret)):
                found[place].append(secret)
    return dict(found)


def all_rows(database: Database) -> dict[str, str]:
    """Every table as text."""
    with database.snapshot(limited=False) as connection:
        names = inspect(connection).get_table_names()
        reader = {name: select(text("*")).select_from(table(name)) for name in names}
        rows = {name: connection.execute(query).all() for name, query in reader.items()}
    assert {"calls", "status_reports", "rejected_callbacks", "reconcile_runs"} <= rows.keys()
    return {f"table {name}": "\n".join(map(str, found)) for name, found in rows.items()}


class Telltale(BaseHTTPRequestHandler):
    """An eSMS that tells its asker's request back, in whatever it says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer in one of several ways, by the ReferenceId."""
        kind = self.path.rpartition("ReferenceId=")[2]
        said: dict[str, Any] = {"CodeResponse": "100", "CallStatus": self.path, "Ivr": self.path, "SendStatus": 5}
        if kind == "refused":
            said = {"CodeResult": "101", "ErrorMessage": f"Authorize Failed {self.path}"}
        elif kind == "code":
            said = {"CodeResult": self.path, "ErrorMessage": self.path}
        elif kind == "other":
            said["ReferenceId"] = self.path
        body = self.path.encode() if kind == "garbage" else json.dumps(said).encode()
        self.send_response(302 if kind == "redirect" else 500 if kind == "broken" else 200)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


KINDS = ["final", "code", "other", "garbage", "redirect", "broken"]


@contextmanager
def telltale() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Telltale) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/json"
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process's environment with all of the secrets; the PostgreSQL of the tests asks for no password."""
    monkeypatch.chdir(tmp_path)
    url = database.url if database.is_sqlite else database.url.set(password=PASSWORD)
    for name, value in (SECRETS | {"DATABASE_URL": url.render_as_string(hide_password=False)}).items():
        monkeypatch.setenv(name, value)


GOOD = "ReferenceId=a&SendStatus=5&CallStatus=ANSWERED"
START = f"/esms/callback/{TOKEN}?{GOOD}"
BROKEN_REQUESTS = [
    f"GET {START} HTTP/9.9\r\n\r\n",
    f"GET {START}\r\n\r\n",
    f"GET  {START} HTTP/1.1\r\n\r\n",
    f"{START}\r\n\r\n",
    f"GET {START}{'x' * 9000} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET {START} HTTP/1.1\r\nHost: x\r\n{TOKEN} {API_TOKEN}\r\n\r\n",
    f"GET /api/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_TOKEN}\r\n: {API_TOKEN}\r\n\r\n",
    f"GET /api/calls HTTP/1.1\r\nHost: x\r\nAuthorization {API_TOKEN}: x\r\n\r\n",
    f"GET /api/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_TOKEN}{'x' * 9000}\r\n\r\n",
    f"POST {START} HTTP/1.1\r\nHost: x\r\nContent-Length: x{TOKEN}\r\n\r\n",
    f"POST {START} HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\nSendStatus=5",
    f"POST {START} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {TOKEN}\r\n\r\n",
    f"POST {START} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n",
    f"GET http://x{START} HTTP/1.1\r\nHost: {TOKEN}\r\n\r\n",
]


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def part(name: str, value: str) -> str:
    """A form with one value."""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--b--\r\n'


def escaped(said: object) -> str:
    """JSON in which no text stands as it is."""
    return re.sub('[A-Za-z](?=[^"]*")', lambda letter: f"\\u{ord(letter[0]):04x}", json.dumps(said))


def ask_raw(url: str, request: str) -> str:
    """Send bytes as they are; what was answered."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(request.encode())
        line.shutdown(socket.SHUT_WR)
        answer = b""
        while part := line.recv(65536):
            answer += part
    return answer.decode("latin-1")


def ask_in_every_way(url: str) -> dict[str, str]:
    """What a server answers to right, wrong and broken requests."""
    answers: dict[str, str] = {}

    def ask(method: str, path: str, **how: Any) -> None:
        answer = requests.request(method, f"{url}{path}", timeout=30, **how)
        answers[f"{len(answers)} {method} {path}"] = f"{answer.status_code} {answer.headers} {answer.text}"

    for token in (TOKEN, OLD_TOKEN):
        for path in (f"{token}?{GOOD}", f"{token}?x=1", f"{token}/?{GOOD}", f"{token}x", f"{token.upper()}?{GOOD}"):
            for method in ("GET", "PUT"):
                ask(method, f"/esms/callback/{path}")
        ask("GET", f"/esms/{token}")
        ask("GET", f"/{token}?token={token}")
        ask("POST", f"/esms/callback/{token}", data=b"x" * 70_000)
        ask("POST", f"/esms/callback/{token}", data=b"{", headers={"Content-Type": "application/json"})
    for said in (*SENT_BACK, *map(quote, SENT_BACK), "/".join(SENT_BACK)):
        ask("GET", f"/esms/callback/{TOKEN}?{GOOD}", params={"Ivr": said, "x": said})
        ask("POST", f"/esms/callback/{TOKEN}?x={quote(said)}", data=said.encode(), headers={"Content-Type": said})
        ask("POST", f"/esms/callback/{TOKEN}", data=escaped({"ReferenceId": said}))
        for name in ("CallStatus", "Ivr", "x", said):
            ask("POST", f"/esms/callback/{TOKEN}?{GOOD}", data=escaped({name: said}))
            ask("POST", f"/esms/callback/{TOKEN}?{GOOD}", data=escaped({"x": [{name: said}]}))
            ask("POST", f"/esms/callback/{TOKEN}?{GOOD}", data=part(name, said), headers=MULTIPART)
    for authorization in (RIGHT["Authorization"], f"Bearer {OLD_API_TOKEN}", f"Basic {API_TOKEN}", API_TOKEN, "", "x"):
        for path in ("/api/calls/a", "/api/calls", "/api/nowhere"):
            ask("GET", path, headers={"Authorization": authorization})
        ask("POST", "/api/calls", json=[{"reference_id": "b"}], headers={"Authorization": authorization})
        ask("POST", "/api/calls", data=b"{", headers={"Authorization": authorization})
    ask("GET", f"/api/calls?token={API_TOKEN}&limit=x&api_token={API_TOKEN}")
    ask("GET", f"/api/calls/{API_TOKEN}")
    for path in ("/healthz", "/readyz", "/metrics"):
        ask("GET", path, headers=RIGHT)
    return answers


def said_by(*arguments: str, exit_code: int, stdin: str = "") -> dict[str, str]:
    """All that a command prints."""
    result = CliRunner().invoke(cli, arguments, input=stdin)
    assert result.exit_code == exit_code, result.output
    return {" ".join(arguments): result.output}


def reconciled(esms_api_url: str, *, exit_code: int) -> dict[str, str]:
    """All that a run prints and logs, in a process of its own."""
    arguments = ("reconcile", "--older-than", "0s", "--json")
    result = esms_calls(*arguments, ESMS_API_URL=esms_api_url, RECONCILE_GIVE_UP="3650d")
    assert result.returncode == exit_code, result.stderr
    return {f"reconcile {exit_code} {esms_api_url}": result.stdout + result.stderr}


@pytest.mark.usefixtures("environment")
@ON_POSTGRESQL
def test_no_secret_is_in_an_answer_a_log_line_a_metric_an_output_or_a_row(database: Database, tmp_path: Path) -> None:
    outputs: dict[str, str] = {}
    with serving(tmp_path / "log") as server:
        outputs |= ask_in_every_way(server)
        change_by_hand(database, "ALTER TABLE calls RENAME TO gone")
        outputs |= {f"away {name}": answer for name, answer in ask_in_every_way(server).items()}
        change_by_hand(database, "ALTER TABLE gone RENAME TO calls")
        for request in BROKEN_REQUESTS:
            ask_raw(server, request)
    log = (tmp_path / "log").read_text()

    outputs |= said_by("migrate", exit_code=0)
    outputs |= said_by("register", stdin="".join(f"{kind}\n" for kind in KINDS) + "bad line\n", exit_code=1)
    with telltale() as esms:
        outputs |= reconciled(esms, exit_code=1)
        outputs |= said_by("register", stdin="refused", exit_code=0)
        outputs |= reconciled(esms, exit_code=3)
    outputs |= reconciled(f"http://127.0.0.1:{free_port()}/json", exit_code=1)
    outputs |= said_by("status", exit_code=1)
    outputs |= said_by("export", exit_code=0)
    outputs |= said_by("replay", "--check", exit_code=0)
    outputs |= said_by("replay", "--rejected", exit_code=0)
    outputs |= all_rows(database)

    callback_url = f"CallbackUrl to give to eSMS:\n  {server}/esms/callback/{TOKEN}?ReferenceId=&"
    assert log.count(TOKEN) == log.count(callback_url) == 1
    outputs["log"] = log.replace(callback_url, "")
    assert shown(outputs) == {}
    # It was all of that which was to be looked through.
    everything = "\n".join(outputs.values())
    for words in (" 200 ", "cannot be read", "settled a", "eSMS refuses the account", "failed with"):
        assert words in everything
    assert "esms_callbacks_total" in everything
    statuses = {answer.partition(" ")[0] for name, answer in outputs.items() if name.startswith("away ")}
    assert statuses >= {"200", "401", "404", "405", "503"}


@pytest.mark.usefixtures("environment")
@ON_SQLITE
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"postgresql://user:{quote(PASSWORD, safe='')}@127.0.0.1:1/calls"),
        ("DATABASE_URL", f"postgres://127.0.0.1:1/calls?user=user&password={quote(PASSWORD, safe='')}"),
        ("DATABASE_URL", f"postgresql://user:{quote(PASSWORD, safe='')}@127.0.0.1:1/calls?nonsense=1"),
        ("DATABASE_URL", f"postgresql://user:{quote(PASSWORD, safe='')}@127.0.0.1:1/calls?connect_timeout=x"),
        ("DATABASE_URL", f"postgresql://user:{quote(PASSWORD, safe='')}@nowhere.invalid/calls"),
        ("DATABASE_URL", f"postgresql://user:{quote(PASSWORD, safe='')}@host:port/calls"),
        ("DATABASE_URL", f"mysql://user:{PASSWORD}@host/calls"),
        ("DATABASE_URL", PASSWORD),
        ("CALLBACK_TOKEN", f"{TOKEN},{OLD_TOKEN}/"),
        ("API_TOKEN", f"{API_TOKEN} {OLD_API_TOKEN}"),
        ("ESMS_API_URL", f"https://host/json?ApiKey={API_KEY}"),
        ("PUBLIC_URL", f"https://user:{quote(PASSWORD, safe='')}@host"),
        ("RECONCILE_RATE", PASSWORD),
        ("ESMS_TIMEOUT", API_KEY),
        ("TIME_ZONE", SECRET_KEY),
    ],
)
def test_no_secret_is_in_the_words_for_a_setting_that_is_wrong_or_a_database_that_is_away(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    outputs = said_by(
        "status", exit_code=4 if value.endswith(("127.0.0.1:1/calls", ".invalid/calls")) or "&password" in value else 2
    )

    assert "Error: " in outputs["status"]
    assert "Traceback" not in outputs["status"]
    assert shown(outputs) == {}


@ON_SQLITE
@pytest.mark.usefixtures("environment")
def test_no_secret_is_in_messages_of_unexpected_errors(database: Database) -> None:
    said_by("register", stdin="a", exit_code=0)
    change_by_hand(database, "UPDATE calls SET placed_at = :secret", secret=API_TOKEN)

    outputs = said_by("export", exit_code=1)

    assert "Unexpected ValueError" in outputs["export"]
    assert "***" in outputs["export"]
    assert shown(outputs) == {}


@ON_SQLITE
@pytest.mark.usefixtures("environment")
def test_a_server_whose_database_is_away_shows_no_password(tmp_path: Path) -> None:
    away = make_url(f"postgresql://user@127.0.0.1:{free_port()}/calls").set(password=PASSWORD)

    with serving(tmp_path / "log", DATABASE_URL=away.render_as_string(hide_password=False)) as server:
        outputs = ask_in_every_way(server)

    outputs["log"] = (tmp_path / "log").read_text().replace(f"/esms/callback/{TOKEN}?ReferenceId=&", "", 1)
    assert "the database cannot be used now" in outputs["log"]
    assert shown(outputs) == {}


@ON_SQLITE
@pytest.mark.usefixtures("environment")
def test_a_guess_is_answered_and_stored_like_every_other_text_and_is_not_logged(
    database: Database, tmp_path: Path
) -> None:
    """Were it taken out, the answer `duplicate` or the row would tell who guessed right."""
    outputs: dict[str, list[str]] = {}
    with serving(tmp_path / "log") as server:
        url = f"{server}/esms/callback/{TOKEN}"
        for guess in [*GUESSED, "a-guess-that-is-wrong-0123"]:
            identity = f"call-{len(outputs)}"
            asked = {"ReferenceId": identity, "SendStatus": "5", "CallStatus": "ANSWERED", "Note": guess}
            outputs[guess] = [
                requests.get(url, params=asked | {"Note": "***"}, timeout=30).text,
                requests.get(url, params=asked, timeout=30).text,
                requests.get(url, params=asked | {"CID": guess}, timeout=30).text,
                requests.get(url, params={"ReferenceId": guess.replace(" ", "")}, timeout=30).text,
                requests.post(url, json={"Note": guess}, timeout=30).text,
                requests.post(url, data=f"Note={guess}".encode(), timeout=30).text,
            ]
    rows = all_rows(database)

    assert len(set(map(tuple, outputs.values()))) == 1
    assert outputs[API_KEY][:2] == ['{"result":"settled"}\n', '{"result":"duplicate"}\n']
    assert shown({name: rows[name] for name in ("table status_reports", "table rejected_callbacks")}) == {
        "table status_reports": GUESSED,
        "table rejected_callbacks": GUESSED,
    }
    assert "***" not in rows["table rejected_callbacks"]
    log = (tmp_path / "log").read_text().replace(f"/esms/callback/{TOKEN}?ReferenceId=&", "", 1)
    assert shown({"log": log}) == {}


@ON_SQLITE
@pytest.mark.usefixtures("environment")
def test_no_secret_of_a_malformed_request_is_echoed(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server:
        outputs = {request: ask_raw(server, request) for request in BROKEN_REQUESTS}

    assert shown(outputs) == {}


@pytest.mark.usefixtures("environment")
@ON_SQLITE
@pytest.mark.parametrize("encoded", [[], ["--encoded"]])
def test_the_callback_url_shows_the_first_token_and_no_other_secret(encoded: list[str]) -> None:
    outputs = said_by("callback-url", *encoded, exit_code=0)

    assert list(shown(outputs).values()) == [[TOKEN]]
