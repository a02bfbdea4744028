"""The command callback-url: prints the URL to give to eSMS."""

from __future__ import annotations

from urllib.parse import quote

import click

from webapp.support.settings import load_settings


@click.command("callback-url")
@click.option("--encoded", is_flag=True, help="URL-encoded, as the request that places a call wants it.")
def callback_url(*, encoded: bool) -> None:
    """Print the CallbackUrl to give to eSMS, with the documented empty parameters."""
    url = load_settings().callback_url()
    click.echo(quote(url, safe="") if encoded else url)
