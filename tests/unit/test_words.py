"""Documents, code and help texts avoid phrases that readers stumble over; the list is here and grows."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (
    *(
        "README.md",
        "README.vi.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs",
        "webapp",
        "migrations",
        "deploy",
    ),
    *("tests", "bench", "demo"),
)

# A phrase, and what to write instead. Add one whenever a reader stumbles.
AVOID = {
    r"signs? of life": "answer",
    r"gives? way|gave way|give_way": "yield",
    r"(whose|its|their|one's) turn\b": "due, next, slot",
    r"turns? come|take turns": "due, alternate",
    r"\bin hand\b|\bhand(ed)? in\b": "claimed",
    r"\blonely\b": "single",
    r"waits? for nobody": "is written immediately",
    r"\bunheard\b|\bheard of\b|\bhears?\b": "without an answer, known, reported",
    r"(?<!eSMS.)(?<!not.)\btold\b": "is reported, is shown, answered",
    r"\bof late\b": "in the last …",
    r"\bso (many|long)\b(?! as)": "a number, or as many as",
    r"\bat its end\b": "finally",
    r"goes on for ever": "runs until …",
    r"\bcom(es?|ing) back\b|\bcame back\b": "returns, is available again",
    r"\b(whoever|somebody)\b": "anyone, or name the subject",
    r"(?-i:\b(Inquiry|Turns|Aside|Trail|Sayings|Tell|Heart)\b)": "the term of the field: dispatcher, slot, history",
    r"from elsewhere|\belsewhere\b": "name the place",
    r"\broom for\b|\bthe room\b": "space, limit, context",
    r"what (came|comes)\b": "name it: the request, the answer",
    r"\btakes in\b": "receives",
    r"refuses? alone|by itself waits": "name the subject",
    r"\bprogrammes?\b": "program",
}


@cache
def _texts() -> list[tuple[Path, str]]:
    """Each file and its text; the names of tests as sentences."""
    files = [path for place in PLACES for path in [ROOT / place, *sorted((ROOT / place).rglob("*"))]]
    kinds = {".py", ".md", ".yaml", ".service", ".timer"}
    texts = [path for path in files if path.is_file() and (path.suffix in kinds or path.name == "crontab")]
    return [
        (path, re.sub(r"def test_\w+", lambda name: name[0].replace("_", " "), path.read_text()))
        for path in texts
        if path != Path(__file__)
    ]


@pytest.mark.parametrize("phrase", AVOID)
def test_no_text_uses_words_that_readers_stumble_over(phrase: str) -> None:
    pattern = re.compile(phrase.replace(r" ", r"\s+(?:#\s+)?"), re.IGNORECASE)
    found = []
    for path, text in _texts():
        found += [
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()!r}"
            for match in pattern.finditer(text)
        ]
    assert found == [], f"say instead: {AVOID[phrase]}"
