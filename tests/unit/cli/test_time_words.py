"""Lengths of time in the terminal: the same numbers as on the page."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask
from flask_babel import Babel

from webapp.cli.time_words import duration
from webapp.web.pages import formats


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (6.999, "6 s"),
        (119.9, "119 s"),
        (120, "2 min"),
        (7800.5, "2 h 10 min"),
        (86400 * 3 + 3600 * 4 + 5, "3 d 4 h"),
    ],
)
def test_a_length_of_time_is_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize("seconds", [0.4, 0.5, 0.999, 6.7, 59.5, 119.999, 120, 7800.9])
def test_page_and_terminal_say_the_same(seconds: float) -> None:
    app = Flask(__name__)
    Babel(app)
    with app.test_request_context():
        assert formats.duration(seconds) == duration(timedelta(seconds=seconds))
