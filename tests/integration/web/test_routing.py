"""Routes are found by method and path, whatever the headers say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from constants import CALLBACK_TOKEN

if TYPE_CHECKING:
    from flask.testing import FlaskClient

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
PATH = f"/esms/callback/{CALLBACK_TOKEN}"
ODD: list[dict[str, str]] = [
    *({"Host": host} for host in ("a..b", ".", f"{'x' * 64}.vn", "é" * 60, "a b", "[::", "")),
    {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"},
    {"Connection": "upgrade", "Upgrade": "WebSocket", "Host": "a..b"},
]


@ON_SQLITE
@pytest.mark.parametrize("headers", ODD, ids=str)
def test_no_host_and_no_offer_of_websockets_makes_a_callback_unreadable(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    for method in ("GET", "POST"):
        answer = client.open(f"{PATH}?ReferenceId={method}&SendStatus=5", method=method, headers=headers)
        assert (answer.status_code, answer.get_json()) == (200, {"result": "settled"})
    assert client.delete(PATH, headers=headers).status_code == 405
    assert client.get("/healthz", headers=headers).status_code == 200

    usual = client.get(f"{PATH}x")
    for method in ("GET", "POST", "DELETE"):
        answer = client.open(f"{PATH}x", method=method, headers=headers)
        assert (answer.status_code, answer.data, dict(answer.headers)) == (404, usual.data, dict(usual.headers))
