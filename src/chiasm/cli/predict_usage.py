"""Which options of `chiasm predict` belong together; none is ever left aside in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

CLOSER = ("--ground", "--chain-of-thought")
POINTING = ("--phrase", *CLOSER)
WANTED = {
    "--ask": "ask",
    "--phrase": "phrase",
    "--ground": "ground",
    "--chain-of-thought": "chain_of_thought",
}
"""Option that says what is wanted -> its parameter."""

SPECIAL = {"--compare-encoders": "compare_encoders", "--benchmark": "benchmark"}
"""Option for which the answer is not the end -> its parameter."""

REBUILT = "goes with --reconstruction"
SURE = 0.3
"""Score from which a segment is shown and drawn, where nobody says another."""


def check_options(parameters: Mapping[str, Any]) -> None:
    """Check the options of `chiasm predict`, by parameter; errors as those of both checks below."""
    shown = {name: parameters[name] for name in ("image", "reconstruction", "video")}
    wanted = {name: parameters[own] for name, own in WANTED.items()}
    special = {name: parameters[own] for name, own in SPECIAL.items()}
    check_usage(parameters["file"], shown, wanted, special, parameters["output"])
    check_settings(parameters["file"], shown, {**wanted, **special}, changed(parameters))


def check_usage(
    file: Path | None,
    shown: Mapping[str, Path | None],
    wanted: Mapping[str, Any],
    special: Mapping[str, bool],
    output: Path | None,
) -> None:
    """Check what is asked for.

    Args:
        file: `--input`.
        shown: What is shown, by the name of the option without its dashes.
        wanted: `--ask` and what points, by option.
        special: `--compare-encoders` and `--benchmark`.
        output: `--output`.

    Raises:
        BadParameter: The options do not belong together (exit code 2).
    """
    options = {**{f"--{name}": value for name, value in shown.items()}, **wanted, **special}
    given = [name for name, value in options.items() if value]
    if file is not None and given:
        raise typer.BadParameter(
            f"a file brings its own images and questions; leave out {', '.join(given)}",
            param_hint="--input",
        )
    chosen = [name for name, value in special.items() if value]
    if chosen:
        _check_special(chosen[0], given, output)
    closer = [name for name in CLOSER if wanted[name]]
    if len(closer) > 1:
        raise typer.BadParameter(f"choose one: {' or '.join(closer)}", param_hint=closer[0])
    if closer and not (shown["image"] and wanted["--ask"]):
        raise typer.BadParameter("needs --image FILE and --ask TEXT", param_hint=closer[0])
    if shown["video"] and not chosen:
        others = [name for name in given if name not in ("--video", "--ask")]
        if others:
            raise typer.BadParameter(
                f"goes with --ask and --output; leave out {', '.join(others)}",
                param_hint="--video",
            )
    if shown["reconstruction"]:
        others = [name for name in given if name not in ("--image", "--reconstruction", "--ask")]
        if others:
            raise typer.BadParameter(
                f"leave out {', '.join(others)}, for which no model reads a reconstruction",
                param_hint="--reconstruction",
            )
        if not shown["image"]:
            raise typer.BadParameter("needs --image FILE", param_hint="--reconstruction")
    if wanted["--phrase"] and not shown["image"]:
        raise typer.BadParameter("needs --image FILE", param_hint="--phrase")
    if file is None and not chosen and given in ([], ["--image"]):
        raise typer.BadParameter(
            "give --ask TEXT (with --image FILE), --phrase TEXT with --image FILE, --video FILE, "
            "or --input FILE.jsonl",
            param_hint="--ask",
        )


def _check_special(option: str, given: Sequence[str], output: Path | None) -> None:
    """Check what `--compare-encoders` or `--benchmark` stands with."""
    fitting: tuple[str, ...] = ("--image", "--ask")
    if option == "--benchmark" and "--video" in given:
        fitting = ("--video",)
    others = [name for name in given if name not in (*fitting, option)]
    others += ["--output"] if output is not None else []
    if others:
        raise typer.BadParameter(
            f"goes with {' and '.join(fitting)}; leave out {', '.join(others)}", param_hint=option
        )
    if fitting[0] not in given:
        raise typer.BadParameter("needs --image FILE", param_hint=option)


DEFAULTS: dict[str, tuple[str, Any]] = {
    "--mask": ("mask", None),
    "--image-box": ("image_box", None),
    "--reconstruction-box": ("reconstruction_box", None),
    "--complete": ("complete", False),
    "--self-check": ("self_check", False),
    "--drawing-temperature": ("drawing_temperature", 1.0),
    "--top-k": ("top_k", 0),
    "--guidance": ("guidance", 1.0),
    "--extractor": ("extractor", None),
    "--temperature": ("temperature", 0.0),
    "--top-p": ("top_p", 1.0),
    "--media-root": ("media_root", None),
    "--format": ("format", "auto"),
    "--skip-faulty": ("skip_faulty", False),
    "--domain": ("domain", None),
    "--score": ("score", SURE),
}
"""Option that sets how something else is done -> its parameter and default."""


def changed(parameters: Mapping[str, Any]) -> dict[str, bool]:
    """Return, by option, whether a setting has another value than its default."""
    return {name: parameters[own] != default for name, (own, default) in DEFAULTS.items()}


def check_settings(
    file: Path | None,
    shown: Mapping[str, Path | None],
    wanted: Mapping[str, Any],
    settings: Mapping[str, bool],
) -> None:
    """Check that each setting has something to set.

    Args:
        file: `--input`.
        shown: See `check_usage`.
        wanted: `wanted` and `special` of `check_usage`.
        settings: Whether an option was given another value than its default.

    Raises:
        BadParameter: A setting would be left aside (exit code 2).
    """
    paired = shown["reconstruction"] is not None
    pointing = file is not None or paired or any(wanted[name] for name in POINTING)
    greedy = bool(wanted["--chain-of-thought"])
    rules = {
        "--mask": (
            pointing,
            "goes with --phrase, --ground, --chain-of-thought, --reconstruction or --input",
        ),
        "--extractor": (bool(wanted["--ground"]), "goes with --ground"),
        "--temperature": (not greedy, "a closer look answers greedily; leave it out"),
        "--top-p": (not greedy, "a closer look answers greedily; leave it out"),
        "--score": (shown["video"] is not None, "goes with --video"),
        "--domain": (
            shown["video"] is not None and not wanted["--benchmark"],
            "goes with --video, and without --benchmark; a file of --input names its own",
        ),
        **dict.fromkeys(("--image-box", "--reconstruction-box"), (paired, REBUILT)),
        **dict.fromkeys(
            ("--complete", "--self-check"), (paired or file is not None, f"{REBUILT} or --input")
        ),
        **dict.fromkeys(
            ("--top-k", "--guidance", "--drawing-temperature"),
            (settings["--complete"], "goes with --complete"),
        ),
        **dict.fromkeys(
            ("--media-root", "--format", "--skip-faulty"), (file is not None, "goes with --input")
        ),
    }
    for name, (fits, told) in rules.items():
        if settings[name] and not fits:
            raise typer.BadParameter(told, param_hint=name)


def parse_boxes(image: str | None, reconstruction: str | None) -> dict[str, Any]:
    """Read `--image-box` and `--reconstruction-box`; by parameter, None where not given.

    Raises:
        BadParameter: One is no box (exit code 2).
    """
    return {
        "image_box": _parse_box(image, "--image-box"),
        "reconstruction_box": _parse_box(reconstruction, "--reconstruction-box"),
    }


def _parse_box(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(side) for side in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}; give left,top,right,bottom in pixels, such as 10,5,60,48", param_hint=option
        ) from None
    return left, top, right, bottom
