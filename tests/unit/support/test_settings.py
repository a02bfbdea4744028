"""The settings: every spelling that is accepted, and every other one refused in words that show no secret."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result
from samples import CALLBACK_TEMPLATE
from sqlalchemy import make_url

from webapp.cli.commands import COMMANDS, cli
from webapp.support.database_url import secrets_in
from webapp.support.settings import ConfigError, Settings, load_settings, mistyped_names
from webapp.support.tokens import is_accepted

SECRET = "the-secret-that-is-shown-nowhere"
ZONE = ZoneInfo("Asia/Ho_Chi_Minh")
EVERY_COMMAND = {
    "audit": [],
    "backup": ["calls.backup"],
    "callback-url": [],
    "completeness": [],
    "dismiss": ["a"],
    "doctor": [],
    "export": [],
    "migrate": [],
    "grant-readonly": ["analyst"],
    "hide-phones": ["--check"],
    "purge": ["--older-than", "365d", "--dry-run"],
    "reconcile": ["--dry-run"],
    "register": [],
    "replay": ["--check"],
    "report": [],
    "restore": [__file__],
    "rollups": ["rebuild"],
    "rotate-token": ["callback"],
    "serve": [],
    "show": ["a"],
    "spool": ["list"],
    "status": [],
    "time-zone": ["show"],
    "unregister": ["a"],
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, input="")


def refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What a command says that this value stops."""
    monkeypatch.setenv(name, value)
    result = run(*(arguments or ["callback-url"]))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {name} ")
    assert "Traceback" not in result.stderr
    return result.stderr


