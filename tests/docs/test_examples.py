"""Every example runs, at the scale of a test."""

import subprocess
import sys
from pathlib import Path

import pytest

SAID = {"dual_encoder": "shares of the eyes", "long_video": "(truth: "}
"""Example -> what it says at its end."""

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example), "--steps", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SAID[example.stem] in done.stdout
