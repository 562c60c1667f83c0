"""What users may rely on: the names of the package, the verbs of the program, a light start."""

import json
import subprocess
import sys

import pytest
from typer.main import get_command

import chiasm
from chiasm.cli.main import VERBS, app

PROMISED_VERBS = {
    "analyze": set(),
    "data": {"check", "make", "show"},
    "doctor": set(),
    "evaluate": set(),
    "plan": set(),
    "predict": set(),
    "quickstart": set(),
    "recipes": {"copy", "list", "show"},
    "serve": set(),
    "train": set(),
}
HEAVY = {"torch", "torchvision", "transformers", "accelerate", "peft", "numpy", "PIL", "pyarrow"}


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a new interpreter after one statement."""
    report = "import json, sys; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    result = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(json.loads(result.stdout))


def test_exported_names_are_sorted() -> None:
    assert chiasm.__all__ == sorted(chiasm.__all__)


@pytest.mark.parametrize("name", chiasm.__all__)
def test_exported_names_exist(name: str) -> None:
    assert name in dir(chiasm)
    assert getattr(chiasm, name) is not None


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'lode'; it offers .*load"):
        _ = chiasm.lode


def test_verbs_are_the_promised_ones() -> None:
    assert set(VERBS) == set(PROMISED_VERBS)
    command = get_command(app)
    verbs = {name: set(getattr(verb, "commands", ())) for name, verb in command.commands.items()}
    assert verbs == PROMISED_VERBS


@pytest.mark.parametrize("statement", ["import chiasm", "import chiasm.cli.main"])
def test_start_is_light(statement: str) -> None:
    assert not loaded_after(statement) & HEAVY


def test_heavy_modules_are_noticed() -> None:
    assert "numpy" in loaded_after("import numpy") & HEAVY
