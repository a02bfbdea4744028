"""Tokens and keys of the tests."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

CALLBACK_TOKEN = "callback-token-of-the-tests"
API_TOKEN = "api-token-of-the-tests"
API_KEY = "an api key & more%2F+"
SECRET_KEY = "the-secret=key;with/odd?letters"
SPELLINGS = [spell(key) for key in (API_KEY, SECRET_KEY) for spell in (str, quote, quote_plus)]
