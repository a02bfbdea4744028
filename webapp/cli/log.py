"""The log of commands: only warnings where LOG_LEVEL says nothing, and text on a terminal, whatever LOG_FORMAT says."""

from __future__ import annotations

import logging
import os
import sys

from webapp.cli.output import error_log
from webapp.support import log
from webapp.support.settings import ConfigError, Settings, load_settings


def configure_log() -> None:
    """Follow the settings. Where they are wrong, the command will say so, in the form that LOG_FORMAT names."""
    try:
        settings = load_settings()
    except ConfigError:
        form = os.environ.get("LOG_FORMAT", "").strip().lower()
        settings = Settings.model_construct(log_format="json" if form == "json" else "text")
    if sys.stderr.isatty():
        settings = settings.model_copy(update={"log_format": "text"})
    log.configure(settings, default_level=logging.WARNING)
    error_log.takes = log.message
