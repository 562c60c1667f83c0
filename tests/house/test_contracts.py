"""The import contracts of pyproject.toml hold, and are seen to catch a wrong import."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import FLOORS

# (file, line that breaks a contract, words of the report)
BREAKS = [
    ("core/x.py", "import chiasm.layers", "chiasm.core is not allowed to import chiasm.layers"),
    (
        "fusion/x.py",
        "import chiasm.encoders",
        "chiasm.fusion is not allowed to import chiasm.encoders",
    ),
    ("layers/x.py", "import chiasm.cli", "chiasm.layers is not allowed to import chiasm.cli"),
    (
        "serving/x.py",
        "import chiasm.recipes",
        "chiasm.serving is not allowed to import chiasm.recipes",
    ),
    (
        "training/x.py",
        "import chiasm.models",
        "chiasm.training is not allowed to import chiasm.models",
    ),
    ("plumbing/__init__.py", "", "chiasm.plumbing"),
    ("loose.py", "", "chiasm.loose"),
]


def lint_imports(folder: Path, sources: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter as `make contracts` does, on the sources named."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(sources), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def sound_package(tmp_path: Path, project_root: Path) -> Path:
    """The floors without furniture, under the project's own contracts."""
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    sources = tmp_path / "src" / "chiasm"
    homes = {"core/errors.py", "inference/session.py", "recipes/loading.py"}
    for name in [*(f"{floor}/__init__.py" for floor in FLOORS), *homes]:
        path = sources / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    # The real one: its names for type checkers are the contracts' only exceptions.
    shutil.copy(project_root / "src" / "chiasm" / "__init__.py", sources)
    return tmp_path


def test_project_keeps_contracts(project_root: Path) -> None:
    result = lint_imports(project_root, project_root / "src")
    assert result.returncode == 0, result.stdout + result.stderr


def test_sound_package_passes(sound_package: Path) -> None:
    result = lint_imports(sound_package, sound_package / "src")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("file", "line", "message"), BREAKS)
def test_contract_reports_break(file: str, line: str, message: str, sound_package: Path) -> None:
    path = sound_package / "src" / "chiasm" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line + "\n", encoding="utf-8")
    result = lint_imports(sound_package, sound_package / "src")
    assert result.returncode == 1
    assert message in result.stdout


def test_missing_floor_is_reported(sound_package: Path) -> None:
    shutil.rmtree(sound_package / "src" / "chiasm" / "heads")
    result = lint_imports(sound_package, sound_package / "src")
    assert result.returncode == 1
    assert "chiasm.heads" in result.stdout