# Every setting


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ESMS_TIMEOUT", "5s", timedelta(seconds=5)),
        ("RECONCILE_GRACE", "0s", timedelta(0)),
        ("RECONCILE_GIVE_UP", "7d", timedelta(days=7)),
        ("RECONCILE_GIVE_UP", "0s", timedelta(0)),
        ("LOOKUP_SHARE_WARN", "5%", Decimal("0.05")),
        ("LOOKUP_SHARE_WARN", "5 %", Decimal("0.05")),
        ("LOOKUP_SHARE_WARN", " 0.5% ", Decimal("0.005")),
        ("LOOKUP_SHARE_WARN", "100%", Decimal(1)),
        ("LOOKUP_SHARE_WARN", "0%", Decimal(0)),
        ("ANSWER_WITHIN", "2s", timedelta(seconds=2)),
        ("SPOOL", "off", False),
        ("SPOOL", " On ", True),
        ("SPOOL_LIMIT", "1MiB", 1024 * 1024),
        ("SPOOL_LIMIT", " 2GiB ", 2 * 1024**3),
        ("SPOOL_LIMIT", "1.5 gib", 3 * 512 * 1024**2),
        ("SPOOL_LIMIT", "500mb", 500 * 1000**2),
        ("VERIFY", "all", "all"),
        ("VERIFY", "All", "all"),
        ("PHONE_STORAGE", "Hashed", "hashed"),
        ("RECONCILE_RATE", "1000", 1000),
        ("RECONCILE_CONCURRENCY", "1", 1),
        ("TRUSTED_PROXIES", "2", 2),
        ("CALLBACK_ALLOWED_IPS", "203.0.113.7, ::/0", (ip_network("203.0.113.7"), ip_network("::/0"))),
        ("OPS_BIND", " 127.0.0.1:9100 ", "127.0.0.1:9100"),
        ("OPS_BIND", "[::1]:9100", "[::1]:9100"),
        ("TIME_ZONE", "UTC", ZoneInfo("UTC")),
        ("TIME_ZONE", " \tUTC\u00a0\n", ZoneInfo("UTC")),
        ("VERIFY", " all ", "all"),
        ("RECONCILE_RATE", " 20 ", 20),
        ("INSTANCE_DIR", " kept here ", Path("kept here")),
        ("PUBLIC_URL", " https://calls.example.vn/voice/ ", "https://calls.example.vn/voice"),
        ("ESMS_API_URL", "http://[::1]:8808/json/", "http://[::1]:8808/json"),
        ("ESMS_MESSAGE_API_URL", "https://rest.example.vn/json/", "https://rest.example.vn/json"),
        ("ESMS_MESSAGE_API_URL", " Off ", "off"),
        ("HTTPS_PROXY", "proxy.example.vn:3128", "http://proxy.example.vn:3128"),
        ("HTTPS_PROXY", "http://user:pass@[fd00::1]:3128/", "http://user:pass@[fd00::1]:3128/"),
        ("HTTPS_PROXY", "socks5h://127.0.0.1:1080", "socks5h://127.0.0.1:1080"),
        ("NO_PROXY", "*", "*"),
        ("ESMS_API_KEY", f" {SECRET} ", SECRET),
        ("CALLBACK_TOKEN", f" {SECRET} ,, 1234567890123456.", (SECRET, "1234567890123456.")),
        ("API_TOKEN", "12345678901234567890.50", ("12345678901234567890.50",)),
    ],
)
def test_a_setting_is_read_from_the_environment(
    name: str, value: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert getattr(load_settings(), name.lower()) == expected


@pytest.mark.parametrize("value", ["", " \t"])
@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_an_empty_setting_is_one_that_is_not_set(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = load_settings()
    monkeypatch.setenv(name, value)

    assert load_settings() == usual


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ESMS_TIMEOUT", "20", "30s, 10m"),
        ("ESMS_TIMEOUT", "0s", "longer than 0s"),
        ("RECONCILE_GRACE", "ten minutes", "30s, 10m"),
        *[
            ("LOOKUP_SHARE_WARN", value, "a percentage such as 5%, 0.5% or 100%")
            for value in (
                "5",
                "0.05",
                "-1%",
                "101%",
                "100.0001%",
                "five%",
                "٣%",
                "1e1%",
                "5%%",
                "%",
                ".5%",
                "nan%",
            )
        ],
        ("ANSWER_WITHIN", "0s", "from 1s to 1m"),
        ("ANSWER_WITHIN", "2m", "from 1s to 1m"),
        ("SPOOL", "maybe", "on or off"),
        ("SPOOL_LIMIT", "much", "such as 500MiB or 1.5GiB"),
        ("SPOOL_LIMIT", "1 mile", "such as 500MiB or 1.5GiB"),
        ("SPOOL_LIMIT", "1,5GiB", "such as 500MiB or 1.5GiB"),
        ("SPOOL_LIMIT", "1GiB of it", "such as 500MiB or 1.5GiB"),
        ("SPOOL_LIMIT", "1 000MiB", "such as 500MiB or 1.5GiB"),
        ("SPOOL_LIMIT", "0MiB", "greater than 0"),
        ("VERIFY", "some", "must be 'off', 'conflicts', 'unregistered' or 'all'"),
        ("RECONCILE_GIVE_UP", "9999d", "at most 3650d"),
        ("RECONCILE_RATE", "0", "greater than or equal to 1"),
        ("RECONCILE_RATE", "1001", "less than or equal to 1000"),
        ("RECONCILE_RATE", "many", "integer"),
        ("RECONCILE_CONCURRENCY", "257", "less than or equal to 256"),
        ("RECONCILE_CONCURRENCY", "1.5", "integer"),
        ("CALLBACK_ALLOWED_IPS", "203.0.113.0/24,localhost", "'localhost' is no address such as"),
        ("CALLBACK_ALLOWED_IPS", "203.0.113.7/24", "203.0.113.7/24: write the network as 203.0.113.0/24"),
        ("CALLBACK_ALLOWED_IPS", ",", "must name an address or a network"),
        ("OPS_BIND", "9100", "HOST:PORT"),
        ("OPS_BIND", "127.0.0.1", "HOST:PORT"),
        ("OPS_BIND", "127.0.0.1:0", "HOST:PORT"),
        ("OPS_BIND", "127.0.0.1:70000", "HOST:PORT"),
        ("OPS_BIND", "::1:9100", "HOST:PORT"),
        ("TRUSTED_PROXIES", "-1", "greater than or equal to 0"),
        ("TRUSTED_PROXIES", "11", "less than or equal to 10"),
        ("TIME_ZONE", "Mars/Olympus", "Asia/Ho_Chi_Minh"),
        ("TIME_ZONE", "../../etc/passwd", "Asia/Ho_Chi_Minh"),
        ("TIME_ZONE", "Asia", "Asia/Ho_Chi_Minh"),
        ("PUBLIC_URL", "calls.example.vn", "such as https://calls.example.vn"),
        ("PUBLIC_URL", "ftp://calls.example.vn", "such as https://calls.example.vn"),
        ("PUBLIC_URL", "https://calls.example.vn/?a=b", "without a query"),
        ("PUBLIC_URL", f"https://user:{SECRET}@calls.example.vn", "or a password"),
        ("ESMS_API_URL", "voiceapi.esms.vn", "such as https://"),
        ("ESMS_API_URL", f"https://voiceapi.esms.vn/json?ApiKey={SECRET}", "without a query"),
        ("ESMS_API_URL", "https://voiceapi.esms.vn:99999/json", "a port from 1 to 65535"),
        ("ESMS_API_URL", "https://voiceapi.esms.vn:0/json", "a port from 1 to 65535"),
        ("ESMS_API_URL", "https://[::1/json", "such as https://"),
        ("ESMS_MESSAGE_API_URL", "none", "such as https://"),
        ("ESMS_CA_BUNDLE", "nowhere.pem", "cannot be read (nowhere.pem: No such file or directory)"),
        ("ESMS_CA_BUNDLE", ".", "cannot be read (.: Is a directory)"),
        ("HTTPS_PROXY", f"ftp://user:{SECRET}@proxy.example.vn", "such as http://proxy.example.vn:3128"),
        ("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example.vn:port", "such as http://proxy.example.vn:3128"),
        ("HTTPS_PROXY", "http://", "such as http://proxy.example.vn:3128"),
        ("CALLBACK_TOKEN", "too-short", "at least 16 characters"),
        ("CALLBACK_TOKEN", f"{SECRET},short", "at least 16 characters"),
        ("CALLBACK_TOKEN", f"{SECRET}/", "A-Z a-z 0-9 - _ . ~"),
        ("CALLBACK_TOKEN", " , ", "unset it to have one generated"),
        ("API_TOKEN", f"{SECRET} {SECRET}", "A-Z a-z 0-9 - _ . ~"),
        ("API_TOKEN", f"{SECRET}é", "A-Z a-z 0-9 - _ . ~"),
        ("DATABASE_URL", f"mysql://user:{SECRET}@host/calls", "postgresql://user:password@host/name"),
        ("DATABASE_URL", f"postgresql+asyncpg://user:{SECRET}@host/calls", "postgresql://user:password@host/name"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@host:port/calls", "postgresql://user:password@host/name"),
        ("DATABASE_URL", SECRET, "postgresql://user:password@host/name"),
        *[
            ("DATABASE_URL", f"{scheme}://user:{password}@host/calls{query}", "write @ as %40")
            for scheme in ("postgres", "postgresql")
            for query in ("", "?sslmode=require")
            for password in (
                f"{SECRET}@",
                f"@{SECRET}",
                f"one@{SECRET}",
                f"one@{SECRET}/two",
                f"one@{SECRET}:two",
                f"one/two@{SECRET}#",
                f"one#two@{SECRET}",
                f"one@{SECRET}@two",
                f"one@two?{SECRET}",
                f"one?{SECRET}@two",
            )
        ],
        ("DATABASE_URL", "sqlite://", "in memory"),
        ("DATABASE_URL", "sqlite:///:memory:", "in memory"),
    ],
)
def test_an_invalid_value_stops_a_command_and_names_the_variable(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refused(name, value, monkeypatch)

    assert words in message
    assert SECRET not in message
    if name in {"CALLBACK_TOKEN", "API_TOKEN"}:
        assert value.strip(" ,") not in message or not value.strip(" ,")


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "https://rest.esms.vn/MainService.svc/json"),
        (
            {"ESMS_API_URL": "https://voiceapi.esms.vn/MainService.svc/json/"},
            "https://rest.esms.vn/MainService.svc/json",
        ),
        ({"ESMS_API_URL": "http://127.0.0.1:8808/json"}, None),
        (
            {"ESMS_API_URL": "http://127.0.0.1:8808/json", "ESMS_MESSAGE_API_URL": "http://127.0.0.1:1"},
            "http://127.0.0.1:1",
        ),
        ({"ESMS_MESSAGE_API_URL": "off"}, None),
    ],
)
def test_the_message_api_is_known_where_the_voice_api_is_esms_own(
    values: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a test's voice API would have calls asked about at the real eSMS."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert load_settings().message_api_url == url


def test_the_first_ca_bundle_that_is_set_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().ca_bundle is None
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "ESMS_CA_BUNDLE"):
        file = tmp_path / f"{name}.pem"
        file.touch()
        monkeypatch.setenv(name, str(file))
        assert load_settings().ca_bundle == (name, file)


