"""A visitor of the page, without a browser."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from constants import API_TOKEN

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def csrf_token(answer: TestResponse) -> str:
    """The token of the first form on a page."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


def sign_in(client: FlaskClient, token: str = API_TOKEN, **fields: str) -> TestResponse:
    """Sign in by the form of ``/``."""
    form = client.get("/")
    return client.post("/sign-in", data={"csrf_token": csrf_token(form), "token": token, **fields})


def text_of(answer: TestResponse) -> str:
    """The text that a reader sees, with single blanks."""
    body = re.sub(r"(?s)<(script|style|svg)\b.*?</\1>", " ", answer.text.partition("<body>")[2])
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())
