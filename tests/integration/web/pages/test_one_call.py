"""The story of one call on the page: what is known, who said it, and what each report said and did."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from commands import ON_SQLITE
from makers import NOW, at, callback, lookup
from pages import sign_in, text_of

from webapp.calls import story
from webapp.calls.outcome import OUTCOMES
from webapp.calls.rule import Registration
from webapp.esms.finality import MEANINGS
from webapp.web.pages import call_words, words

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from webapp.storage.writer import Writer

pytestmark = ON_SQLITE


@pytest.fixture
def reading(app: Flask) -> FlaskClient:
    """A client that is signed in."""
    client = app.test_client()
    assert sign_in(client).status_code == 302
    return client


def seen(client: FlaskClient, reference_id: str, language: str = "en") -> str:
    answer = client.get(f"/calls/{quote(reference_id, safe='')}?lang={language}")
    assert answer.status_code == 200, answer.text
    return text_of(answer)


def test_it_tells_what_each_report_changed_and_who_said_what(reading: FlaskClient, writer: Writer) -> None:
    placed = NOW - timedelta(minutes=1)
    writer.register([Registration(reference_id="a1", phone="0901888484", campaign="tet", placed_at=placed)], NOW)
    writer.record([callback("a1", 0, send_status=5, sent_result=0, call_status="NOANSWERED", price="0")], NOW)
    writer.record([callback("a1", 60, send_status=5, sent_result=1, call_status="ANSWERED", price="850.5000")], NOW)
    writer.record([lookup("a1", 120, send_status=5, call_status="ANSWERED", call_duration=23, ivr="1")], NOW)
    text = seen(reading, "a1")
    assert "Phone 0901888484 as registered" in text
    assert "Campaign tet as registered" in text
    assert "Talk time 23 s by lookup" in text
    assert "Status NOANSWERED → ANSWERED" in text
    assert "SentResult 0 (failed at the carrier) → 1 (succeeded at the carrier)" in text
    assert "Callback disagreed with the settled call" in text
    assert "after 2 min · from" in text
    assert "Answered confirmed by eSMS" in text
    order = [text.index(one) for one in ("settled the call", "disagreed with", "Look-up confirmed the call")]
    assert order == sorted(order)


def test_what_was_said_again_is_folded(reading: FlaskClient, writer: Writer) -> None:
    said = {"send_status": 5, "sent_result": 1, "call_status": "ANSWERED"}
    writer.record([callback("b1", second, **said) for second in (0, 10, 20, 30)], NOW)
    text = seen(reading, "b1")
    assert text.count("said nothing new") == 1
    assert "the same came 2 times more" in text


def test_very_many_repetitions_are_counted_though_only_the_first_are_named(
    reading: FlaskClient, writer: Writer
) -> None:
    writer.record([callback("b1", second, send_status=5, call_status="ANSWERED") for second in range(70)], NOW)
    text = seen(reading, "b1")
    assert "the same came 68 times more" in text
    assert " … As it came" in text


def test_a_long_story_shows_its_beginning_and_end(reading: FlaskClient, writer: Writer) -> None:
    writer.record([callback("c1", second, cid=f"{second}") for second in range(130)], NOW)
    text = seen(reading, "c1")
    assert "30 more are not shown here" in text
    assert "Called from 58 → 59" in text
    assert "Called from 59 → 60" not in text
    assert "Called from 128 → 129" in text


@pytest.mark.parametrize("identity", ["/a//b/", "a?b#c%2f", "..", "<script>alert(1)</script>"])
def test_any_id_has_its_page(reading: FlaskClient, writer: Writer, identity: str) -> None:
    writer.record([callback(identity, call_status="ANSWERED")], NOW)
    answer = reading.get(f"/calls/{quote(identity, safe='')}?lang=vi")
    assert answer.status_code == 200
    assert identity in text_of(answer)
    assert "<script" not in answer.text


def test_it_says_so_of_an_unknown_call(reading: FlaskClient) -> None:
    answer = reading.get("/calls/nothing-here?lang=en")
    assert answer.status_code == 404
    assert "No call has the id 'nothing-here'" in text_of(answer)


def test_a_call_without_reports_has_a_page(reading: FlaskClient, writer: Writer) -> None:
    writer.register([Registration(reference_id="d1", placed_at=at(0))], NOW)
    assert "No report of this call has come." in seen(reading, "d1")
    assert "Chưa có kết quả" in seen(reading, "d1", "vi")


def test_its_words_are_those_of_the_terminal(app: Flask) -> None:
    with app.test_request_context("/?lang=en"):
        assert call_words.effects() == story.EFFECTS_IN_WORDS
        assert {name: call_words.meanings(name) for name in MEANINGS} == MEANINGS
        assert set(call_words.labels()) >= {*story.FACTS, *story.SAID} - {"outcome", "conflict", "price_conflict"}
        assert set(words.outcome_words()) == set(OUTCOMES)


def test_nothing_is_shown_to_those_who_are_not_signed_in(client: FlaskClient, writer: Writer) -> None:
    writer.record([callback("e1", call_status="ANSWERED")], NOW)
    assert client.get("/calls/e1").status_code == 302
