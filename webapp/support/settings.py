"""The settings: one frozen value, read from the environment and ``.env``."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import URL, make_url

from webapp.support import tokens
from webapp.support.database_url import secrets_in
from webapp.support.redaction import longest_first
from webapp.support.setting_types import (
    IN_LOWER_CASE,
    AnswerTime,
    Bind,
    CertificateFile,
    DatabaseUrl,
    Duration,
    Folder,
    HashKey,
    LogFormat,
    LogLevel,
    MessageApiUrl,
    Networks,
    PositiveDuration,
    Proxy,
    Share,
    Size,
    Tokens,
    Url,
    Zone,
)
from webapp.support.spelling import likely

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo

ENV_FILE = ".env"
CALLBACK_PATH = "/esms/callback/"
CALLBACK_PARAMETERS = (
    "ReferenceId",
    "CallDuration",
    "CallStatus",
    "Ivr",
    "Price",
    "SentResult",
    "CID",
    "SendStatus",
)
"""*documented*: the template of a CallbackUrl carries these, empty and in this order."""

VOICE_API_URL = "https://voiceapi.esms.vn/MainService.svc/json"
MESSAGE_API_URL = "https://rest.esms.vn/MainService.svc/json"
"""*documented*: where eSMS has GetSendStatus, for voice calls and for voice OTP."""

Verify = Literal["off", "conflicts", "unregistered", "all"]

_OUR_PREFIXES = ("esms_", "reconcile_")
OTHERS_NAMES = {"HTTP_PROXY", "NO_PROXY", "ALL_PROXY", "CURL_CA_BUNDLE"}
"""Names of other programs' variables that look like ours."""
_REMEDIES = {"bool_parsing": "must be on or off"}
"""What to say instead of pydantic's message, by the type of its error."""


class ConfigError(Exception):
    """A setting is wrong. Its text names the setting and the remedy, and shows no secret."""


class _PlainTexts(PydanticBaseSettingsSource):
    """What was read from the environment or ``.env``: the library's search for nested values takes 7 times as long."""

    def __init__(self, settings: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings)
        self._read = source.env_vars if isinstance(source, EnvSettingsSource) else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the library's
        return self._read.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        given = {name: self._read.get(name) for name in self.settings_cls.model_fields}
        return {name: text for name, text in given.items() if text is not None}


