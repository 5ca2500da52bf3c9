"""`supervisor completion`: the script that teaches a shell to complete this command."""

import click
from click.shell_completion import get_completion_class

from crewkeeper_supervisor.cli.failure import Failure
from crewkeeper_supervisor.cli.output import write


@click.command(
    epilog='bash: eval "$(supervisor completion bash)"; zsh: the same with zsh; '
    "fish: supervisor completion fish | source"
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print shell completion for bash, zsh or fish."""
    kind = get_completion_class(shell)
    if kind is None:
        raise Failure(f"no completion for {shell}")
    root = ctx.find_root()
    # Formatted here: click's own method also runs the shell to see its version, which is the user's business.
    script = kind(root.command, {}, "supervisor", "_SUPERVISOR_COMPLETE")
    write(script.source_template % script.source_vars())
