"""`chiasm evaluate --suite grounding`: the batch comes from a real host's collator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
from chiasm.evaluation.grounding_model import ModelGrounder
from chiasm.heads.mask_unet import MaskUNetConfig
from chiasm.metrics import mean_iou
from chiasm.models.phrase_masks import PhraseMasks
from tests.unit.evaluation.painters import moved, painted, read
from tests.unit.inference.duals import build_dual, build_host_alone


class Shifter(nn.Module):
    """Reads batches of a tiny host, and finds their true masks moved by (5, 7) pixels."""

    senses = frozenset({"ask", "image", "point"})

    def __init__(self, refines: bool) -> None:
        super().__init__()
        self.base = build_host_alone()
        self.masks = PhraseMasks(mask_head=MaskUNetConfig(channels=2, widths=(3,)).build())
        self.refines = refines
        self.modes: list[tuple[bool, bool]] = []

    @property
    def host(self) -> Any:
        return self.base.host

    @property
    def collator(self) -> Any:
        return self.base.collator

    def forward(self, batch: Any) -> Outputs:
        self.modes.append((self.training, torch.is_grad_enabled()))
        coarse = tuple(
            torch.from_numpy(moved(mask.numpy(), 5, 7)).float() - 0.5
            for mask in batch.phrases.masks
        )
        masks = {"coarse": coarse}
        return Outputs(
            masks={**masks, "refined": self.refine(batch, coarse)} if self.refines else masks
        )

    def refine(self, batch: Any, coarse: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        assert len(coarse) == len(batch.phrases)
        return tuple(logits + 0.25 for logits in coarse)


SAMPLES = [painted(number) for number in range(1, 6)]
TRUTHS = [read(phrase) for sample in SAMPLES for phrase in sample.phrases]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"fine": Shifter(True), "coarse": Shifter(False), "dual": build_dual()}


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)
    monkeypatch.setattr("chiasm.data.dataset.load_dataset", lambda path, **more: SAMPLES)

    def invoke(*arguments: Any) -> Any:
        words = ["evaluate", *map(str, arguments), "--data", "scenes.jsonl", "--suite", "grounding"]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


def test_a_model_is_scored_through_its_own_collator(models: dict[str, Any]) -> None:
    model = models["fine"].train()
    grounder = ModelGrounder(model, name="runs/fine")
    report = evaluate_masks(grounder, SAMPLES, GroundingOptions(batch_size=2))
    expected = mean_iou([moved(truth, 5, 7) for truth in TRUTHS], TRUTHS)
    numbers = report.numbers()
    assert numbers["coarse.mean_iou"] == pytest.approx(expected)
    assert "refined ceiling.mean_iou" in numbers
    assert model.training and model.modes == [(False, False)] * 3
    assert report.context["model"] == "runs/fine"
    assert report.context["dtype"] == "float32"
    grids = {tuple(g.original_height for g in grounder.ground(SAMPLES[:1]).geometries)}
    assert grids == {(61, 61)}


def test_a_batch_without_masks_is_refused(models: dict[str, Any]) -> None:
    import dataclasses

    bare = dataclasses.replace(
        SAMPLES[0],
        phrases=tuple(dataclasses.replace(phrase, mask=None) for phrase in SAMPLES[0].phrases),
    )
    with pytest.raises(InputError, match="no phrase with a mask in the batch from 'scene-1'"):
        ModelGrounder(models["coarse"]).ground([bare])


def test_the_verb_shows_writes_and_tells(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "results" / "masks.json"
    done = run("fine", "--output", output)
    assert done.exit_code == 0, done.output
    for word in ("coarse", "refined ceiling", "constant", "centre_box", "things", "left", "right"):
        assert word in done.stdout
    assert "fitted to 10 evaluated phrases" in done.stdout
    assert "pointing: 5 of 5 samples" in done.stderr
    names = ["masks.html", "masks.json", "masks.predictions.jsonl"]
    assert sorted(path.name for path in output.parent.iterdir()) == names
    assert json.loads(output.read_text(encoding="utf-8"))["context"]["data"] == "scenes.jsonl"


def test_the_verb_as_json(run: Any) -> None:
    document = json.loads(run("coarse", "--json", "--train-data", "train.jsonl").stdout)
    assert document["heads"] == ["coarse"]
    assert "fitted to 10 training phrases" in document["context"]["baselines"]
    assert document["splits"][0]["name"] == "all"


def test_a_run_that_does_not_point(run: Any) -> None:
    done = run("dual")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "this model has no 'point'" in done.stderr


def test_where_the_report_goes_is_checked_before_the_work(
    run: Any, models: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    models["fine"].modes.clear()
    for place, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "a.json", "cannot be made a folder"),
        (tmp_path / "a.html", "is the name of another result"),
    ):
        done = run("fine", "--output", place)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in done.stderr
    assert models["fine"].modes == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-history"], "--keep-history: suite 'grounding' asks no later turns"),
        (["--judge-url", "http://x"], "--judge-url: goes with --suite chain_of_thought"),
        (["--chain-of-thought", "none"], "--chain-of-thought: goes with --suite chain_of_thought"),
        (["--seed", "-1"], "'--seed'"),
    ],
)
def test_options_that_the_suite_would_not_read(run: Any, words: list[str], message: str) -> None:
    done = run("fine", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
