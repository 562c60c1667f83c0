"""A tower with a dense head learns what cells show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.core.protocols import Model
from chiasm.core.samples import Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.heads.cells import CellHeadConfig
from chiasm.models.cell_classifier import CellClassifier
from chiasm.objectives.cells import Cells
from tests.tiny import TINY_HOSTS
from tests.tiny_eyes import tiny_encoder


def classifier() -> Any:
    host = TINY_HOSTS["qwen2_5_vl"]()
    tower = tiny_encoder("dinov2")
    torch.manual_seed(1)
    head = CellHeadConfig(attributes={"side": 3, "shade": 2}).build(width=tower.width)
    collator = Collator(
        Prompter(host.tokenizer, host.image_token), host.preparer, {"eye": tower.transform}
    )
    return CellClassifier(tower=tower, name="eye", head=head, collator=collator)


def labelled(rows: int, columns: int, seed: int) -> Sample:
    """An image of 14-pixel cells, each dark or light, with the labels of its cells."""
    shade = np.random.default_rng(seed).integers(0, 2, (rows, columns))
    pixels = np.kron(shade, np.ones((14, 14)))[..., None].repeat(3, 2) * 200 + 20
    side = np.clip(np.arange(columns), 0, 2)[None].repeat(rows, 0)
    return Sample(
        f"{rows} x {columns}",
        (Turn("user", (0, "?")), Turn("assistant", ("!",), supervised=True)),
        (Image.fromarray(pixels.astype(np.uint8)),),
        truth={"cells": {"shade": shade, "side": side}},
    )


SAMPLES = [labelled(3, 5, 1), labelled(4, 2, 2)]


def test_it_is_a_model_of_two_parts() -> None:
    model = classifier()
    assert isinstance(model, Model)
    assert list(model.parts) == ["tower", "head"]
    assert model.new_parts == {"tower", "head"}
    assert model.identity["tower"]["name"] == "dinov2"


def test_scores_have_the_cells_of_the_labels() -> None:
    model = classifier()
    batch = model.collator(SAMPLES)
    named = model(batch).named
    assert named["cells.side"].shape == (2, 4, 5, 3)
    assert named["cells.shade"].shape == (2, 4, 5, 2)
    assert (named["cells.side"][0, 3:] == 0).all()
    assert (named["cells.side"][1, :, 2:] == 0).all()
    assert batch.targets["cells.shade"].shape == (2, 4, 5)


def test_it_learns() -> None:
    model = classifier()
    batch = model.collator(SAMPLES)
    objective = Cells(["shade", "side"])
    counts = objective.count(batch)
    assert counts == {"cells.shade": 23.0, "cells.side": 23.0}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        scores = objective.score(model(batch), batch)
        loss = sum(scores[term] / counts[term] for term in scores)
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        losses.append(loss.item())  # type: ignore[union-attr]
    # Measured: 2.9 to 0.5, where chance is log 3 + log 2 = 1.8.
    assert losses[-1] < 1.0
    found = model(batch).named["cells.shade"][0, :3].argmax(-1)
    assert (found == batch.targets["cells.shade"][0, :3]).float().mean() > 0.9


def test_the_probe_is_fixed() -> None:
    model = classifier()
    first, second = model.probe(), model.probe()
    assert sorted(first) == [
        f"{name}.cells.{term}" for name in ("checker", "gradient") for term in ("shade", "side")
    ]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_images_of_another_name_are_refused() -> None:
    model = classifier()
    batch = model.collator(SAMPLES)
    model.name = "other"
    with pytest.raises(InputError, match=r"no images for the tower 'other'; it has \['eye'\]"):
        model(batch)
