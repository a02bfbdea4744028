"""The documents agree with the code and with each other; `make docs` writes their generated parts."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from webapp import create_app
from webapp.cli import exit_codes
from webapp.cli.commands import cli
from webapp.esms.registrations import REGISTRATION_FIELDS
from webapp.storage import schema
from webapp.storage.models import Base
from webapp.support import metrics
from webapp.support.settings import Settings
from webapp.web import gauges
from webapp.web.api_parameters import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TRANSLATIONS = {"README.md": "README.vi.md"}
SIX_SETTINGS = ("DATABASE_URL", "PUBLIC_URL", "CALLBACK_TOKEN", "API_TOKEN", "ESMS_API_KEY", "ESMS_SECRET_KEY")
HELP_WIDTH = 100
TOKEN = "a-token-of-the-tests"
LONGEST_README = 150
FOR_PROMETHEUS = {"alerts.yaml", "alerts.test.yaml", "grafana.json"}
"""Files of deploy/ that are read with other programs than an editor."""


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its name as it is typed, those of groups included."""
    with click.Context(cli) as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            yield name, command
            if isinstance(command, click.Group):
                yield from ((f"{name} {inner}", found) for inner, found in sorted(command.commands.items()))


def commands() -> str:
    rows = [f"| `{name}` | {command.get_short_help_str(200)} |" for name, command in all_commands()]
    return "\n".join(["| command | does |", "| --- | --- |", *rows])


def help_texts() -> str:
    return "\n".join(f"### {name}\n\n```text\n{_help(name, command)}\n```\n" for name, command in all_commands())


def _help(name: str, command: click.Command) -> str:
    # In the group's own context: its settings, such as -h, hold for its commands.
    with (
        click.Context(cli, info_name="esms-calls", **cli.context_settings) as parent,
        click.Context(command, parent=parent, info_name=name, terminal_width=HELP_WIDTH) as context,
    ):
        return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def six_settings() -> str:
    rows = [f"| `{name}` | {Settings.model_fields[name.lower()].description} |" for name in SIX_SETTINGS]
    return "\n".join(["| setting | meaning |", "| --- | --- |", *rows])


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


def views() -> str:
    module = schema.views_module()
    parts = []
    for view in module.views(module.words_of("postgresql", "UTC", 0)):
        rows = [f"| `{name}` | {comment} |" for name, comment, _ in view.columns]
        parts += [f"### {view.name}", "", f"{view.comment}.", "", "| column | holds |", "| --- | --- |", *rows, ""]
    return "\n".join(parts).rstrip()


def fields() -> str:
    rows = [f"| `{name}` | {words} |" for name, words in REGISTRATION_FIELDS.items()]
    return "\n".join(["| key | meaning |", "| --- | --- |", *rows])


def parameters() -> str:
    rows = [f"| `{name}` | {one.description} |" for name, one in PARAMETERS.items()]
    return "\n".join(["| parameter of `GET /api/calls` | meaning |", "| --- | --- |", *rows])


def metrics_table() -> str:
    """Every metric with its labels: what it says, and whether a receiver, a machine or the database says it."""
    rows = []
    for metric in metrics.COUNTED:
        for family in metric.describe():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            kind = "of a receiver" if family.type == "gauge" else f"of a receiver, {family.type}"
            rows.append(_metric(name, getattr(metric, "_labelnames", ()), kind, family.documentation))
    of_database = gauges.OF_NOW + gauges.OF_LATELY
    for scope, sampled in (("of a machine", gauges.OF_THE_SPOOL), ("of the database", of_database)):
        for one in sampled:
            kind = f"{scope}, histogram" if isinstance(one, metrics.SampledHistogram) else scope
            rows.append(_metric(one.name, one.labels, kind, one.words))
    return "\n".join(["| metric | scope | meaning |", "| --- | --- | --- |", *rows])


def _metric(name: str, labels: Sequence[str], scope: str, words: str) -> str:
    return f"| `{name}{{{','.join(labels)}}}` | {scope} | {words} |".replace("{}", "")


def unit(path: Path) -> str:
    kind = {".yaml": "yaml", ".service": "ini", ".timer": "ini", ".conf": "nginx"}.get(path.suffix, "text")
    return f"```{kind}\n{path.read_text()}```"


