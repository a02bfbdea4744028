"""The command completion: prints what makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from webapp.cli.output import say

_VARIABLE = "_ESMS_CALLS_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and options with the tab key.

    \b
    Write it once to where the shell looks for it, and open a new shell:
      bash  esms-calls completion bash > ~/.local/share/bash-completion/completions/esms-calls
      zsh   esms-calls completion zsh > ~/.zfunc/_esms-calls      (~/.zfunc must be in fpath before compinit)
      fish  esms-calls completion fish > ~/.config/fish/completions/esms-calls.fish

    For this shell alone: eval "$(esms-calls completion bash)". Bash must be 4.4 or newer.
    """  # noqa: D301 - click wants the control character
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has all three
    root = ctx.find_root()
    # Not source(): of bash it asks the version, by a program of that name.
    script = found(root.command, {}, "esms-calls", _VARIABLE)
    say(script.source_template % script.source_vars())
