"""The command callback-url: prints the URL to give to eSMS."""

from __future__ import annotations

from urllib.parse import quote

import click

from webapp.cli.context import hint_at_mistyped_names
from webapp.cli.output import say
from webapp.support.settings import load_settings


@click.command("callback-url")
@click.option("--encoded", is_flag=True, help="URL-encoded, as the request that places a call wants it.")
def callback_url(*, encoded: bool) -> None:
    """Print the CallbackUrl to give to eSMS, with the documented empty parameters.

    Its token is CALLBACK_TOKEN, or the one that `serve` made in INSTANCE_DIR. Where there is neither, the exit code is
    2, and the message names the folder: run it in the working folder of the server, and with its settings.
    """
    settings = load_settings()
    hint_at_mistyped_names()
    url = settings.callback_url()
    say(quote(url, safe="") if encoded else url)
