"""The language of the page: Vietnamese or English, chosen by the URL, an earlier choice or the browser."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations
from flask import g, request
from flask_babel import Babel, Domain, get_locale

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from flask import Flask, Response

LANGUAGES = ("vi", "en")
"""The first is spoken to those whose browser asks for neither."""
_COOKIE = "language"
_YEAR_SECONDS = 365 * 24 * 3600
_TRANSLATIONS = Path(__file__).parent.parent / "translations"


def init_app(app: Flask, zone: ZoneInfo) -> None:
    """Give the templates gettext, and Babel's formats the language of the request, and ``zone`` if it names none."""
    _Babel().init_app(app, locale_selector=chosen, timezone_selector=lambda: g.get("zone", zone))


def show_times_in(zone: ZoneInfo) -> None:
    """Write the times of this answer by the clocks of the zone whose days it counts, whatever ``TIME_ZONE`` says."""
    g.zone = zone


def chosen() -> str:
    """The language of this request."""
    if "language" not in g:
        wanted = (request.args.get("lang"), request.cookies.get(_COOKIE))
        g.language = next((one for one in wanted if one in LANGUAGES), None) or (
            request.accept_languages.best_match(LANGUAGES) or LANGUAGES[0]
        )
    language: str = g.language
    return language


def remember(response: Response) -> None:
    """Keep the language that the URL chooses for the next visit."""
    if (language := request.args.get("lang")) in LANGUAGES:
        response.set_cookie(
            _COOKIE, str(language), _YEAR_SECONDS, secure=request.is_secure, httponly=True, samesite="Lax"
        )


class _Babel(Babel):  # type: ignore[misc]
    """Reads ``messages.po`` as it is: no compiled copy of it can be out of date."""

    @property
    def domain_instance(self) -> Domain:
        return _Domain(domain=self.domain)


class _Domain(Domain):  # type: ignore[misc]
    def get_translations(self) -> Any:
        locale = get_locale()
        return _translations(str(locale)) if locale else NullTranslations()


@cache
def _translations(language: str) -> Any:
    path = _TRANSLATIONS / language / "LC_MESSAGES" / "messages.po"
    if not path.exists():  # English is the language of the templates.
        return Translations()
    compiled = BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    return Translations(fp=compiled)
