"""A running server follows rotate-token: no callback is lost, each is counted by its token, no token is stored."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
import requests
from running import Program, esms_calls, free_port, wait_until_healthy
from sqlalchemy import create_engine, text
from until import until

from webapp.support.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from webapp.support.settings import Settings


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_running_server_follows_each_step_without_a_restart(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CALLBACK_TOKEN", "API_TOKEN"):
        monkeypatch.delenv(name)
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    often = {"CONSTANTS": '{"webapp.support.accepted_tokens.PAUSE_SECONDS": 0.2}'}
    with Program("serve", "--bind", address, stdout=log, stderr=log, environment=often) as server:
        wait_until_healthy(f"http://{address}", server)

        def answer(token: str, query: str) -> int:
            url = f"http://{address}/esms/callback/{token}?{query}&SendStatus=7"
            return requests.get(url, timeout=10).status_code

        def api(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return requests.get(f"http://{address}/api/calls", headers=headers, timeout=10).status_code

        def always(token: str, status: int) -> None:
            """Both workers answer so from now on, and all the while one of the statuses before and after it."""
            until(lambda: {answer(token, f"ReferenceId=a{number}") for number in range(12)} == {status}, 10, "followed")

        (old,), (old_api,) = load_settings().callback_tokens(), load_settings().api_tokens()
        assert (answer(old, "ReferenceId=b"), api(old_api)) == (200, 200)
        for kind in ("callback", "api"):
            assert esms_calls("rotate-token", kind).returncode == 0
        new, new_api = load_settings().callback_tokens()[0], load_settings().api_tokens()[0]
        assert answer(old, "ReferenceId=c") == 200
        always(new, 200)
        always(old, 200)
        assert answer(new, f"ReferenceId=d&partnerids={new}%20{old}") == 200
        assert answer(new, f"partnerids={new}") == 400
        until(lambda: {api(new_api) for _ in range(12)} == {200}, 10, "the API token is followed")
        assert api(old_api) == 200

        for kind in ("callback", "api"):
            assert esms_calls("rotate-token", kind, "--finish", "--force").returncode == 0
        always(old, 404)
        always(new, 200)
        until(lambda: {api(old_api) for _ in range(12)} == {401}, 10, "the API token is followed")
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=40)

    found = json.loads(esms_calls("status", "--json").stdout)
    counted = {one["token_ending"]: one for one in found["callback_tokens"]}
    assert counted[new[-4:]]["accepted"]
    assert not counted[old[-4:]]["accepted"]
    with create_engine(settings.database).connect() as connection:
        reports = connection.scalar(text("SELECT count(*) FROM status_reports"))
        stored = connection.execute(
            text("SELECT payload FROM status_reports UNION SELECT payload FROM rejected_callbacks")
        )
        payloads = " ".join(payload for (payload,) in stored)
    assert counted[new[-4:]]["last_day"] + counted[old[-4:]]["last_day"] == reports + 1, "each callback is counted once"
    assert found["wrong_tokens_last_day"] >= 12
    logged = log.read_text()
    assert "***" in payloads
    assert not any(token in payloads + logged.partition("\n  ")[2].partition("\n")[2] for token in (old, new))
