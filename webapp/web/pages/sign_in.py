"""Signing in with a token, and out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flask import redirect, render_template, request, url_for
from flask_babel import gettext

from webapp.support.tokens import is_accepted
from webapp.web.pages import session

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Blueprint
    from flask.typing import ResponseReturnValue

    from webapp.web.pages.sign_in_throttle import Throttle


def form(problem: str = "") -> ResponseReturnValue:
    """What this is, and the form to sign in; it shows nothing else."""
    return render_template("sign_in.html", problem=problem, following=_local(request.values.get("next", "")))


def add_to(pages: Blueprint, tokens: Callable[[], tuple[str, ...]], throttle: Throttle) -> None:
    """Add the routes. ``tokens`` gives all that sign in."""

    @pages.route("/sign-in", methods=["GET", "POST"], endpoint="sign_in")
    def sign_in() -> ResponseReturnValue:
        if request.method == "GET":
            return redirect(url_for("pages.overview"))
        wait = throttle.wait_seconds(request.remote_addr)
        if wait:
            seconds = math.ceil(wait)
            problem = gettext("Too many wrong tokens came from your address. Try again in %(n)s s.", n=seconds)
            return form(problem), 429, {"Retry-After": str(seconds)}  # type: ignore[return-value]
        if not is_accepted(request.form.get("token", "").strip(), tokens()):
            throttle.failed(request.remote_addr)
            return form(gettext("This is not a token of this server.")), 403  # type: ignore[return-value]
        throttle.succeeded(request.remote_addr)
        session.sign_in()
        return redirect(_local(request.form.get("next", "")) or url_for("pages.overview"))

    @pages.post("/sign-out", endpoint="sign_out")
    def sign_out() -> ResponseReturnValue:
        session.sign_out()
        return redirect(url_for("pages.overview"))


def _local(address: str) -> str:
    """The address, if it is one of this server; else nothing."""
    is_local = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_local else ""
