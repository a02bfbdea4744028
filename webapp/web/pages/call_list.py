"""The list of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import redirect, url_for

if TYPE_CHECKING:
    from flask import Blueprint
    from flask.typing import ResponseReturnValue


def add_to(pages: Blueprint) -> None:
    """Add the route."""

    @pages.get("/calls", endpoint="calls")
    def calls() -> ResponseReturnValue:
        return redirect(url_for("pages.overview"))
