"""Nothing that strangers sent, or that was stored by other means, reaches a terminal as it is, in any command."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from typing import TYPE_CHECKING

import pytest
from commands import ON_SQLITE, SET, rejected, run, spooled
from makers import at, callback, change_by_hand

from webapp.calls.rule import Registration
from webapp.cli.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from webapp.storage.database import Database
    from webapp.storage.writer import Writer
    from webapp.support.settings import Settings

HOSTILE = "Tết \x1b[2J\x1b]0;title\x07 \x9b31m \u202eevil\u2066 \x7f \x08\r\n! forged"
ARGUMENT = HOSTILE.replace("\r\n", " ")
INVISIBLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
QUERY = f"ReferenceId=a b&{HOSTILE}={HOSTILE}".encode()
COMMAND_LINES: dict[str, list[list[str]]] = {
    "audit": [[], ["--json"]],
    "backup": [["copy.tar"], [f"{ARGUMENT}/copy.tar"]],
    "callback-url": [[]],
    "completeness": [[], ["--json"], ["--by", "campaign"], ["--by", "day", "--json"], ["--expect", "hostile.csv"]],
    "completion": [[ARGUMENT]],
    "dismiss": [["a"], ["nobody"], [ARGUMENT], ["--rejected"]],
    "doctor": [[], ["--json"]],
    "export": [["--columns", ARGUMENT], ["--outcome", ARGUMENT], ["--output", f"no/{ARGUMENT}"]],
    "hide-phones": [["--check"], []],
    "migrate": [[]],
    "purge": [["--older-than", ARGUMENT], ["--phone", ARGUMENT, "--dry-run"], ["--older-than", "0s", "--dry-run"]],
    "reconcile": [["--dry-run"], ["--older-than", "0s"], ["--older-than", "0s", "--json"], ["--since", ARGUMENT]],
    "register": [["hostile.csv"], ["--check", "hostile.csv"], ["headless.csv"], [ARGUMENT]],
    "replay": [["--check"], ["--rejected"], ["--unread"], []],
    "report": [[], ["--json"], ["--by", "campaign"], ["--by", "campaign", "--json"], ["--since", ARGUMENT]],
    "grant-readonly": [["analyst"]],
    "restore": [[ARGUMENT], ["hostile.csv"]],
    "rotate-token": [["callback"], [ARGUMENT]],
    "rollups": [["rebuild"]],
    "sandbox": [["--bind", ARGUMENT]],
    "serve": [["--bind", ARGUMENT]],
    "show": [["a"], [ARGUMENT], ["nobody"]],
    "spool": [["list"], ["export"], ["drain"]],
    "status": [[], ["--json"]],
    "time-zone": [["show"], ["set", ARGUMENT], ["set", "UTC"]],
    "unregister": [["nobody"], [ARGUMENT], ["--file", "hostile.csv"]],
}
SHOW_NOTHING_HOSTILE = {
    *("callback-url", "doctor", "grant-readonly", "hide-phones", "migrate", "rollups", "sandbox", "serve"),
}


class HostileEsms(BaseHTTPRequestHandler):
    """Answers every look-up with an unknown code that is no good on a terminal."""

    def do_GET(self) -> None:
        body = dumps({"CodeResult": HOSTILE, "ErrorMessage": HOSTILE}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def hostile_esms() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HostileEsms) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture
def hostile(
    writer: Writer, database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Hostile values in every column that eSMS, strangers or other programs can fill, in the spool and in files."""
    writer.register([Registration(reference_id=name, placed_at=at(-3600)) for name in ("a", "b", "c", "d")], at(0))
    writer.record([callback("a", 1, call_status="ANSWERED"), callback("b", 1, call_status="BUSY")], at(1))
    writer.reject(rejected(QUERY))
    said = "(call_status, ivr, cid, request_id, phone"
    eight = "(:hostile, :hostile, :hostile, :hostile, :hostile, :hostile, :hostile, :hostile)"
    for statement in (
        f"UPDATE calls SET {said}, campaign, esms_id, last_lookup_code) = {eight}",  # noqa: S608
        "UPDATE calls SET gave_up_at = placed_at, reference_id = :hostile WHERE reference_id = 'c'",
        f"UPDATE status_reports SET {said}, lookup_code, unread, remote_addr) = {eight}",  # noqa: S608
        "UPDATE status_reports SET reference_id = :hostile WHERE reference_id = 'b'",
        "UPDATE calls SET reference_id = reference_id || :hostile WHERE reference_id = 'b'",
        "UPDATE status_reports SET payload = json_object('ReferenceId', :hostile, :hostile, :hostile)",
        "UPDATE rejected_callbacks SET reason = :hostile, remote_addr = :hostile, content_type = :hostile",
    ):
        change_by_hand(database, statement, hostile=HOSTILE)
    spooled(settings, QUERY.decode(), ago=timedelta(minutes=5))
    (tmp_path / "hostile.csv").write_text(
        f"reference_id;{HOSTILE};kind;placed_at\n{HOSTILE};;;\nx;;{HOSTILE};\ny;;;{HOSTILE}\n"
    )
    (tmp_path / "headless.csv").write_text(f"{HOSTILE},refrence_id\n")
    (tmp_path / ".env").write_text("ESMS_KEY\u202e=x\nRECONCILE_RTE\x9b=1\n")
    with hostile_esms() as url:
        for name, value in {"ESMS_API_URL": url, "ESMS_MESSAGE_API_URL": "off"}.items():
            monkeypatch.setenv(name, value)
        for name in ("ESMS_API_KEY", "ESMS_SECRET_KEY"):
            monkeypatch.setenv(name, "any")
        yield


def test_every_command_is_tried() -> None:
    assert COMMAND_LINES.keys() == COMMANDS.keys()


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("command", COMMAND_LINES)
@ON_SQLITE
@SET
def test_no_command_prints_what_moves_a_cursor_or_forges_a_line(command: str) -> None:
    shown = ""
    for arguments in COMMAND_LINES[command]:
        result = run(command, *arguments)
        assert "This is a bug" not in result.output, result.output
        shown += result.stdout + result.stderr

    assert INVISIBLE.search(shown) is None
    assert "\n! forged" not in shown
    if command not in SHOW_NOTHING_HOSTILE:
        assert r"\x1b" in shown or "\\u001b" in shown, "something hostile is shown"
