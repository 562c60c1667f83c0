"""A real tiny dual encoder behind the protocols of evaluation."""

import json

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.evaluation.answering import ModelAnswerer
from chiasm.evaluation.gate_analysis import analyse
from chiasm.evaluation.html import save_analysis
from chiasm.evaluation.runner import evaluate
from tests.tiny import picture
from tests.unit.models.test_dual_encoder import dual, trained

# Sizes differ, also in the number of cells.
SIZES = ((61, 83), (61, 83), (97, 71))


def samples(sizes=SIZES):
    return [
        Sample(
            f"s{index}",
            (Turn("user", (0, "What?")), Turn("assistant", ("a cat",), supervised=True)),
            (picture(*size, index),),
        )
        for index, size in enumerate(sizes)
    ]


def asked(sizes=SIZES):
    return [Sample(item.identifier, item.turns[:1], item.images) for item in samples(sizes)]


@pytest.fixture(scope="module")
def answerer():
    return ModelAnswerer(trained(dual()), name="runs/tiny", max_new_tokens=3)


def test_shuffled_eyes_see_the_next_image_and_the_host_its_own(answerer):
    batch = answerer._collate(asked())
    exchanged = answerer._exchange_views(batch)
    views, own = exchanged.encoder_images["dinov2"], batch.encoder_images["dinov2"]
    # Equal sizes: the very tensor of the neighbour. Other sizes: stretched to this grid.
    assert torch.equal(views[0], own[1])
    assert [view.shape for view in views] == [image.shape for image in own]
    transform = answerer.model.collator.transforms["dinov2"]
    stretched = asked()[2].images[0].resize((83, 61))
    assert torch.equal(views[1], transform(stretched, batch.geometries[1]))
    for name, tensor in batch.host_images.items():
        assert torch.equal(exchanged.host_images[name], tensor)


def test_one_image_has_nothing_to_change_with(answerer):
    with pytest.raises(InputError, match="1 image in the batch has none"):
        answerer.answers(asked()[:1], shuffle=True)


def test_gates_of_images_of_all_sizes(answerer):
    reading = answerer.gates(samples())
    assert reading.weights.shape == (3, 2)
    assert reading.weights.sum(1) == pytest.approx(np.ones(3))
    assert [cells.shape[:2] for cells in reading.maps] == [
        (geometry.rows, geometry.columns) for geometry in reading.geometries
    ]
    assert reading.maps[2].mean((0, 1)) == pytest.approx(reading.weights[2], abs=1e-5)


def test_a_whole_analysis_and_its_page(answerer, tmp_path):
    found = analyse(
        answerer, samples(), control=ModelAnswerer(trained(dual(), seed=1), max_new_tokens=3)
    )
    assert [setting.name for setting in found.settings] == [
        "learned",
        "host only",
        "dinov2 only",
        "mean gate",
        "shuffled",
        "control",
    ]
    assert found.context["model"] == "runs/tiny"
    assert found.context["dtype"] == "float32"
    page, numbers = save_analysis(found, tmp_path)
    assert "dinov2" in page.read_text(encoding="utf-8")
    assert len(json.loads(numbers.read_text(encoding="utf-8"))["images"]) == 3


def test_without_gate_the_host_alone_is_the_model_without_fusion():
    model = trained(dual(fusion="concat"))
    answerer = ModelAnswerer(model, max_new_tokens=3)
    alone = answerer.answers(asked(), force="host")
    found = analyse(answerer, samples())
    assert found.gate is None
    assert list(found.setting("host only").answers) == alone
    fusion, model.fusion = model.fusion, None
    assert answerer.answers(asked()) == alone
    model.fusion = fusion
    with pytest.raises(InputError, match="only 'host' can be forced"):
        answerer.answers(asked(), force="dinov2")
    with pytest.raises(InputError, match="has no gate"):
        answerer.gates(samples())


def test_evaluation_of_a_real_model(answerer):
    report = evaluate(answerer, samples(), "answers", batch_size=2)
    assert report.overall.count == 3
    assert report.context["prompt"]
    assert report.context["attention"] == "sdpa"
    assert [item.text for item in report.predictions] == answerer.answers(asked())
