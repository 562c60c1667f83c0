"""`chiasm train`: run a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from chiasm.cli.output import console


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the recipe's."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run directory to write.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of --output.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved recipe and the parts; train nothing."),
    ] = False,
) -> None:
    """Train what a recipe describes.

    Examples:
        chiasm train tiny-dual --output runs/dual
        chiasm train my.yaml training.batch_size=4 training.stages.0.steps=50 --output runs/mine
        chiasm train tiny-dual --dry-run
        accelerate launch --num_processes 2 -m chiasm train tiny-dual --output runs/dual
    """
    if output is None and not dry_run:
        raise typer.BadParameter("give --output DIR, or --dry-run", param_hint="--output")
    from chiasm.recipes.loading import load_recipe, recipe_base, recipe_text
    from chiasm.recipes.running import prepare, run
    from chiasm.training.freezing import render_parts

    resolved = load_recipe(recipe, overrides or [])
    prepared = prepare(resolved, None if dry_run else output, recipe_base(recipe), resume)
    if dry_run or output is None:
        typer.echo(recipe_text(resolved), nl=False)
        for stage, table in prepared.tables:
            console.print(render_parts(table, f"PARAMETER FREEZE STATUS: {stage}"))
        return
    report = run(prepared, output)
    if report.interrupted:
        console.print(f"interrupted at step {report.step}; go on with: --resume")
        raise typer.Exit(code=1)
    console.print(f"done: {output}")
