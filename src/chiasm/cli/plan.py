"""`chiasm plan`: how much memory a recipe needs, before anything is loaded."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chiasm.cli.output import Json, console, emit
from chiasm.core.errors import ChiasmError, InputError

if TYPE_CHECKING:
    from chiasm.recipes.outline import Outline
    from chiasm.recipes.plan import Tokens
    from chiasm.recipes.schema import Recipe

UNITS = {"": 1024**3, "GIB": 1024**3, "G": 1024**3, "MIB": 1024**2, "GB": 10**9, "MB": 10**6}


def plan(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe's name, a YAML file, or a config.json.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Values that replace the recipe's."),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs that share the work.")] = 1,
    memory: Annotated[
        str | None, typer.Option("--memory", help="What one GPU has, for example 16GiB.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="WIDTHxHEIGHT of a picture, in place of the data's."),
    ] = None,
    text: Annotated[
        int | None,
        typer.Option("--text", min=1, help="Tokens of text a sample, in place of the data's."),
    ] = None,
    json: Json = False,
) -> None:
    """Say how much memory a recipe needs, whether it fits, and what to change if it does not.

    Needs the configurations of host and encoders, no weights. Each number is called exact,
    measured, estimated or assumed.

    Examples:
        chiasm plan tiny-dual
        chiasm plan fusion-learning --memory 16GiB
        chiasm plan my.yaml training.batch_size=1 --gpus 4 --memory 80GiB --json
    """
    size = None if memory is None else read_size(memory)
    from chiasm.recipes.loading import load_recipe
    from chiasm.recipes.outline import outline_recipe

    resolved = load_recipe(recipe, overrides or [])
    outline = outline_recipe(resolved, Path.cwd())
    document = _document(resolved, outline, _choose_tokens(resolved, outline, image, text), gpus)
    document |= {"recipe": recipe, "memory_bytes": size}
    document["fits"] = None if size is None else document["peak"]["total"] <= size
    for note in document["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    emit(document, as_json=json, render=lambda out: _render(document, out))


def read_size(text: str) -> int:
    """Read a size such as `16GiB`, `24GB` or `16` (GiB) as bytes.

    Raises:
        InputError: It is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if found is None or found[2].upper() not in UNITS or float(found[1]) == 0:
        raise InputError(f"--memory {text!r} is no size; write it as 16GiB, 24GB or 512MiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def _read_image(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None or not (int(found[1]) and int(found[2])):
        raise InputError(f"--image {text!r} is no size; write WIDTHxHEIGHT, as in 1280x720")
    return int(found[2]), int(found[1])


def _choose_tokens(
    recipe: "Recipe", outline: "Outline", image: str | None, text: int | None
) -> "Tokens":
    from chiasm.recipes.measuring import ASSUMED_IMAGE, ASSUMED_TEXT, assume_tokens, count_tokens

    if image is None and text is None:
        try:
            return count_tokens(recipe, outline, Path.cwd())
        except ChiasmError as fault:
            reason = str(fault).splitlines()[0]
            console.print(f"note: token counts are assumed: {reason}", markup=False, soft_wrap=True)
    size = ASSUMED_IMAGE if image is None else _read_image(image)
    return assume_tokens(outline, size, text or ASSUMED_TEXT)


def _document(recipe: "Recipe", outline: "Outline", tokens: "Tokens", gpus: int) -> dict[str, Any]:
    from chiasm.recipes.measuring import measure_activations
    from chiasm.recipes.plan import CERTAINTY, find_knobs, list_parts, peak, plan_stages

    certainty = dict(CERTAINTY)
    measured = None
    if tokens.certainty == "exact":
        try:
            measured = measure_activations(recipe, outline, Path.cwd())
        except ChiasmError as fault:
            reason = str(fault).splitlines()[0]
            console.print(f"note: activations by formula: {reason}", markup=False, soft_wrap=True)
    if measured is not None:
        certainty["activations"] = certainty["scores"] = "measured"
    stages = plan_stages(recipe, outline, tokens, gpus=gpus, measured=measured)
    levels = (0, 2, 3) if gpus > 1 else (0,)
    by_zero = {
        f"zero_{level}": peak(
            plan_stages(recipe, outline, tokens, gpus=gpus, zero=level, measured=measured)
        ).total
        for level in levels
    }
    rows = [
        {**asdict(part), "bytes": part.bytes, "certainty": "exact"}
        for part in list_parts(recipe, outline)
    ]
    return {
        "parts": rows,
        "parameters": sum(row["parameters"] for row in rows),
        "tokens": asdict(tokens),
        "gpus": gpus,
        "stages": [{**asdict(stage), "total": stage.total} for stage in stages],
        "peak": {**asdict(peak(stages)), "total": peak(stages).total},
        "by_zero": by_zero,
        "certainty": certainty,
        "knobs": [asdict(knob) for knob in find_knobs(recipe, outline, tokens, gpus)],
        "notes": list(outline.notes),
    }


def _render(document: dict[str, Any], out: Console) -> None:
    table = Table("part", title="PARAMETERS (exact)")
    for heading in ("parameters", "weights"):
        table.add_column(heading, justify="right")
    for row in document["parts"]:
        table.add_row(escape(row["name"]), f"{row['parameters']:,}", _written(row["bytes"]))
    table.add_row("all", f"{document['parameters']:,}", "")
    out.print(table)
    tokens = document["tokens"]
    out.print(
        f"a sample: {tokens['text']} tokens, {tokens['cells']} of them of images "
        f"({tokens['patches']} patches), {tokens['supervised']} supervised; {tokens['certainty']}: "
        f"{tokens['source']}",
        soft_wrap=True,
    )
    _render_stages(document, out)
    for name, total in document["by_zero"].items():
        if document["gpus"] > 1:
            what = "plain (DDP)" if name == "zero_0" else f"ZeRO-{name[-1]}"
            out.print(f"{document['gpus']} GPUs, {what}: {_written(total)} each")
    _render_answer(document, out)


def _render_stages(document: dict[str, Any], out: Console) -> None:
    table = Table("one GPU holds", "", title="MEMORY AT THE PEAK OF A STEP")
    for stage in document["stages"]:
        table.add_column(escape(stage["name"]), justify="right")
    for line, certainty in document["certainty"].items():
        sizes = [stage[line] for stage in document["stages"]]
        if any(sizes):
            table.add_row(line, certainty, *map(_written, sizes))
    table.add_row("in all", "", *(_written(stage["total"]) for stage in document["stages"]))
    out.print(table)


def _render_answer(document: dict[str, Any], out: Console) -> None:
    memory, total = document["memory_bytes"], document["peak"]["total"]
    if memory is None:
        out.print(
            f"needs about {_written(total)} on each GPU; --memory 16GiB asks if that is there"
        )
    elif document["fits"]:
        out.print(f"fits: {_written(total)} of {_written(memory)}")
    else:
        out.print(f"does not fit: {_written(total)} needed, {_written(memory)} there")
    if document["fits"]:
        return
    for knob in document["knobs"]:
        verdict = "" if memory is None else ", fits" if knob["total"] <= memory else ", too much"
        out.print(
            f"  {_written(knob['total'])}{verdict}: {' '.join(knob['change'])} ({knob['cost']})",
            markup=False,
            soft_wrap=True,
        )


def _written(size: int) -> str:
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"
