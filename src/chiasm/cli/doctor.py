"""`chiasm doctor`: what is installed, what does not fit together, and what to do about it."""

from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from chiasm.cli.environment import Check, Diagnosis, examine
from chiasm.cli.output import Json, emit


def doctor(json: Json = False) -> None:
    """Show versions, devices, extras, and what does not fit together.

    Exit code 1 when something that chiasm needs is missing or broken.

    Example: chiasm doctor --json
    """
    diagnosis = examine()
    emit(
        diagnosis.document(),
        as_json=json,
        render=lambda console: show(diagnosis, console),
    )
    if not diagnosis.healthy:
        raise typer.Exit(code=1)


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Write the diagnosis for a person."""
    sections = {
        "Versions": diagnosis.versions,
        "Do they fit together": diagnosis.pairs,
        "Attention": diagnosis.attention,
        "Extras": diagnosis.extras,
        "Shipped models": diagnosis.assets,
    }
    for title, checks in sections.items():
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        for check in checks:
            table.add_row(state(check), check.name, check.found, check.wanted)
        console.print(table)
        console.print()
    console.print(f"Devices  {describe_devices(diagnosis.devices)}\n")
    to_do = [check for check in diagnosis.checks if check.next_step]
    for check in sorted(to_do, key=lambda check: not check.required):
        console.print(
            f"{state(check)} {check.name}: {check.next_step}", markup=False, soft_wrap=True
        )
    verdict = "chiasm is ready" if diagnosis.healthy else "chiasm will not work as it is"
    console.print(
        f"{verdict}; start with: chiasm quickstart --help" if diagnosis.healthy else verdict
    )


def state(check: Check) -> str:
    """One word for a check."""
    if check.ok:
        return "ok"
    return "BROKEN" if check.required else "absent"


def describe_devices(devices: dict[str, Any]) -> str:
    """One line on what the models can run on."""
    if not devices:
        return "unknown without torch"
    cards = [f"{card['name']} ({card['memory_gib']} GiB)" for card in devices["cuda"]]
    return (
        f"CPU {devices['cpu_cores']} cores ({devices['cpu_threads']} threads), "
        f"{devices['memory_gib']} GiB memory; CUDA {', '.join(cards) or 'none'}; "
        f"MPS {'yes' if devices['mps'] else 'none'}"
    )