GENERATED: list[tuple[str, str, Callable[[], str]]] = [
    ("README.md", "six settings", six_settings),
    ("docs/settings.md", "settings", settings),
    ("docs/commands.md", "commands", commands),
    ("docs/commands.md", "help", help_texts),
    ("docs/http.md", "fields", fields),
    ("docs/http.md", "parameters", parameters),
    ("docs/http.md", "metrics", metrics_table),
    ("docs/data.md", "views", views),
    ("docs/data.md", "tables", tables),
    *(
        ("docs/deployment.md", f"deploy/{path.name}", partial(unit, path))
        for path in sorted((ROOT / "deploy").iterdir())
        if path.is_file() and path.name not in FOR_PROMETHEUS
    ),
]


@pytest.mark.parametrize(("document", "name", "generate"), GENERATED)
def test_generated_parts_equal_the_code(document: str, name: str, generate: Callable[[], str]) -> None:
    path = ROOT / document
    text = path.read_text()
    begin, end = f"<!-- {name}: made by `make docs` -->\n", "<!-- end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    expected = f"{begin}{generate()}\n{end}"
    if "WRITE_DOCS" in os.environ:
        path.write_text(pattern.sub(lambda _: expected, text))
    assert pattern.findall(path.read_text()) == [expected], "run `make docs`"


def test_every_exit_code_is_in_the_commands_document() -> None:
    codes = [value for name, value in vars(exit_codes).items() if name.isupper()]
    text = (ROOT / "docs/commands.md").read_text()
    assert codes
    assert [code for code in codes if f"\n| {code} | " not in text] == []


def test_every_route_is_in_the_http_document(tmp_path: Path) -> None:
    routes = {
        re.sub(r"<\w+:", "<", rule.rule)
        for rule in create_app(
            Settings(instance_dir=tmp_path, callback_token=(TOKEN,), api_token=(TOKEN,))
        ).url_map.iter_rules()
        if not rule.rule.startswith("/api/<")
    }
    text = (ROOT / "docs/http.md").read_text()
    assert [route for route in sorted(routes) if f"{route}`" not in text] == []


def test_readme_is_short_enough_for_one_minute() -> None:
    assert [name for name in ("README.md", "README.vi.md") if len(_lines(ROOT / name)) > LONGEST_README] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_begins_with_its_header(document: Path) -> None:
    """A blank line within a table makes plain text of the rows behind it."""
    lines = ["", *document.read_text().splitlines(), ""]
    first = [number for number in range(1, len(lines)) if lines[number][:1] == "|" != lines[number - 1][:1]]
    assert [lines[number] for number in first if not lines[number + 1].startswith("| ---")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`((?:webapp|tests|docs|deploy|bench|migrations)/[\w./-]*)`", document.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_contributing_names_every_package_and_its_modules() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = [path.parent.name for path in (ROOT / "webapp").glob("*/__init__.py")]
    assert [name for name in packages if f"\n  {name}/ " not in text] == []
    modules = re.findall(r"`((?:calls|esms|storage|callbacks|reconcile|web|cli|support)/\w+\.py)`", text)
    assert [name for name in modules if not (ROOT / "webapp" / name).exists()] == []


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Parts:
    """What a document and its translation must have in common."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"<!--.*?-->\n", "", text)
        self.blocks = re.findall(r"^```(.*?)^```", text, re.DOTALL | re.MULTILINE)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        rows = [line.split("|") for line in prose.splitlines() if line.startswith("|")]
        self.codes_of_rows = [[sorted(re.findall(r"`[^`]+`", cell)) for cell in row] for row in rows]
        self.links = re.findall(r"\]\(([^)]+)\)", prose)
        self.codes = sorted(re.findall(r"`[^`\n]+`", prose))
        self.headings = re.findall(r"^#+ ", prose, re.MULTILINE)


@pytest.mark.parametrize(("original", "translation"), TRANSLATIONS.items())
def test_translation_has_the_same_commands_tables_and_links(original: str, translation: str) -> None:
    ours, theirs = (Parts((ROOT / name).read_text()) for name in (original, translation))
    diagram, *commands_and_outputs = ours.blocks
    assert diagram.startswith("text\n")
    assert theirs.blocks[1:] == commands_and_outputs
    assert theirs.codes_of_rows == ours.codes_of_rows
    assert theirs.codes == ours.codes
    assert theirs.headings == ours.headings
    pictures = {"docs/images/overview-en.png": "docs/images/overview-vi.png"}
    swapped = {original: translation, translation: original} | pictures
    assert theirs.links == [swapped.get(link, link) for link in ours.links]
