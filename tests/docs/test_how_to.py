"""Every command, program and record of the how-to pages runs, on a tiny host and tiny data.

Commands run as they stand, in the order of the page. Two things are a user's part and are done here
in their place: filling in `my.yaml` after it was copied, and bringing a shipped recipe of published
size down to the parts at hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.core.config import read_config
from chiasm.data.dataset import load_dataset
from chiasm.fusion import FUSIONS
from chiasm.recipes.loading import load_recipe, load_run, recipe_text
from chiasm.recipes.places import shipped_engines
from chiasm.recipes.schema import Recipe
from tests.recipes.pointing import write_panoptic, write_phrases
from tests.recipes.small import SCENARIOS, tiny_overrides, tiny_strategy, write_questions
from tests.tiny import tiny_qwen2_5_vl
from tests.tiny_eyes import tiny_encoder
from tests.tiny_pairs import SMALL
from tests.unit.inference.grounders import build_grounder
from tests.unit.inference.pointers import scene

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
POINTING = ROOT / "docs" / "how-to" / "grounding-data.md"
STAGES = {"progressive": 3}
RECIPE = "fusion-learning"
POINTING_USE = ROOT / "docs" / "how-to" / "pointing.md"


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: Path, *programs: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words and words[0] in programs]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host, an eye and data that no page changes."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_qwen2_5_vl().save(folder / "host")
    tiny_encoder("dinov2").save(folder / "eye")
    return folder


@pytest.fixture(scope="module")
def grounder() -> Any:
    """What a reader who points has trained."""
    return build_grounder()


@pytest.fixture
def desk(parts: Path, grounder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a reader of the pages works in."""
    monkeypatch.chdir(tmp_path)

    # The pages on pointing stand on a run of the reader's own; training one takes minutes.
    def load(name: str | Path) -> Any:
        return grounder if str(name) == "runs/pointer" else load_run(name)

    monkeypatch.setattr("chiasm.recipes.loading.load_run", load)
    monkeypatch.setattr("chiasm.load", load, raising=False)
    scene().save(tmp_path / "scene.png")
    for name, text in zip(("phrases", "regions"), blocks(POINTING_USE, "jsonl"), strict=True):
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name, count in (("train", 6), ("val", 3), ("captions", 4)):
        write_questions(tmp_path / "data" / f"{name}.json", count)
    pairs = [
        {"image_path": "images/train-0.png", "conversations": [["Is it?", "yes"], ["?", "no"]]}
    ]
    (tmp_path / "data" / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    write_phrases(tmp_path / "data" / "pointing", blocks(POINTING, "jsonl")[0])
    write_panoptic(tmp_path / "data" / "panoptic.json")
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "qwen").symlink_to(parts / "host")
    config = {
        "qwen_model_name": str(parts / "host"),
        "dinov2_model_name": str(parts / "eye"),
        "common_dim": 31,
        "train_data_path": "data/train.json",
        "use_wandb": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def shrunk(parts: Path, stages: int) -> list[str]:
    """Overrides for the parts at hand; the data is the reader's own, under the names shipped."""
    given = tiny_overrides(parts, stages)
    return [override for override in given if not override.startswith("data.")]


def fill_in(parts: Path) -> None:
    """Put into my.yaml what a user would."""
    recipe = load_recipe(RECIPE, shrunk(parts, 1))
    Path("my.yaml").write_text(recipe_text(recipe), encoding="utf-8")


def run(words: list[str], parts: Path) -> tuple[int, str]:
    """Run a command; return its exit code and all that it said."""
    arguments = words[1:]
    if arguments[:2] == ["train", "htfa-debug"]:
        arguments = [*arguments, *(o for o in SMALL if not o.startswith("data."))]
    if arguments[:2] == ["train", "tiny-video-language"]:
        few = ("training.stages.0.steps=2", "training.batch_size=2", "data.validation.0.count=2")
        arguments = [*arguments, *few]
    if arguments[0] == "train" and arguments[1].startswith("video-"):
        whole = [one.partition("=")[0] for one in arguments[2:] if "=" in one]
        small = tiny_strategy(arguments[1])
        arguments += [one for one in small if not one.startswith(tuple(whole or " "))]
    if arguments[0] in ("train", "plan") and arguments[1] in SCENARIOS:
        arguments = [*arguments, *shrunk(parts, STAGES.get(arguments[1], 1))]
    done = CliRunner().invoke(app, arguments)
    told = f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done.exit_code, told


def test_there_are_pages_with_commands() -> None:
    assert {page.stem for page in PAGES} >= {
        "freeze-and-stages",
        "grounding-data",
        "occlusion",
        "pointing",
        "several-processes",
        "train",
        "video",
        "your-own-data",
        "your-own-fusion",
    }
    assert sum(len(commands(page, "chiasm")) for page in PAGES) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs(page: Path, desk: Path, parts: Path) -> None:
    copies = any("my.yaml" in words for words in commands(page, "chiasm") if "copy" in words)
    if not copies:
        fill_in(parts)
    assert page.read_text(encoding="utf-8").startswith("# ")
    for words in commands(page, "chiasm"):
        code, told = run(words, parts)
        assert code == 0, told
        if words[1:3] == ["recipes", "copy"] and words[-1] == "my.yaml":
            fill_in(parts)
    before = set(FUSIONS)
    space: dict[str, Any] = {"__name__": page.stem}
    try:
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), space)
    finally:
        # A page may add an entry to the table, as a user's program would.
        for name in set(FUSIONS) - before:
            del FUSIONS[name]


