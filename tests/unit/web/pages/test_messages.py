"""Every text of the page is there in Vietnamese."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[4]
TRANSLATED = ROOT / "webapp" / "web" / "translations" / "vi" / "LC_MESSAGES" / "messages.po"


def texts() -> set[Any]:
    mappings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["babel"]["mappings"]
    methods = [(one["pattern"], one["method"]) for one in mappings]
    return {found[2] for found in extract_from_dir(ROOT / "webapp" / "web", methods)}


def test_no_text_hides_in_another_where_the_extraction_does_not_look() -> None:
    hidden = [
        f"{path.name}:{call.lineno}"
        for path in (ROOT / "webapp" / "web").rglob("*.py")
        for text in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(text, ast.JoinedStr)
        for call in ast.walk(text)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in {"gettext", "ngettext"}
    ]
    assert hidden == []


def test_every_text_is_translated_and_none_is_left_over() -> None:
    with TRANSLATED.open("rb") as file:
        catalog = read_po(file, locale="vi")

    messages = [message for message in catalog if message.id]
    assert {message.id for message in messages} == texts()
    assert [message.id for message in messages if not message.string or message.fuzzy] == []
    assert [(message.id, list(message.check())) for message in messages if list(message.check())] == []
