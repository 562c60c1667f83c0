"""`chiasm doctor` on a sound environment and on ones broken in the usual ways."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chiasm.cli import environment as module
from chiasm.cli.main import app
from chiasm.cli.output import console
from chiasm.recipes.places import shipped_models


def run_doctor(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program in a new interpreter, with a folder of stand-in packages in front."""
    environment = {**os.environ, "COLUMNS": "120"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", "from chiasm.cli.main import main; main()", "doctor", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )


def break_package(folder: Path, name: str, fault: str) -> None:
    """A package that raises on import what a mismatched wheel raises."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"raise {fault}\n", encoding="utf-8")


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the shipped models' names, in place of the package's."""
    for name in module.SHIPPED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"0" * 3_000_000)
    monkeypatch.setattr(module, "assets_folder", lambda: tmp_path)
    return tmp_path


def test_json_is_the_whole_of_standard_output(shipped: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["healthy"] is True
    names = {check["name"] for check in document["versions"]}
    assert names == {"python", "chiasm", *module.REQUIRED}
    assert all(check["ok"] and not check["next_step"] for check in document["versions"])
    assert [check["ok"] for check in document["pairs"]] == [True, True, True]
    assert document["devices"]["cpu_cores"] >= 1
    assert document["devices"]["memory_gib"] > 0
    assert {check["name"] for check in document["extras"]} == set(module.EXTRAS)


def test_table_for_people(shipped: Path) -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for words in ("transformers", "torchvision.ops.nms runs", "3.0 MB of weights", "CPU"):
        assert words in result.stdout
    assert "chiasm is ready" in result.stdout


def test_every_shipped_model_is_looked_at() -> None:
    assert set(shipped_models()) <= set(module.SHIPPED)


def test_missing_asset_is_named(shipped: Path) -> None:
    (shipped / "tiny-eye" / "model.safetensors").unlink()
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "BROKEN tiny-eye: install chiasm again" in result.stdout


def test_missing_optional_package_is_no_fault(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXTRAS", {"timm": ("a-package-nobody-has",)})
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "absent timm: pip install 'chiasm[timm]'" in result.stdout


def test_mismatched_torchvision_is_explained(tmp_path: Path) -> None:
    break_package(
        tmp_path, "torchvision", "RuntimeError('operator torchvision::nms does not exist')"
    )
    result = run_doctor("--json", path=tmp_path)
    pair = json.loads(result.stdout)["pairs"][1]
    assert result.returncode == 1
    assert pair["found"] == "RuntimeError: operator torchvision::nms does not exist"
    assert "--force-reinstall torch torchvision" in pair["next_step"]


def test_torch_that_does_not_import_is_explained(tmp_path: Path) -> None:
    break_package(tmp_path, "torch", "OSError('libcudart.so: cannot open shared object file')")
    result = run_doctor(path=tmp_path)
    assert result.returncode == 1
    assert "libcudart.so" in result.stdout
    assert "BROKEN torch: pip install --force-reinstall torch torchvision" in result.stdout
    assert "unknown without torch" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("torch", "vision", "cause"),
    [
        ("2.15.0+cpu", "0.29.2", "torch is the cpu build, torchvision the ordinary build"),
        ("2.15.0", "0.24.0", "they were built for different releases of torch"),
    ],
)
def test_cause_of_a_mismatch(
    torch: str, vision: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch": torch, "torchvision": vision}
    monkeypatch.setattr(module, "installed", versions.get)
    assert cause in module.torchvision_next_step()


@pytest.mark.parametrize(
    ("found", "ok"),
    [("5.17.3", False), ("5.18.0", True), ("5.18", True), ("6.0.0.dev0", True), (None, False)],
)
def test_version_against_its_bound(
    found: str | None, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "installed", {"transformers": found, "chiasm": "0.1.0"}.get)
    check = module.check_version("transformers")
    assert check.ok is ok
    assert check.wanted == ">=5.18"
    assert check.next_step == ("" if ok else "pip install --upgrade 'transformers>=5.18'")


def test_every_requirement_is_looked_at() -> None:
    from importlib.metadata import requires

    core = [line for line in requires("chiasm") or [] if "extra ==" not in line]
    assert {line.partition(">")[0].lower() for line in core} == set(module.REQUIRED)


def test_every_extra_is_looked_at() -> None:
    from importlib.metadata import metadata

    declared = set(metadata("chiasm").get_all("Provides-Extra") or [])
    assert declared - {"dev"} == set(module.EXTRAS) == set(module.PURPOSES)


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.9.1+cu130", (2, 9, 1)), ("2.9.1rc2", (2, 9, 1)), ("5", (5,)), ("unknown", ())],
)
def test_release_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert module.release(version) == numbers


def test_remarks_go_to_standard_error() -> None:
    assert console.stderr
