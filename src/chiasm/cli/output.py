"""What every verb prints: one document on standard output, everything else on standard error.

A verb that offers `--json` takes the option `Json`, writes progress and remarks to `console`, and
ends with `emit(document, as_json=json, render=...)`.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from chiasm.core.spelling import spell

Json = Annotated[
    bool,
    typer.Option("--json", help="Write one JSON document to standard output."),
]
"""The `--json` flag, spelled once for all verbs."""

console = Console(stderr=True, highlight=False)
"""Progress, tables for people and remarks; standard error."""

results = Console(highlight=False)
"""What a person asked for and may want to pipe; standard output."""


def emit(document: Any, *, as_json: bool, render: Callable[[Console], None]) -> None:
    """Write a verb's result, for a program or for a person.

    Args:
        document: Plain dictionaries, lists, strings, numbers, booleans and None. NaN and infinity
            are refused, because JSON has no spelling for them.
        as_json: Write `document` as the one JSON document on standard output.
        render: Called with the standard output console otherwise.

    Raises:
        ValueError: `document` holds NaN or infinity.
        TypeError: `document` holds something JSON cannot spell.
    """
    if as_json:
        typer.echo(spell(document, indent=2))
    else:
        render(results)
