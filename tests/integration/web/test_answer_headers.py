"""Every answer forbids what a browser guesses and a proxy keeps; also those that Flask does not make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from constants import API_TOKEN, CALLBACK_TOKEN

if TYPE_CHECKING:
    from flask.testing import FlaskClient

ON_SQLITE = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
PATH = f"/esms/callback/{CALLBACK_TOKEN}"


ASKED = [
    ("GET", f"{PATH}?ReferenceId=a", 200),
    ("GET", f"{PATH}x", 404),
    ("GET", "/api/calls", 200),
    ("GET", "/api/calls/nobody", 404),
    ("GET", "/api/openapi.json", 200),
    ("GET", "/healthz", 200),
    ("HEAD", "/healthz", 200),
    ("OPTIONS", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/nowhere", 404),
    ("POST", "/healthz", 405),
    ("GET", "/sign-in", 302),
    ("GET", "/calls.csv", 302),
    ("POST", "/sign-in", 400),
]


@ON_SQLITE
def test_every_answer_has_them(client: FlaskClient) -> None:
    for method, path, status in ASKED:
        answer = client.open(path, method=method, headers={"Authorization": f"Bearer {API_TOKEN}"})

        assert (path, answer.status_code) == (path, status)
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers.getlist("Cache-Control") == ["no-store"]