class Settings(BaseSettings):
    """Every setting; the environment variable is the field's name in capitals."""

    model_config = SettingsConfigDict(
        # JSON would round a token that is a number.
        enable_decoding=False,
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there are none
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and that over ``.env``."""
        return init_settings, _PlainTexts(settings_cls, env_settings), _PlainTexts(settings_cls, dotenv_settings)

    instance_dir: Folder = Field(
        Path("instance"),
        description="Folder of the embedded database, the spool and the generated tokens; created when needed.",
    )
    database_url: DatabaseUrl | None = Field(
        None,
        repr=False,
        description="`postgresql://…`, `postgres://…` or `sqlite:///…`; "
        "by default SQLite, `calls.db` in the instance folder.",
    )
    read_database_url: DatabaseUrl | None = Field(
        None,
        repr=False,
        description="A replica of that database, for those who read: page, `GET /api/…`, `export`, `report` and "
        "`show`. Whatever happens to it, callbacks are stored. By default they read `DATABASE_URL`.",
    )
    callback_token: Tokens | None = Field(
        None,
        repr=False,
        description="Secret part of the CallbackUrl. Several, with commas: each is accepted, the first is printed. "
        "If not set, `serve` generates one and keeps it in the instance folder.",
    )
    api_token: Tokens | None = Field(
        None, repr=False, description="Bearer token of `/api`. Several, or generated, like `CALLBACK_TOKEN`."
    )
    phone_storage: Annotated[Literal["plain", "hashed", "none"], IN_LOWER_CASE] = Field(
        "plain",
        description="What is stored of the numbers called, payloads included. `plain`: themselves; `hashed`: a keyed "
        "hash (HMAC-SHA256), which a search by the number still finds; `none`: nothing. It holds from now on: "
        "`esms-calls hide-phones` brings older rows to it. See [privacy](privacy.md).",
    )
    phone_hash_key: HashKey | None = Field(
        None,
        repr=False,
        description="Key of these hashes, the same on all machines that share a database. If not set, it is generated "
        "once and kept in the instance folder (`phone_hash_key`). With another key older hashes are not found.",
    )
    page: bool = Field(
        "on", description="`on`: a page for people at `/`, signed in to with an API token or `PAGE_TOKEN`. `off`: none."
    )  # type: ignore[assignment]
    page_token: Tokens | None = Field(
        None,
        repr=False,
        description="Token that signs in to the page and gives no access to `/api`. Several, with commas: each is "
        "accepted.",
    )
    esms_api_key: str | None = Field(None, repr=False, description="ApiKey of your eSMS account; needed to ask eSMS.")
    esms_secret_key: str | None = Field(
        None, repr=False, description="SecretKey of your eSMS account; needed to ask eSMS."
    )
    esms_api_url: Url = Field(VOICE_API_URL, description="Base URL of GetSendStatus, for voice calls.")
    esms_message_api_url: MessageApiUrl | None = Field(
        None,
        description="Base URL of GetSendStatus for voice OTP. `off`: every call is looked up at `ESMS_API_URL`. By "
        f"default `{MESSAGE_API_URL}`, or `off` where `ESMS_API_URL` is set to another address.",
    )
    esms_ca_bundle: CertificateFile | None = Field(
        None,
        description="File with the certificates (PEM) of the CAs that eSMS's certificate may come from, for networks "
        "that open TLS. By default those of Mozilla (certifi).",
    )
    requests_ca_bundle: Path | None = Field(None, description="The same, where `ESMS_CA_BUNDLE` is not set.")
    ssl_cert_file: Path | None = Field(None, description="The same, where neither of these two is set.")
    https_proxy: Proxy | None = Field(
        None,
        repr=False,
        description="Proxy through which eSMS is reached over https (CONNECT), such as `http://proxy.example.vn:3128`. "
        "Addresses with `http://` are never asked through a proxy: the keys are in the URL.",
    )
    no_proxy: str | None = Field(
        None, description="Hosts that are reached without the proxy, with commas: `.esms.vn,10.0.0.0/8`; `*`: all."
    )
    esms_timeout: PositiveDuration = Field(
        "20s", description="Time limit of one look-up, from connecting to the last byte."
    )  # type: ignore[assignment]
    reconcile_grace: Duration = Field(
        "10m", description="Time after `placed_at` in which a callback may arrive; reconcile asks after it."
    )  # type: ignore[assignment]
    reconcile_give_up: Duration = Field(
        "72h", description="Time after `placed_at` at which reconcile asks about a call for the last time."
    )  # type: ignore[assignment]
    reconcile_rate: int = Field(10, ge=1, le=1000, description="Look-ups per second, at most, of all runs together.")
    reconcile_concurrency: int = Field(
        8,
        ge=1,
        le=256,
        description="Look-ups in flight at the same time, at most, of one run; above 60 it has no effect.",
    )
    verify: Annotated[Verify, IN_LOWER_CASE] = Field(
        "conflicts",
        description="Which settled calls `reconcile` asks about when no missing call is due: `off`: none; `conflicts`: "
        "those in conflict; `unregistered`: also those known only from callbacks; `all`: also every call that no "
        "lookup has confirmed. The last two end at `RECONCILE_GIVE_UP`.",
    )
    lookup_share_warn: Share = Field(
        "5%",
        description="`status` exits with 1 when lookups settled more than this share of the calls settled in the last "
        "24 hours, because callbacks get lost then. `100%`: never.",
    )  # type: ignore[assignment]
    answer_within: AnswerTime = Field(
        "5s", description="Every callback is answered within this time, whatever the database does."
    )  # type: ignore[assignment]
    spool: bool = Field(
        "on",
        description="`on`: callbacks that the database cannot take wait in the instance folder and are answered 200. "
        "`off`: they are answered 503; for containers without a lasting disk.",
    )  # type: ignore[assignment]
    spool_limit: Size = Field("1GiB", description="Largest size of the spool; beyond it callbacks are answered 503.")  # type: ignore[assignment]
    fast_path: bool = Field(
        "on",
        description="`on`: the usual callback (a GET) is read without gunicorn's parser. `off`: it is read like every "
        "other request, with the same answers at about half the speed.",
    )  # type: ignore[assignment]
    callback_allowed_ips: Networks | None = Field(
        None,
        description="Addresses and networks (CIDR), with commas, from which callbacks are taken: "
        "`203.0.113.7, 2001:db8::/32`. Others get the 404 of a wrong token, and are counted. By default all: eSMS "
        "publishes no addresses. Behind a proxy set `TRUSTED_PROXIES`, too.",
    )
    ops_bind: Bind | None = Field(
        None,
        description="`HOST:PORT` at which `/metrics` and `/readyz` are answered, from a cache of one second, and "
        "nothing else but `/healthz`; at the address of `--bind` they are 404 then. By default they are there.",
    )
    public_url: Url | None = Field(
        None, description="The address under which eSMS reaches this server; the CallbackUrl begins with it."
    )
    trusted_proxies: int = Field(
        0, ge=0, le=10, description="Number of reverse proxies in front whose `X-Forwarded-…` headers are trusted."
    )
    log_format: LogFormat = Field(
        "text",
        description="`text`: log lines for people. `json`: one JSON object a line, for programs; what commands other "
        "than `serve` say to a terminal stays text.",
    )
    log_level: LogLevel | None = Field(
        None,
        description="`debug`, `info`, `warning` or `error`: what is less severe is not logged. By default `info` for "
        "`serve` and `warning` for other commands.",
    )
    access_log: bool = Field(
        "on",
        description="`on`: a log line (of level `info`) for every request. `off`: none; the counts of `/metrics` stay.",
    )  # type: ignore[assignment]
    time_zone: Zone = Field(
        "Asia/Ho_Chi_Minh",
        description="Zone of the times that people give without one, and of the days that are counted.",
    )  # type: ignore[assignment]

    @model_validator(mode="before")
    @classmethod
    def _stripped(cls, values: dict[str, object]) -> dict[str, object]:
        """Without white space around them; a blank value counts as not set."""
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in stripped.items() if value != ""}

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if (
            isinstance(value, str)
            and not value.isprintable()
            and any("\ud800" <= letter <= "\udfff" for letter in value)
        ):
            raise ValueError("must be text in UTF-8")
        return value

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the database, password included."""
        if self.database_url:
            return self.database_url
        path = str(self.instance_dir.resolve() / "calls.db")
        return URL.create("sqlite", database=path).render_as_string(hide_password=False)

    @property
    def reading_database(self) -> str:
        """The same of the database that page, API and exports read."""
        return self.read_database_url or self.database

    @property
    def is_embedded(self) -> bool:
        """Whether the database is a SQLite file, which ``serve`` creates and migrates itself."""
        return self.database.startswith("sqlite")

    @property
    def message_api_url(self) -> str | None:
        """Where voice OTP calls are looked up; None: at ``esms_api_url``, like every call."""
        default = MESSAGE_API_URL if self.esms_api_url == VOICE_API_URL else "off"
        url = self.esms_message_api_url or default
        return None if url == "off" else url

    @property
    def ca_bundle(self) -> tuple[str, Path] | None:
        """The CA bundle, and the variable that names it; None: certifi's."""
        names = ("esms_ca_bundle", "requests_ca_bundle", "ssl_cert_file")
        return next(((name.upper(), path) for name in names if (path := getattr(self, name))), None)

    def callback_tokens(self) -> tuple[str, ...]:
        """All accepted callback tokens; the first is the one to give to eSMS. Raises ConfigError if there is none."""
        return self.callback_token or self._kept("callback_token")

    def known_callback_tokens(self) -> tuple[str, ...]:
        """The same, but empty if there is none."""
        return self.callback_token or self._stored_or_none("callback_token")

    def api_tokens(self) -> tuple[str, ...]:
        """All accepted API tokens. Raises ConfigError if there is none."""
        return self.api_token or self._kept("api_token")

    def make_tokens(self) -> None:
        """Generate the tokens that are neither set nor kept in the instance folder; raises ConfigError."""
        for name in ("callback_token", "api_token"):
            if getattr(self, name) is None:
                try:
                    tokens.make_token(self.instance_dir, name)
                except OSError as error:
                    raise ConfigError(self._unreadable(name, "made", error)) from None

    def token_file(self, kind: Literal["callback", "api"]) -> Path:
        """Where tokens are kept that are not set."""
        return self.instance_dir.resolve() / f"{kind}_token"

    def phone_key(self) -> str | None:
        """The key of hashed phone numbers; None: none is set or kept. Generated if it is needed; raises ConfigError."""
        name = "phone_hash_key"
        if self.phone_hash_key:
            return self.phone_hash_key
        try:
            if self.phone_storage == "hashed":
                tokens.make_token(self.instance_dir, name)
            key = next(iter(tokens.stored_tokens(self.instance_dir, name) or ()), None)
        except (OSError, ValueError) as error:
            if self.phone_storage != "hashed":
                return None
            raise ConfigError(self._unreadable(name, "made or read", error)) from None
        if key is not None and not tokens.is_well_formed(key):
            path = self.instance_dir.resolve() / name
            raise ConfigError(
                f"{path} does not hold a key of at least 16 URL-safe characters: put the key back from a backup, or "
                "set PHONE_HASH_KEY. With a new key the numbers that were hashed before are not found."
            )
        return key

    def _kept(self, name: str) -> tuple[str, ...]:
        path = self.instance_dir.resolve() / name
        try:
            kept = tokens.stored_tokens(self.instance_dir, name)
        except (OSError, ValueError) as error:
            raise ConfigError(self._unreadable(name, "read", error)) from None
        if kept is None:
            message = (
                f"{name.upper()} is not set, and {path} does not exist. Run this in the working folder of the server, "
                f"or set {name.upper()} or INSTANCE_DIR as there. On a new server `esms-calls serve` makes a token."
            )
            raise ConfigError(message)
        if not kept or not all(map(tokens.is_well_formed, kept)):
            message = (
                f"{path} does not hold a token of at least 16 URL-safe characters: "
                f"remove the file to have `esms-calls serve` make a new one, or set {name.upper()}."
            )
            raise ConfigError(message)
        return kept

    def _unreadable(self, name: str, verb: str, error: Exception) -> str:
        return (
            f"{name.upper()} is not set, and {self.instance_dir.resolve() / name} cannot be {verb} "
            f"({error.__class__.__name__}): set it, or make INSTANCE_DIR a folder of this user's."
        )

    def secrets(self) -> tuple[str, ...]:
        """Everything that may appear in no output, log, error or metric; as it is, in lower case, and URL-encoded."""
        urls = [make_url(url) for url in {self.database, self.reading_database}]
        known = (
            *self.known_callback_tokens(),
            *(self.api_token or self._stored_or_none("api_token")),
            *(self.page_token or ()),
            *((self.phone_hash_key,) if self.phone_hash_key else self._stored_or_none("phone_hash_key")),
            self.esms_api_key,
            self.esms_secret_key,
            unquote(urlsplit(self.https_proxy or "").password or ""),
            *(secret for url in urls for secret in secrets_in(url)),
        )
        secrets = {secret for secret in known if secret}
        # In lower case: as the identity of a call, which the log names.
        spellings = secrets | {secret.lower() for secret in secrets} | {quote(secret, safe="") for secret in secrets}
        return longest_first(spellings)

    def _stored_or_none(self, name: str) -> tuple[str, ...]:
        with suppress(OSError, ValueError):
            return tokens.stored_tokens(self.instance_dir, name) or ()
        return ()

    def callback_url(self, default_host: str = "127.0.0.1:8000") -> str:
        """The CallbackUrl to give to eSMS, with the documented empty parameters."""
        query = "&".join(f"{name}=" for name in CALLBACK_PARAMETERS)
        return f"{self.public_url or f'http://{default_host}'}{CALLBACK_PATH}{self.callback_tokens()[0]}?{query}"


def mistyped_names() -> dict[str, str]:
    """Names in ``.env`` that are no settings but look like one that is not set, each with that one."""
    try:
        given = dotenv_values(ENV_FILE, interpolate=False)
    except (OSError, ValueError):
        return {}
    names = set(Settings.model_fields)
    unset = names - {name.lower() for name in (*given, *os.environ)}
    unknown = (name for name in given if name.lower() not in names and name.upper() not in OTHERS_NAMES)
    found = {name: _likely_setting(name.lower(), unset) for name in unknown}
    return {name: meant.upper() for name, meant in found.items() if meant}


def _likely_setting(name: str, known: Iterable[str]) -> str | None:
    return likely(name, known, similarity=0.6 if name.startswith(_OUR_PREFIXES) else 0.75)


def env_file_in_words() -> str:
    """Where ``.env`` is looked for, and whether it is there."""
    path = Path(ENV_FILE).absolute()
    return f"{path}{'' if path.is_file() else ' (there is none)'}"


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; raises ConfigError that names the variable and shows no secret."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            f"{str(problem['loc'][0]).upper()} {_REMEDIES.get(problem['type']) or _in_our_words(problem['msg'])}."
            for problem in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None
    except OSError as error:
        words = (
            f".env cannot be read ({error.strerror or type(error).__name__}): make it readable for this user (chown)."
        )
        raise ConfigError(words) from None
    except ValueError as error:
        raise ConfigError(f".env cannot be read ({error.__class__.__name__}): it must be UTF-8 text.") from None


def _in_our_words(message: str) -> str:
    message = message.removeprefix("Value error, ").rstrip(".")
    return re.sub(r"^Input should be", "must be", message)
