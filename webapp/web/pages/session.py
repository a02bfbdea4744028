"""Who is signed in: a signed cookie that ends after twelve hours, or when a token changes."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from flask import request, session
from flask.sessions import SecureCookieSessionInterface

from webapp.support.settings import CALLBACK_PATH

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask, Request
    from flask.sessions import SecureCookieSession

_LIFETIME = timedelta(hours=12)
_SIGNED_IN = "signed_in"


def init_app(app: Flask, tokens: Callable[[], tuple[str, ...]]) -> None:
    """Sign cookies with a key made of the tokens: the same in all processes, another as soon as one changes."""
    app.config.update(
        SECRET_KEY=_cookie_key(tokens()),
        SESSION_COOKIE_NAME="esms_calls",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=_LIFETIME,
        # The pages check their forms themselves: callbacks are posted without any of this.
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
    )
    app.session_interface = _Sessions(tokens)


@cache
def _cookie_key(tokens: tuple[str, ...]) -> bytes:
    """Slow to make, so that a cookie does not help to guess a token."""
    text = "\0".join(sorted(tokens)).encode()
    return hashlib.scrypt(text, salt=b"esms-calls page", n=2**14, r=8, p=1, dklen=32)


def is_signed_in() -> bool:
    """Whether this request comes from someone who is signed in."""
    return bool(session.get(_SIGNED_IN))


def sign_in() -> None:
    """Begin a session of twelve hours."""
    session.clear()
    session.permanent = True
    session[_SIGNED_IN] = True


def sign_out() -> None:
    """End the session."""
    session.clear()


class _Sessions(SecureCookieSessionInterface):
    def __init__(self, tokens: Callable[[], tuple[str, ...]]) -> None:
        self._tokens = tokens

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """None for callbacks and the API: they have no session, and must not wait for one."""
        if request.path.startswith((CALLBACK_PATH, "/api")):
            return None
        app.secret_key = _cookie_key(self._tokens())
        return super().open_session(app, request)

    def get_cookie_secure(self, _app: Flask) -> bool:
        """Behind TLS the cookie is sent over TLS alone."""
        return request.is_secure
