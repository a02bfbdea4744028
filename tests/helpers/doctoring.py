"""Runs `esms-calls doctor`, finds a check among those that it prints, and compares folders before and after."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from commands import run
from constants import API_TOKEN, CALLBACK_TOKEN, SPELLINGS
from werkzeug.serving import WSGIRequestHandler, make_server

from webapp.support.settings import Settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path
    from wsgiref.types import WSGIApplication

    from flask import Flask

NAMES = [name.upper() for name in Settings.model_fields]
RESULTS = {"ok", "warning", "failed", "skipped"}


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nothing was ever run, and an environment without settings."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def healthy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A server's settings; nothing is broken yet."""
    for name in set(NAMES) - {"DATABASE_URL", "INSTANCE_DIR", "CALLBACK_TOKEN", "API_TOKEN"}:
        monkeypatch.delenv(name, raising=False)
    settings.instance_dir.mkdir(mode=0o700)
    return settings


class Found(NamedTuple):
    """What a check came to: its result, and what it found and what is to do, in one text."""

    result: str
    words: str


class Examination(NamedTuple):
    """What doctor found: its exit code, and the checks by their names."""

    exit_code: int
    checks: dict[str, Found]

    def of(self, result: str) -> set[str]:
        """The names of the checks with that result."""
        return {name for name, found in self.checks.items() if found.result == result}


def examined() -> Examination:
    """What doctor finds in this process's environment; it shows no secret, and exits with 1 if a check failed."""
    shown = run("doctor", "--json")
    for secret in (*SPELLINGS, CALLBACK_TOKEN, API_TOKEN, "the-password"):
        assert secret not in shown.output
    values = json.loads(shown.stdout)
    checks = {
        check["name"]: Found(check["result"], f"{check['found']} -> {check['remedy']}") for check in values["checks"]
    }
    assert len(checks) == len(values["checks"])
    for found in checks.values():
        assert found.result in RESULTS
        assert "\n" not in found.words
        assert found.result in {"ok", "skipped"} or not found.words.endswith("-> ")
    failed = any(found.result == "failed" for found in checks.values())
    assert (values["ok"], shown.exit_code) == (not failed, int(failed))
    return Examination(shown.exit_code, checks)


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder in it, with a digest of what it holds; memory that processes share is left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if not path.name.endswith("-shm")
    }


class _Silent(WSGIRequestHandler):
    def log(self, *_: object, **__: object) -> None:
        """Log nothing."""


@contextmanager
def listening(app: Flask | WSGIApplication, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server of the application in this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Silent, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