def test_the_proxy_may_be_set_in_small_letters_as_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.vn:3128")
    monkeypatch.setenv("no_proxy", ".example.vn")
    assert (load_settings().https_proxy, load_settings().no_proxy) == ("http://proxy.example.vn:3128", ".example.vn")


def test_the_proxys_password_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}%40@proxy.example.vn:3128")
    settings = load_settings()
    assert f"{SECRET}@" in settings.secrets()
    assert f"{SECRET}%40" in settings.secrets()
    assert SECRET not in repr(settings)


def test_every_command_is_looked_at_here() -> None:
    assert {*EVERY_COMMAND, "completion", "sandbox"} == set(COMMANDS)


def test_no_command_but_serve_makes_a_token(tmp_path: Path) -> None:
    """A callback-url with a token that no server knows would send eSMS's callbacks into the void."""
    assert "Traceback" not in run("migrate").output
    for command in (name for name in EVERY_COMMAND if name != "serve"):
        assert "Traceback" not in run(command, *EVERY_COMMAND[command]).output, command
        assert not list(tmp_path.rglob("*token*")), command


@pytest.mark.parametrize("command", EVERY_COMMAND)
@pytest.mark.parametrize(
    ("name", "value"),
    [("RECONCILE_GRACE", "soon"), ("API_TOKEN", "tooshort"), ("DATABASE_URL", f"postgres://u:{SECRET}@h:p/d")],
)
def test_an_invalid_value_stops_every_command_before_it_does_anything(
    command: str, name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refused(name, value, monkeypatch, command, *EVERY_COMMAND[command])

    assert value not in message
    assert list(tmp_path.iterdir()) == []


def test_all_invalid_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIME_ZONE", "Mars")
    monkeypatch.setenv("API_TOKEN", SECRET[:15])

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["API_TOKEN", "TIME_ZONE"]
    assert SECRET[:15] not in str(caught.value)
    # A traceback would show the values that pydantic was given.
    assert caught.value.__suppress_context__


def test_the_settings_show_no_secret_when_they_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://user:{SECRET}@host/calls")
    for name in ("CALLBACK_TOKEN", "API_TOKEN", "ESMS_API_KEY", "ESMS_SECRET_KEY"):
        monkeypatch.setenv(name, SECRET)

    settings = load_settings()

    assert SECRET not in f"{settings} {settings!r}"
    assert settings.secrets() == (SECRET,)


# .env


def test_a_file_named_env_in_the_working_folder_is_read_and_the_environment_outranks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        f'# a comment\nRECONCILE_GRACE=1h\nexport RECONCILE_RATE="3"\nreconcile_concurrency=2\nESMS_API_KEY={SECRET}\n'
        "SOMETHING_ELSE=1\nTIME_ZONE=\n"
    )
    monkeypatch.setenv("RECONCILE_GRACE", "2h")

    found = load_settings()

    assert (found.reconcile_grace, found.reconcile_rate, found.reconcile_concurrency) == (timedelta(hours=2), 3, 2)
    assert (found.esms_api_key, found.time_zone) == (SECRET, ZONE)