def test_the_words_of_captions_are_read_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everyday words that are something else in YAML."""
    monkeypatch.chdir(tmp_path)
    annotations = tmp_path / "world" / "training" / "annotations"
    annotations.mkdir(parents=True)
    np.save(annotations / "one.npy", np.zeros((3, 5), np.float32))
    record = {"video": "one.npy", "caption": "No 2 is on, yes: null."}
    (annotations / "video_captioning.json").write_text(json.dumps([record]), encoding="utf-8")
    page = ROOT / "docs" / "how-to" / "video.md"
    (block,) = [one for one in blocks(page, "python") if "caption_words" in one]
    exec(compile(block, page.name, "exec"), {})
    recipe = load_recipe("video-multi-task", [capsys.readouterr().out.strip()])
    assert recipe.video is not None
    assert recipe.video.caption_words == ("2", "is", "no", "null", "on", "yes")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_records_of_the_page_are_read(page: Path, desk: Path) -> None:
    for index, block in enumerate(blocks(page, "json")):
        file = desk / "data" / f"record-{index}.json"
        file.write_text(json.dumps([json.loads(block)]), encoding="utf-8")
        (sample,) = load_dataset(file)
        assert sample.turns[-1].supervised
        assert len(sample.images) == 1


def test_phrases_of_the_page_are_read(desk: Path) -> None:
    dataset = load_dataset(desk / "data" / "pointing")
    assert [len(sample.phrases) for sample in dataset] == [3, 2]
    assert all(phrase.mask.read().any() for sample in dataset for phrase in sample.phrases)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_excerpts_of_recipes_fit_a_recipe(page: Path) -> None:
    for block in blocks(page, "yaml"):
        values = load_recipe(RECIPE).to_plain() | yaml.safe_load(block)
        assert read_config(Recipe, values, page.name).family == values["family"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


PROGRAMS = {
    "accelerate": ("accelerate.commands.launch", "--main_process_port"),
    "torchrun": ("torch.distributed.run", "--master_port"),
}
"""By program its module, and the option for a port that no other test uses."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    commands(ROOT / "docs" / "how-to" / "several-processes.md", *PROGRAMS),
    ids=lambda words: words[0],
)
def test_launchers_train_and_evaluate(words: list[str], desk: Path, parts: Path) -> None:
    """With evaluation in the loop, which only the first process does while the others wait."""
    fill_in(parts)
    for name, file in shipped_engines().items():
        Path(f"{name}.yaml").write_bytes(file.read_bytes())
    module, option = PROGRAMS[words[0]]
    rest = words[2:] if words[0] == "accelerate" else words[1:]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            module,
            option,
            port,
            *rest,
            "training.evaluate_every=1",
            "data.measure=[loss, answers]",
        ],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            # The engine asks for GPUs; without any, processes speak gloo.
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": str(ROOT / "src"),
        },
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    folder = desk / words[-1]
    assert (folder / "model.safetensors").is_file()
    assert "2 process(es)" in (folder / "log.txt").read_text(encoding="utf-8")
