"""Reads DATABASE_URL, and says in words that show no secret what in it is not understood."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_USAGE = "must be a URL such as postgresql://user:password@host/name or sqlite:////var/lib/calls.db"
_ENCODE = (
    "cannot be read: in a user name and a password, write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23 and % as %25"
)
_SEVERAL_HOSTS = re.compile(r"\w[\w+]*://(?:[^@/?#]*@)?(?P<hosts>[^@/?#]*,[^@/?#]*)(?P<rest>/[^@?#]*)?(?:[?#][^@]*)?")
"""A URL with several hosts, as libpq writes it."""
_INSTEAD = {
    "ssl": "write sslmode=require",
    "timeout": "write connect_timeout",
    "schema": "write options=-csearch_path%3DNAME",
    "search_path": "write options=-csearch_path%3DNAME",
    "currentschema": "write options=-csearch_path%3DNAME",
    "pgbouncer": "none is needed behind PgBouncer",
}
"""What to write instead of options that other programs know."""


def _checks_one_of(*values: str) -> Callable[[str], str | None]:
    return lambda value: None if value in values else f"must be {', '.join(values[:-1])} or {values[-1]}"


def _number(value: str) -> str | None:
    return None if re.fullmatch(r"[0-9]{1,9}", value) else "must be a whole number"


def _ports(value: str) -> str | None:
    ports = value.split(",")
    return None if all(map(_is_port, ports)) else "must be a port from 1 to 65535"


def _is_port(port: str) -> bool:
    return not port or (re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) <= 65_535)  # noqa: PLR2004


def _file(value: str) -> str | None:
    return None if value == "system" or Path(value).is_file() else "must be a file that is there"


_ON_OFF = _checks_one_of("0", "1")
_TLS = _checks_one_of("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_PROBLEM_OF: dict[str, Callable[[str], str | None]] = {
    "channel_binding": _checks_one_of("disable", "prefer", "require"),
    "client_encoding": lambda value: None if value.lower() in {"utf8", "utf-8"} else "must be utf8",
    "connect_timeout": _number,
    "gssencmode": _checks_one_of("disable", "prefer", "require"),
    "keepalives": _ON_OFF,
    "keepalives_count": _number,
    "keepalives_idle": _number,
    "keepalives_interval": _number,
    "load_balance_hosts": _checks_one_of("disable", "random"),
    "port": _ports,
    "replication": lambda _: "is not for this program",
    "ssl_max_protocol_version": _TLS,
    "ssl_min_protocol_version": _TLS,
    "sslcert": _file,
    "sslcertmode": _checks_one_of("disable", "allow", "require"),
    "sslcompression": _ON_OFF,
    "sslcrl": _file,
    "sslkey": _file,
    "sslmode": _checks_one_of("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": _checks_one_of("postgres", "direct"),
    "sslrootcert": _file,
    "sslsni": _ON_OFF,
    "target_session_attrs": _checks_one_of("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "tcp_user_timeout": _number,
}
"""What is wrong with the value of an option; an option of libpq that is not here may be any text."""
_REPEATABLE = {"host", "port"}
_SECRET_OPTIONS = {"scram_client_key", "scram_server_key", "oauth_client_secret"}
_SECRET_PARAMETER = re.compile(r"[\w.-]*(?:password|passwd|secret|token)[\w.-]*\s*=\s*((?:\\.|\S)+)", re.IGNORECASE)
"""A parameter of the server in ``options``, such as ``-c app.password=…``."""


def read_database_url(text: str) -> str:
    """The URL as SQLAlchemy takes it; raises ValueError, in words that follow the name of the setting."""
    try:
        url = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text))
    except (ArgumentError, ValueError):
        raise ValueError(_why_unreadable(text)) from None
    if url.drivername not in {"postgresql+psycopg", "sqlite", "sqlite+pysqlite"}:
        raise ValueError(_USAGE)
    if _looks_like_a_password(text.partition("@")[2].partition("?")[2]):
        raise ValueError(_ENCODE)
    problem = _sqlite_problem(url) if url.get_backend_name() == "sqlite" else _postgresql_problem(url)
    if problem:
        raise ValueError(problem)
    return url.render_as_string(hide_password=False)


def secrets_in(url: URL) -> set[str]:
    """Every part of the URL that is a password, in whatever place and spelling of its name."""
    given = [(name.lower(), value) for name, values in url.normalized_query.items() for value in values]
    passwords = [value for name, value in given if "password" in name or name in _SECRET_OPTIONS]
    parameters = [found for name, value in given if name == "options" for found in _SECRET_PARAMETER.findall(value)]
    # USER%3APASSWORD is read as a user.
    in_users = [user.partition(":")[2] for user in users_in(url) if ":" in user]
    return {secret for secret in (str(url.password or ""), *passwords, *parameters, *in_users) if secret}


def users_in(url: URL) -> set[str]:
    """The user, and the one that an option names."""
    return {user for user in (url.username or "", *url.normalized_query.get("user", ())) if user}


def is_user_public(url: URL) -> bool:
    """Whether the user can be shown. One without a password may be a password that was put into its place."""
    return bool(url.password) and not any(":" in user for user in users_in(url))


def _why_unreadable(text: str) -> str:
    if found := _SEVERAL_HOSTS.fullmatch(text):
        hosts = "&".join(f"host={host}" for host in found["hosts"].split(","))
        return f"names several hosts: write them as postgresql://user:password@{found['rest'] or '/name'}?{hosts}"
    return _ENCODE if text.count("@") > 1 else _USAGE


def _looks_like_a_password(options: str) -> bool:
    """Whether what follows ? is a part of a password, which no message may show."""
    return "@" in options and not {one.partition("=")[0] for one in options.split("&")} <= _known_options()


def _sqlite_problem(url: URL) -> str | None:
    if url.database in {None, "", ":memory:"}:
        return "is a database in memory, which is lost at the end: name a file: sqlite:////var/lib/calls.db"
    if url.query:
        return "has options (what follows ?), and SQLite takes none here"
    if Path(str(url.database)).is_dir():
        return f"names a folder: name a file in it, such as sqlite:///{Path(str(url.database)) / 'calls.db'}"
    return None


def _postgresql_problem(url: URL) -> str | None:
    if "@" in f"{url.host}{url.database}":
        return _ENCODE
    if url.port is not None and not _is_port(str(url.port)):
        return "has a port that is not from 1 to 65535"
    problems = ((name, _option_problem(name, given)) for name, given in url.normalized_query.items())
    problem = next((f"has the option {name}, which {problem}" for name, problem in problems if problem), None)
    return problem or _hosts_problem(url)


def _hosts_problem(url: URL) -> str | None:
    """Whether SQLAlchemy can put the hosts and ports of the options together."""
    if "host" not in url.query:
        return None
    try:
        url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        database = f"/{url.database or 'name'}"
        return f"names several hosts: write them as postgresql://user:password@{database}?host=ONE:5432&host=TWO:5432"
    return None


def _option_problem(name: str, given: Sequence[str]) -> str | None:
    if name not in _known_options():
        words = "none is needed behind PgBouncer" if "prepare" in name.lower() or "cache" in name else None
        instead = _INSTEAD.get(name.lower(), words)
        return f"PostgreSQL does not know{': ' if instead else ''}{instead or ''}"
    if len(given) > 1 and name not in _REPEATABLE:
        return "is given twice"
    check = _PROBLEM_OF.get(name)
    return next((problem for value in given if check and (problem := check(value))), None)


@cache
def _known_options() -> set[str]:
    """The options of the libpq that is installed."""
    from psycopg.pq import Conninfo  # noqa: PLC0415 - few URLs have options

    return {option.keyword.decode() for option in Conninfo.get_defaults()}
