import os
from pathlib import Path

import pytest
import torch

from chiasm.core.errors import CheckpointError
from chiasm.training.durable import (
    copy_file,
    finish_folder,
    point,
    pointed,
    read_json,
    read_tensors,
    remove_partial,
    start_folder,
    write_json,
    write_tensors,
    write_text,
)


def test_files_go_there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, None]}
    tensors = {"x": torch.arange(6).reshape(2, 3).t(), "y": torch.ones(())}
    write_tensors(tmp_path / "a.safetensors", tensors, {"parts": "[]"})
    found, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"parts": "[]"} and all(torch.equal(found[k], tensors[k]) for k in tensors)
    copy_file(tmp_path / "a.json", tmp_path / "b.json")
    assert read_json(tmp_path / "b.json") == {"b": [1, None]}
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "a.safetensors"}


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new and longer")
    assert path.read_text() == "old"
    remove_partial(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_counts_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "step-3"
    (start_folder(path) / "a").write_text("a")
    assert not path.exists()
    folder = start_folder(path)
    # What the first attempt left is gone.
    assert not list(folder.iterdir())
    (folder / "b").write_text("b")
    finish_folder(path)
    assert [path.name for path in (tmp_path / "step-3").iterdir()] == ["b"]
    with pytest.raises(CheckpointError, match="already there"):
        start_folder(path)
    (tmp_path / ".partial-step-5").mkdir()
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_a_pointer_is_a_relative_link(tmp_path: Path) -> None:
    for name in ("step-3", "step-5"):
        (tmp_path / name).mkdir()
        point(tmp_path / "last", name)
        assert (tmp_path / "last").resolve() == tmp_path / name
        assert pointed(tmp_path / "last") == tmp_path / name
    assert (tmp_path / "last").readlink() == Path("step-5")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "last").is_dir()
    assert pointed(moved / "best") is None


def test_a_pointer_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    point(tmp_path / "last", "step-3")
    point(tmp_path / "last", "step-5")
    assert pointed(tmp_path / "last") == tmp_path / "step-5"


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    read = read_json if name.endswith("json") else read_tensors
    for content in (None, b"", b"\x00\x01 not it"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot be read .* Use another checkpoint"):
            read(tmp_path / name)


def test_a_truncated_tensor_file_is_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1000)})
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_tensors(tmp_path / "a.safetensors")
