"""The program `chiasm`: one typer application, one file a verb.

Nothing heavy is imported here or at the top of a verb's file: torch and transformers are imported
inside the functions, so that `chiasm --help` answers at once.

Exit codes: 0 done; 1 a fault in the user's input or data, told on standard error with what to do
next; 2 wrong usage.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from chiasm import __version__
from chiasm.cli.output import console
from chiasm.core.errors import ChiasmError

VERBS = (
    "doctor",
    "quickstart",
    "data",
    "recipes",
    "plan",
    "train",
    "predict",
    "evaluate",
    "analyze",
    "serve",
)
"""In the order of `chiasm --help`; each is a file beside this one."""

GROUPS = ("data", "recipes")
"""Verbs with verbs of their own: their file offers `app` in place of a function of their name."""


class FaultReportingGroup(TyperGroup):
    """Turns chiasm's own errors into a message and exit code 1; any other error keeps its trace."""

    # Typer has used two libraries' classes for the context; it is only passed on here.
    def invoke(self, ctx: Any) -> Any:
        """Run the chosen verb."""
        try:
            return super().invoke(ctx)
        except ChiasmError as fault:
            console.print(f"chiasm: {fault}", style="red", markup=False, soft_wrap=True)
            raise typer.Exit(code=1) from fault


def build_app() -> typer.Typer:
    """Wire every verb to its file."""
    app = typer.Typer(
        name="chiasm",
        cls=FaultReportingGroup,
        help="New senses for open vision-language models.",
        epilog="Start with: chiasm doctor, then chiasm quickstart --output runs/quickstart",
        no_args_is_help=True,
        # Plain help: rich takes as long to import as all the rest, and reads `[video]` as a style.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(top)
    for verb in VERBS:
        module_name = f"chiasm.cli.{verb}"
        if find_spec(module_name) is None:
            continue
        module = import_module(module_name)
        if verb in GROUPS:
            for command in module.app.registered_commands:
                command.help = help_of(command.callback)
            app.add_typer(module.app, name=verb)
        else:
            run = getattr(module, verb)
            app.command(verb, help=help_of(run))(run)
    return app


def help_of(run: Callable[..., Any]) -> str:
    """A verb's docstring as its help, with the lines of its examples kept as they are."""
    paragraphs = (inspect.getdoc(run) or "").split("\n\n")
    return "\n\n".join(
        f"\b\n{text}" if "chiasm " in text and "\n" in text else text for text in paragraphs
    )


def show_version(asked: bool) -> None:
    """Print the version and stop, when asked to."""
    if asked:
        typer.echo(f"chiasm {__version__}")
        raise typer.Exit()


def top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """New senses for open vision-language models."""


app = build_app()


def main() -> None:
    """Entry point of the installed program."""
    app()