def test_an_invalid_value_in_the_file_is_named_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CALLBACK_TOKEN=tooshort\n")

    result = run("status")

    assert result.exit_code == 2
    assert "CALLBACK_TOKEN" in result.stderr
    assert "tooshort" not in result.stderr


def test_a_file_that_is_no_text_stops_a_command(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"API_TOKEN=\xff\xfe" + SECRET.encode())

    result = run("status")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: .env cannot be read (UnicodeDecodeError): it must be UTF-8 text.")
    assert SECRET not in result.stderr


def test_a_file_that_this_user_may_not_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RECONCILE_GRACE=1h\n")
    (tmp_path / ".env").chmod(0o000)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        with pytest.raises(
            ConfigError, match=r"^\.env cannot be read \(Permission denied\): make it readable for this"
        ):
            load_settings()
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_with_a_bom_is_read_from_its_first_line_on(end: str, tmp_path: Path) -> None:
    lines = ["RECONCILE_GRACE=1h", "TIME_ZONE = UTC ", f" CALLBACK_TOKEN= {SECRET} , 1234567890123456. ", ""]
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())

    found = load_settings()

    assert (found.reconcile_grace, found.time_zone) == (timedelta(hours=1), ZoneInfo("UTC"))
    assert found.callback_token == (SECRET, "1234567890123456.")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RECONCILE_RTE", "RECONCILE_RATE"),
        ("ESMS_KEY", "ESMS_API_KEY"),
        ("ESMS_SECRET", "ESMS_SECRET_KEY"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("TIMEZONE", "TIME_ZONE"),
        ("public_ur", "PUBLIC_URL"),
    ],
)
def test_a_name_in_the_file_that_is_probably_mistyped_is_named_with_the_likely_one(
    name: str, meant: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"{name}={SECRET}\nCALLBACK_TOKEN={SECRET}\nSOMETHING_ELSE=1\nHTTPS_PROXY=x\n")

    assert mistyped_names() == {name: meant}
    for arguments in (["callback-url"], ["status"], ["spool", "list"]):
        message = run(*arguments).stderr
        assert message.count(f".env: {name} is not a setting, and is ignored. Do you mean {meant}?") == 1
        assert SECRET not in message


