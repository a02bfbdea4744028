"""Tokens and keys of the tests, and how thorough they are."""

from __future__ import annotations

import os
from urllib.parse import quote, quote_plus

SOAK = float(os.environ.get("SOAK") or 0)
"""0: the quick form of long tests; else the long one, times so much."""

CALLBACK_TOKEN = "callback-token-of-the-tests"
API_TOKEN = "api-token-of-the-tests"
API_KEY = "an api key & more%2F+"
SECRET_KEY = "the-secret=key;with/odd?letters"
PROBE_OFTEN = {"webapp.callbacks.drain._PROBE_SECONDS": 0.1}
"""As CONSTANTS of a Program, in JSON: a server that looks for its database ten times as often as usual."""
SPELLINGS = [spell(key) for key in (API_KEY, SECRET_KEY) for spell in (str, quote, quote_plus)]


def sized(quick: int) -> int:
    """How many examples hypothesis tries; ``make soak`` tries many more."""
    return round(quick * 10 * SOAK) if SOAK else quick
