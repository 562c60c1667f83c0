from pathlib import Path

import pytest

from chiasm.core.errors import CheckpointError, ConfigError
from chiasm.training.checkpoint import CheckpointStore, check_unchanged, flatten
from chiasm.training.durable import finish_folder, start_folder


def store(tmp_path: Path, keep: int = 2) -> CheckpointStore:
    found = CheckpointStore(tmp_path, keep)
    found.prepare()
    return found


def write(checkpoints: CheckpointStore, step: int) -> None:
    (start_folder(checkpoints.path(step)) / "state.json").write_text("{}")
    finish_folder(checkpoints.path(step))


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    for step in (3, 20, 100, 7):
        write(checkpoints, step)
        if step == 3:
            checkpoints.mark("best", step)
        checkpoints.mark("last", step)
        checkpoints.prune()
    # By number, not by name: 100 is newer than 20.
    assert checkpoints.steps() == [3, 20, 100]
    assert checkpoints.newest().name == "step-100"
    best, last = checkpoints.marked("best"), checkpoints.marked("last")
    assert best is not None and best.name == "step-3"
    assert last is not None and last.name == "step-7"


def test_what_is_half_written_does_not_count(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    write(checkpoints, 5)
    (checkpoints.folder / ".partial-step-11").mkdir()
    assert checkpoints.steps() == [5]
    checkpoints.prepare()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-5"]


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from; start the run"):
        CheckpointStore(tmp_path, 2).newest()


def test_differences_are_named() -> None:
    before = {"settings": {"seed": 3, "stages": [{"steps": 5}], "keep": 2}, "files": {"a": "x"}}
    now = {"settings": {"seed": 4, "stages": [{"steps": 7}], "keep": 9, "new": None}, "files": {}}
    with pytest.raises(ConfigError) as caught:
        check_unchanged(before, now)
    assert caught.value.faults == (
        "files.a: started with 'x', now None",
        "settings.seed: started with 3, now 4",
        "settings.stages.0.steps: started with 5, now 7",
    )
    check_unchanged(before, {**before, "settings": {**before["settings"], "keep": 9}})


def test_flat_keys() -> None:
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": ()}) == {"a.b.0": 1, "a.b.1.c": 2}