@pytest.mark.parametrize("place", [".env", "environment"])
def test_a_name_whose_likely_one_is_set_belongs_to_another_program(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"SECRET_KEY=x\n{'esms_secret_key=y' if place == '.env' else ''}\n")
    if place == "environment":
        monkeypatch.setenv("ESMS_SECRET_KEY", "y")

    assert mistyped_names() == {}


def test_where_the_settings_were_looked_for_is_said(tmp_path: Path) -> None:
    nowhere, no_spool = run("callback-url"), run("spool", "list")
    (tmp_path / ".env").write_text("TIME_ZONE=Mars\n")

    assert nowhere.exit_code == 2
    assert f"{tmp_path}/instance/callback_token does not exist" in nowhere.stderr
    assert f"{tmp_path}/.env (there is none)" in nowhere.stderr
    assert f"There is no folder {tmp_path}/instance: run it where the server runs" in no_spool.stderr
    assert f"{tmp_path}/.env." in run("callback-url").stderr


# The database


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://user:p%40ss%2F@host:5433/calls", "postgresql+psycopg://user:p%40ss%2F@host:5433/calls"),
        ("postgresql://user:p/ss@host/calls", "postgresql+psycopg://user:p%2Fss@host/calls"),
        ("postgresql://user@host/calls?sslmode=require", "postgresql+psycopg://user@host/calls?sslmode=require"),
        ("postgresql+psycopg:///calls?host=/run/pg", "postgresql+psycopg:///calls?host=%2Frun%2Fpg"),
        (" sqlite:////var/lib/calls.db ", "sqlite:////var/lib/calls.db"),
        ("sqlite:///calls.db", "sqlite:///calls.db"),
        ("sqlite+pysqlite:///calls.db", "sqlite+pysqlite:///calls.db"),
    ],
)
def test_the_usual_spellings_of_a_database_are_understood(
    url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    found = load_settings()

    assert found.database == expected
    assert found.is_embedded == ("sqlite" in url)


def test_without_a_database_it_is_sqlite_in_the_instance_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("instance", "odd?name=x%20y", "kept here/é"):
        monkeypatch.setenv("INSTANCE_DIR", folder)
        assert make_url(load_settings().database).database == f"{tmp_path}/{folder}/calls.db"
        assert load_settings().is_embedded

    assert run("migrate").exit_code == 0
    assert (tmp_path / "kept here/é/calls.db").is_file()


@pytest.mark.parametrize("secret", ["p@ss/word x", "päss", "100%"])
def test_a_password_is_a_secret_however_it_is_written(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = quote(secret, safe="")
    for url in (f"postgresql://user:{encoded}@host/calls", f"postgresql://host/calls?user=u&password={encoded}"):
        for name in ("DATABASE_URL", "READ_DATABASE_URL"):
            with monkeypatch.context() as one:
                one.setenv(name, url)
                assert set(load_settings().secrets()) == {secret, encoded}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/calls?user=u&password={}",
        "postgresql://u@host/calls?password={}",
        "postgresql://u@host/calls?sslpassword={}",
        "postgresql://u@host/calls?options=-capp.password%3D{}",
        "postgresql://u@host/calls?options=-c%20statement_timeout%3D5s%20-c%20app.API_SECRET%3D{}%20-c%20x.y%3D1",
        "postgresql://u%3A{}@host/calls",
        "postgresql://host/calls?user=u%3A{}",
        "postgres://u:{}@host/calls?sslmode=require",
    ],
)
def test_a_password_is_a_secret_in_every_place_of_the_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for written in (SECRET, "".join(f"%{ord(letter):02x}" for letter in SECRET)):
        monkeypatch.setenv("DATABASE_URL", url.format(written))
        assert load_settings().secrets() == (SECRET,)


