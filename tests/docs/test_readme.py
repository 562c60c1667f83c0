"""Every command of the README runs, at the scale of a test."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SHORTER = {
    "train": ["training.stages.0.steps=3", "training.evaluate_every=3", "data.validation=[]"],
    "analyze": ["--batch-size", "8"],
}
"""Added to a command so that it takes seconds: the same code, fewer steps."""


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


def test_the_commands_of_the_readme_run(tmp_path):
    commands = [command for command in _commands() if command[0] == "chiasm"]
    assert len(commands) >= 8
    for command in commands:
        arguments = [
            "60" if part == "400" else part for part in [*command[1:], *SHORTER.get(command[1], [])]
        ]
        done = subprocess.run(
            [sys.executable, "-m", "chiasm", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    from chiasm.data.world import write

    write.make("attributes_and_grain", tmp_path / "world", 3, seed=0)
    write.make("shapes", tmp_path / "things", 3, seed=0)
    write.make("motion", tmp_path / "moving", 1, seed=0, splits=("test",))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), names)
    answer, weights, mask, actions = capsys.readouterr().out.splitlines()
    assert answer
    assert "eye" in weights
    assert mask.startswith("(112, 112)")
    assert len(ast.literal_eval(actions)) == 3


def test_make_has_the_commands_of_the_readme():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("quickstart", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("folder", re.findall(r"^      (\w+)/ ", README, re.MULTILINE))
def test_the_tree_of_the_readme_is_the_tree(folder):
    assert (ROOT / "src" / "chiasm" / folder).is_dir()


def test_every_folder_is_in_the_readme():
    listed = set(re.findall(r"^      (\w+)/ ", README, re.MULTILINE))
    found = {
        path.name
        for path in (ROOT / "src" / "chiasm").iterdir()
        if path.is_dir() and path.name not in ("__pycache__", "assets")
    }
    assert listed == found


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
