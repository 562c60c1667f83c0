import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from chiasm.core.errors import CheckpointError, ReceiptError
from chiasm.training.receipt import compare_probes
from chiasm.training.weights import load_model, part_tensors, save_model
from tests.unit.training.small import SmallModel

NEW = {"fusion.gate", "fusion.output"}


def saved(tmp_path: Path, *parts: str, model: SmallModel | None = None) -> Path:
    save_model(tmp_path, model or SmallModel(seed=7), parts)
    return tmp_path


def rewrite(path: Path, change: Mapping[str, torch.Tensor | None]) -> None:
    tensors = {**load_file(path), **change}
    parts = json.dumps(sorted({name.split("/")[0] for name in load_file(path)}))
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None},
        path,
        metadata={"parts": parts},
    )


def test_new_and_trained_parts_are_saved_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, "head")
    parts = {name.split("/")[0] for name in load_file(tmp_path / "model.safetensors")}
    assert parts == NEW | {"head"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.safetensors", "host.json", "receipt.safetensors"}
    assert json.loads((tmp_path / "host.json").read_text())["name"] == "small"


def test_a_loaded_model_is_the_saved_one_bit_for_bit(tmp_path: Path) -> None:
    model = SmallModel(seed=7)
    saved(tmp_path, *model.parts, model=model)
    other = SmallModel(seed=8)
    assert load_model(tmp_path, other) == 0.0
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_on_another_host_the_receipt_shows_it(tmp_path: Path) -> None:
    """The frozen parts are not in the file: on other ones, the logits differ."""
    saved(tmp_path, "head")
    with pytest.raises(ReceiptError, match=r"differ by up to \d.*, allowed are"):
        load_model(tmp_path, SmallModel(seed=8))
    load_model(tmp_path, SmallModel(seed=7))


def test_a_single_wrong_weight_shows(tmp_path: Path) -> None:
    saved(tmp_path, "head")
    weight = load_file(tmp_path / "model.safetensors")["fusion.output/weight"]
    weight[3, 2] += 0.01
    rewrite(tmp_path / "model.safetensors", {"fusion.output/weight": weight})
    with pytest.raises(ReceiptError):
        load_model(tmp_path, SmallModel(seed=7))
    load_model(tmp_path, SmallModel(seed=7), receipt=False)


def test_all_that_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path, "head")
    rewrite(
        tmp_path / "model.safetensors",
        {
            "fusion.gate/bias": None,
            "head/2.weight": torch.ones(3),
            "head/1.bias": torch.ones(11),
        },
    )
    model = SmallModel(seed=8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, model)
    message = str(caught.value)
    assert "missing: fusion.gate/bias" in message
    assert "unexpected: head/2.weight" in message
    assert "head/1.bias: saved with shape (11,), the model has (13,)" in message
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


class Bare(SmallModel):
    """Lacks the gate, and has a new part that the other one has not."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"host": self.embedding, "fusion.output": self.output, "head": self.head}

    @property
    def new_parts(self) -> frozenset[str]:
        return frozenset({"head"})


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, Bare())
    message = str(caught.value)
    assert "part 'fusion.gate' is saved, but the model has none of that name" in message
    assert "part 'head' is new in this model and not in the file" in message


class Elsewhere(SmallModel):
    @property
    def identity(self) -> Mapping[str, Any]:
        return {"name": "small", "revision": "main", "hash": "6"}


def test_another_host_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, Elsewhere())
    message = str(caught.value)
    assert "trained on another host" in message
    assert "hash: saved '5', here '6'" in message and "revision: saved None" in message


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="it was not written by chiasm"):
        load_model(tmp_path, SmallModel())


def test_an_unknown_part_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the model has no part tail; it has host"):
        saved(tmp_path, "tail")


class Tied(SmallModel):
    """Its head reads with the embedding's own weights."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        tied = nn.ModuleDict({"embedding": self.embedding, "again": self.embedding})
        return {**super().parts, "host": tied}


def test_tied_weights_are_saved_once_and_loaded(tmp_path: Path) -> None:
    model = Tied(seed=7)
    assert list(part_tensors(model, ["host"])) == ["host/embedding.weight"]
    saved(tmp_path, "host", model=model)
    other = Tied(seed=8)
    load_model(tmp_path, other, receipt=False)
    assert torch.equal(model.embedding.weight, other.embedding.weight)


class Statistics(SmallModel):
    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.gate.register_buffer("mean", torch.full((3,), float(seed)))
        self.gate.register_buffer("cache", torch.full((5,), float(seed)), persistent=False)


def test_buffers_that_persist_are_part_of_a_part(tmp_path: Path) -> None:
    saved(tmp_path, model=Statistics(7))
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "fusion.gate/mean" in names and "fusion.gate/cache" not in names
    other = Statistics(8)
    load_model(tmp_path, other, receipt=False)
    assert float(other.gate.mean[0]) == 7 and float(other.gate.cache[0]) == 8


def test_probing_leaves_the_random_generators_alone(tmp_path: Path) -> None:
    class Drawing(SmallModel):
        def probe(self) -> Mapping[str, torch.Tensor]:
            torch.rand(3)
            return super().probe()

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    saved(tmp_path, model=Drawing())
    assert torch.equal(torch.rand(2), expected)


def test_receipts_compare_names_shapes_and_values() -> None:
    stored = {"a": torch.tensor([100.0, 1.0])}
    assert compare_probes(stored, {"a": torch.tensor([100.0, 1.005])}, 1e-4) > 0
    for found, words in (
        ({"b": stored["a"]}, "holds ['a'], the model's probe gives ['b']"),
        ({"a": torch.ones(3)}, "stored shape (2,), found (3,)"),
        ({"a": torch.tensor([100.0, 1.02])}, "differ by up to 0.02, allowed are 0.01"),
        ({"a": torch.tensor([100.0, float("nan")])}, "differ by up to nan"),
    ):
        with pytest.raises(ReceiptError) as caught:
            compare_probes(stored, found, 1e-4)
        assert words in str(caught.value)