@pytest.mark.parametrize("name", ["PASSWORD", "Password", "SSLPASSWORD", "pass%77ord2"])
def test_a_password_under_a_name_that_is_none_is_not_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u@host/calls?{name}={SECRET}")

    with pytest.raises(ConfigError, match=r"has the option .*, which PostgreSQL does not know") as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert secrets_in(make_url(f"postgresql://u@host/calls?{name}={SECRET}")) == {SECRET}


# Tokens


@pytest.mark.parametrize("kind", ["callback_token", "api_token"])
def test_a_token_that_is_not_set_is_generated_once_for_its_owner_alone_and_used_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANCE_DIR", "a/b")

    load_settings().make_tokens()
    (token,) = getattr(load_settings(), f"{kind}s")()
    load_settings().make_tokens()

    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token), "32 bytes"
    assert getattr(load_settings(), f"{kind}s")() == (token,)
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {"callback_token", "api_token"}
    assert (tmp_path / "a/b" / kind).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    assert token in load_settings().secrets()
    # Each kind and each folder has its own.
    assert len({*load_settings().callback_tokens(), *load_settings().api_tokens()}) == 2
    monkeypatch.setenv("INSTANCE_DIR", "c")
    load_settings().make_tokens()
    assert getattr(load_settings(), f"{kind}s")() != (token,)


@pytest.mark.parametrize("kind", ["callback_token", "api_token"])
def test_a_token_that_is_neither_set_nor_kept_is_missed_in_words(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANCE_DIR", "a/b")

    with pytest.raises(ConfigError, match=f"^{kind.upper()} is not set, and {tmp_path}/a/b/{kind} does not exist"):
        getattr(load_settings(), f"{kind}s")()

    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_set_counts_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBACK_TOKEN", f"{SECRET},the-old-callback-token")

    monkeypatch.setenv("API_TOKEN", SECRET)

    load_settings().make_tokens()

    assert load_settings().callback_tokens() == (SECRET, "the-old-callback-token")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"tooshort\n", b"\xff" * 40, f"{SECRET}\nshort\n".encode()])
