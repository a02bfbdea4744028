"""What stands in the documents and in the code is the same: tables are made from the code (`make docs` writes them)."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from webapp.cli.main import cli
from webapp.storage.models import Base
from webapp.support.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from webapp.storage.database import Database

ROOT = Path(__file__).parents[2]


def commands() -> str:
    rows = [f"| `{name}` | {command.get_short_help_str(200)} |" for name, command in sorted(cli.commands.items())]
    return "\n".join(["| command | does |", "| --- | --- |", *rows])


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def tables() -> str:
    parts = []
    for table in Base.metadata.tables.values():
        rows = [f"| `{column.name}` | {column.comment} |" for column in table.columns]
        parts += [f"### {table.name}", "", f"{table.comment}.", "", "| column | holds |", "| --- | --- |", *rows, ""]
    return "\n".join(parts).rstrip()


def unit(path: Path) -> str:
    kind = {".yaml": "yaml", ".service": "ini", ".timer": "ini"}.get(path.suffix, "text")
    return f"```{kind}\n{path.read_text()}```"


MADE: list[tuple[str, str, Callable[[], str]]] = [
    ("README.md", "commands", commands),
    ("README.md", "settings", settings),
    ("docs/data.md", "tables", tables),
    *(
        (document, name, partial(unit, ROOT / name))
        for document in ("README.md", "docs/operations.md")
        for name in re.findall(r"<!-- (deploy/[^:]+):", (ROOT / document).read_text())
    ),
]


@pytest.mark.parametrize(("document", "name", "made"), MADE)
def test_what_stands_in_the_documents_is_what_the_code_and_the_files_say(
    document: str, name: str, made: Callable[[], str]
) -> None:
    path = ROOT / document
    text = path.read_text()
    begin, end = f"<!-- {name}: made by `make docs` -->\n", "<!-- end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    expected = f"{begin}{made()}\n{end}"
    if "WRITE_DOCS" in os.environ:
        path.write_text(pattern.sub(lambda _: expected, text))
    assert pattern.findall(path.read_text()) == [expected]


def test_the_documents_carry_every_file_of_deploy() -> None:
    carried = [name for document, name, _ in MADE if document == "docs/operations.md"]
    assert sorted(carried) == sorted(f"deploy/{path.name}" for path in (ROOT / "deploy").iterdir())


def test_every_query_in_the_documents_runs(database: Database) -> None:
    reader = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    assert len(reader) >= 4
    with database.read() as connection:
        for query in reader:
            connection.exec_driver_sql(query).all()
