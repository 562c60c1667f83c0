"""`chiasm recipes`: list, show and copy what can be trained."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from chiasm.cli.output import Json, console, emit
from chiasm.core.errors import InputError

app = typer.Typer(help="List, show and copy recipes.", no_args_is_help=True)


@app.command("list", epilog="Example: chiasm recipes list")
def list_recipes(json: Json = False) -> None:
    """List the shipped recipes."""
    from chiasm.recipes.places import shipped_recipes

    rows = [_summary(name, file) for name, file in shipped_recipes().items()]
    emit({"recipes": rows}, as_json=json, render=lambda out: _render(rows, out))


@app.command(epilog="Example: chiasm recipes show fusion-learning")
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe's name, or a file.")],
    json: Json = False,
) -> None:
    """Print a recipe: its text, or with --json its values."""
    from chiasm.recipes.places import recipe_file

    text = recipe_file(name).read_text(encoding="utf-8")
    if json:
        from chiasm.recipes.loading import load_recipe

        emit(load_recipe(name).to_plain(), as_json=True, render=_nothing)
    else:
        typer.echo(text, nl=False)


@app.command()
def copy(
    name: Annotated[
        str,
        typer.Argument(
            help="A shipped recipe's name, a YAML file, a config.json, or an engine: ddp, zero2."
        ),
    ],
    file: Annotated[Path, typer.Argument(help="The YAML file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json: Json = False,
) -> None:
    """Copy a recipe to a file of your own; a config.json becomes a recipe.

    Examples:
        chiasm recipes copy fusion-learning my.yaml
        chiasm recipes copy config.json my.yaml
        chiasm recipes copy zero2 zero2.yaml
    """
    from chiasm.recipes.places import recipe_file, shipped_engines

    source = shipped_engines().get(name) or recipe_file(name)
    if file.suffix not in (".yaml", ".yml"):
        raise InputError(f"{file}: a recipe is a YAML file; call it {file.with_suffix('.yaml')}")
    if file.exists() and not force:
        raise InputError(f"{file} is there already; give another name, or --force to replace it")
    text, missing = _converted(source) if source.suffix == ".json" else (_text(source), [])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    for line in missing:
        console.print(f"not taken over: {line}", markup=False, soft_wrap=True)
    emit(
        {"file": str(file), "source": str(source), "not_taken_over": missing},
        as_json=json,
        render=lambda out: out.print(f"wrote {file}", markup=False, soft_wrap=True),
    )


def _text(source: Path) -> str:
    return source.read_text(encoding="utf-8")


def _converted(source: Path) -> tuple[str, list[str]]:
    from chiasm.core.config import read_config
    from chiasm.recipes.convert import convert_file, converted_text
    from chiasm.recipes.loading import recipe_text
    from chiasm.recipes.schema import Recipe

    converted = convert_file(source)
    recipe = read_config(Recipe, converted.values, str(source))
    text = converted_text(converted, recipe_text(recipe), source.name)
    return text, [*converted.left_out, *converted.unknown]


def _summary(name: str, file: Path) -> dict[str, Any]:
    import yaml

    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    stages = [stage["name"] for stage in values["training"]["stages"]]
    return {
        "name": name,
        "family": values["family"],
        "stages": stages,
        "description": values.get("description", ""),
    }


def _render(rows: list[dict[str, Any]], out: Console) -> None:
    table = Table(Column("recipe", no_wrap=True), "what it trains", "stages")
    for row in rows:
        table.add_row(*map(escape, (row["name"], row["description"], ", ".join(row["stages"]))))
    out.print(table)
    out.print("chiasm recipes show NAME prints one; chiasm train NAME --dry-run resolves it")


def _nothing(out: Console) -> None:
    """Say nothing: the document is all."""