def test_a_kept_token_that_is_none_is_named_and_not_shown(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance/callback_token").write_bytes(content)

    result = run("callback-url")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "instance/callback_token" in result.stderr
    assert "CALLBACK_TOKEN" in result.stderr
    assert SECRET not in result.stderr
    assert "tooshort" not in result.stderr
    assert (tmp_path / "instance/callback_token").read_bytes() == content


def test_an_instance_folder_that_is_a_file_stops_a_command(tmp_path: Path) -> None:
    (tmp_path / "instance").touch()

    result = run("callback-url")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "INSTANCE_DIR must be a folder, and instance is none." in result.stderr


def test_a_token_that_cannot_be_read_stops_a_command_and_the_remedy_is_said(tmp_path: Path) -> None:
    (tmp_path / "instance/callback_token").mkdir(parents=True)

    result = run("callback-url")

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"CALLBACK_TOKEN is not set, and {tmp_path}/instance/callback_token cannot be read" in result.stderr
    assert "INSTANCE_DIR" in result.stderr


def test_a_token_that_cannot_be_made_stops_the_server_and_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANCE_DIR", "/proc/instance")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/calls.db")
    monkeypatch.setenv("SPOOL", "off")

    result = run("serve", "--bind", "127.0.0.1:0")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "CALLBACK_TOKEN is not set, and /proc/instance/callback_token cannot be made" in result.stderr
    assert "INSTANCE_DIR" in result.stderr


@pytest.mark.parametrize(
    ("token", "known"),
    [
        ("a", True),
        ("b", True),
        ("", False),
        ("ab", False),
        ("A", False),
        ("a\0", False),
        ("é", False),
        ("\ud800", False),
    ],
)
def test_one_of_several_tokens_is_known_and_no_other(token: str, known: bool) -> None:  # noqa: FBT001
    assert is_accepted(token, ("a", "b")) is known


# The CallbackUrl


@pytest.mark.parametrize(
    ("public_url", "beginning"),
    [
        (None, "http://127.0.0.1:8000"),
        ("https://calls.example.vn", "https://calls.example.vn"),
        ("https://example.vn:8443/voice/", "https://example.vn:8443/voice"),
    ],
)
def test_the_callback_url_has_the_first_token_and_the_documented_empty_parameters(
    public_url: str | None, beginning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if public_url:
        monkeypatch.setenv("PUBLIC_URL", public_url)
    monkeypatch.setenv("CALLBACK_TOKEN", f"{SECRET},the-old-callback-token")

    plain, encoded = run("callback-url"), run("callback-url", "--encoded")

    assert (plain.exit_code, plain.stderr) == (encoded.exit_code, encoded.stderr) == (0, "")
    assert plain.stdout == f"{beginning}/esms/callback/{SECRET}?{CALLBACK_TEMPLATE.text}\n"
    assert unquote(encoded.stdout) == plain.stdout
    # It is to be one value in the query string of another URL.
    placing = f"https://voiceapi.esms.vn/MakeCallRecord_V2?CallbackUrl={encoded.stdout.strip()}&RequestID=1"
    assert dict(parse_qsl(urlsplit(placing).query)) == {"CallbackUrl": plain.stdout.strip(), "RequestID": "1"}
    assert not urlsplit(placing).fragment


def test_the_callback_url_is_the_same_every_time_though_its_token_was_generated() -> None:
    load_settings().make_tokens()

    assert run("callback-url").stdout == run("callback-url").stdout
    assert load_settings().callback_tokens()[0] in run("callback-url").stdout


def test_the_callback_url_is_not_printed_without_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", SECRET)

    result = run("callback-url")

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"CALLBACK_TOKEN is not set, and {tmp_path}/instance/callback_token does not exist" in result.stderr
    assert "On a new server `esms-calls serve` makes a token." in result.stderr
    assert list(tmp_path.iterdir()) == []
