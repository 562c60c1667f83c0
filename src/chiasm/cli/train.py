"""`chiasm train`: run a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiasm.cli.output import console
from chiasm.core.errors import InputError

if TYPE_CHECKING:
    from chiasm.recipes.schema import Recipe


def _freeze_option(*names: str, what: str) -> typer.models.OptionInfo:
    spellings = [
        spelling
        for name in names
        for spelling in (
            f"--freeze-{name}/--no-freeze-{name}",
            f"--freeze_{name.replace('-', '_')}",
        )
    ]
    return typer.Option(*spellings, help=f"Freeze {what}, whatever the mode says.")


def train(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name, a YAML file, or a config.json.")
    ],
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
    training_mode: Annotated[
        str | None,
        typer.Option(
            "--training-mode", "--training_mode", help="What trains, in stages that do not say."
        ),
    ] = None,
    freeze_llm: Annotated[bool | None, _freeze_option("llm", what="the language model")] = None,
    freeze_dinov2: Annotated[
        bool | None, _freeze_option("dinov2", "encoders", what="the extra encoders")
    ] = None,
    freeze_qwen_vision: Annotated[
        bool | None, _freeze_option("qwen-vision", "host-vision", what="the host's tower")
    ] = None,
    freeze_fusion: Annotated[
        bool | None, _freeze_option("fusion", what="the fusion's gate and output")
    ] = None,
    freeze_projections: Annotated[
        bool | None, _freeze_option("projections", what="the fusion's projections")
    ] = None,
) -> None:
    """Train what a recipe describes.

    Examples:
        chiasm train tiny-dual --output runs/dual
        chiasm train my.yaml training.batch_size=4 training.stages.0.steps=50 --output runs/mine
        chiasm train fusion-learning --dry-run
        chiasm train vision-finetuning --training-mode full --freeze-llm --output runs/vision
        accelerate launch --num_processes 2 -m chiasm train tiny-dual --output runs/dual
    """
    if output is None and not dry_run:
        raise typer.BadParameter("give --output DIR, or --dry-run", param_hint="--output")
    from chiasm.recipes.loading import load_recipe, recipe_text
    from chiasm.recipes.running import prepare, run
    from chiasm.training.freezing import render_parts

    flags = {
        "freeze_llm": freeze_llm,
        "freeze_dinov2": freeze_dinov2,
        "freeze_qwen_vision": freeze_qwen_vision,
        "freeze_fusion": freeze_fusion,
        "freeze_projections": freeze_projections,
    }
    given = [
        f"freeze.{name}={str(value).lower()}" for name, value in flags.items() if value is not None
    ]
    if training_mode is not None:
        given.append(f"training_mode={training_mode}")
    _tell_what_was_left_out(recipe)
    resolved = load_recipe(recipe, [*(overrides or []), *given])
    _check_effect(resolved, training_mode, any(value is not None for value in flags.values()))
    prepared = prepare(resolved, None if dry_run else output, Path.cwd(), resume)
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


def _tell_what_was_left_out(recipe: str) -> None:
    """Name the keys of a config.json that mean nothing to a recipe."""
    if not recipe.endswith(".json") or not Path(recipe).is_file():
        return
    from chiasm.recipes.convert import convert_file

    for line in convert_file(Path(recipe)).left_out:
        console.print(f"not taken over: {line}", markup=False, soft_wrap=True)


def _check_effect(recipe: "Recipe", mode: str | None, flags: bool) -> None:
    """Refuse a mode or flags that no stage would heed."""
    stages = recipe.training.stages
    if mode is not None and all(stage.mode or stage.train is not None for stage in stages):
        names = ", ".join(stage.name for stage in stages)
        raise InputError(
            f"--training-mode {mode} would change nothing: each stage ({names}) says itself what "
            "trains; change one as in training.stages.0.mode=full"
        )
    if flags and all(stage.train is not None for stage in stages):
        raise InputError(
            "the freeze flags would change nothing: each stage lists its parts in `train`; change "
            "one as in training.stages.0.train=[fusion]"
        )
