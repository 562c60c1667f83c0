"""The program as a whole: help, version, exit codes, where output goes."""

import json
import subprocess
import sys

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from chiasm import __version__
from chiasm.cli import main as module
from chiasm.cli.output import Json, emit
from chiasm.core.errors import ChiasmError, ConfigError


def app_that(run: object) -> typer.Typer:
    """The program's own group around one verb."""
    app = typer.Typer(cls=module.FaultReportingGroup, pretty_exceptions_enable=False)
    app.callback()(module.top)
    app.command("verb")(run)
    return app


def faulty() -> None:
    """Raise what a wrong recipe raises."""
    raise ConfigError("recipe x.yaml is wrong", ["[steps] is -3, must be at least 1"])


def broken() -> None:
    """Raise what only a bug of ours raises."""
    raise ZeroDivisionError("a bug")


def test_user_fault_is_a_message_and_code_1() -> None:
    result = CliRunner().invoke(app_that(faulty), ["verb"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "chiasm: recipe x.yaml is wrong\n  - [steps] is -3, must be at least 1\n"
    )


def test_bug_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        CliRunner().invoke(app_that(broken), ["verb"], catch_exceptions=False)


def test_wrong_usage_is_code_2() -> None:
    result = CliRunner().invoke(module.app, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'" in result.stderr


def test_version() -> None:
    result = CliRunner().invoke(module.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"chiasm {__version__}\n")


def test_help_names_every_verb() -> None:
    result = CliRunner().invoke(module.app, ["--help"])
    assert result.exit_code == 0
    assert [verb for verb in module.VERBS if f" {verb} " not in result.stdout] == []


@pytest.mark.parametrize("verb", [verb for verb in module.VERBS if verb not in module.GROUPS])
def test_help_of_each_verb_has_an_example(verb: str) -> None:
    result = CliRunner().invoke(module.app, [verb, "--help"])
    assert result.exit_code == 0
    assert f"chiasm {verb}" in result.stdout


def see() -> None:
    """See [video] with two eyes, where one eye alone would have been quite enough for the one.

    Examples:
        chiasm see runs/dual
        chiasm see runs/dual key.path=[3]
    """


def test_help_keeps_examples_and_brackets() -> None:
    app = typer.Typer(rich_markup_mode=None)
    app.command(help=module.help_of(see))(see)
    lines = CliRunner().invoke(app, ["--help"]).stdout.splitlines()
    assert "See [video] with two eyes" in lines[2]
    assert [line.strip() for line in lines if "chiasm see" in line] == [
        "chiasm see runs/dual",
        "chiasm see runs/dual key.path=[3]",
    ]


def test_help_runs_without_heavy_imports() -> None:
    script = (
        "import sys; from chiasm.cli.main import main; sys.argv = ['chiasm', '--help']\n"
        "try: main()\nexcept SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: chiasm" in result.stdout


def greet(json: Json = False) -> None:
    """Emit one document."""
    emit({"eyes": [2, "deux", "äöü"]}, as_json=json, render=lambda out: out.print("two eyes"))


def test_emit_for_programs_and_people() -> None:
    app = app_that(greet)
    assert json.loads(CliRunner().invoke(app, ["verb", "--json"]).stdout) == {
        "eyes": [2, "deux", "äöü"]
    }
    assert CliRunner().invoke(app, ["verb"]).stdout == "two eyes\n"


def test_emit_refuses_what_json_cannot_spell() -> None:
    def ignore(console: Console) -> None:
        pass

    with pytest.raises(ValueError, match="not JSON compliant"):
        emit({"loss": float("nan")}, as_json=True, render=ignore)
    with pytest.raises(TypeError, match="not JSON serializable"):
        emit({"loss": object()}, as_json=True, render=ignore)


def test_error_base_is_the_public_one() -> None:
    import chiasm

    assert chiasm.ChiasmError is ChiasmError
