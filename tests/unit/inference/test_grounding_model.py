"""What is used here with a real grounding model: pointing, conversing, thinking, scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from chiasm import Session
from chiasm.cli.asking import load_answerer
from chiasm.cli.main import app
from chiasm.core.run_length import decode_run_length
from chiasm.data.chat import read_messages
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.grounding import GroundingOptions, evaluate_masks
from chiasm.evaluation.grounding_model import ModelGrounder
from chiasm.inference.chain_of_thought import OBJECT_REQUEST
from tests.unit.evaluation.painters import painted
from tests.unit.inference.grounders import build_grounder
from tests.unit.inference.pointers import scene
from tests.unit.inference.test_grounded import first_word

IMAGE = scene()
PHRASES = ["the red bar", "a blue block", "x"]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_grounder()


def test_a_session_points_as_the_model_does(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    see = model.base.see
    monkeypatch.setattr(model.base, "see", lambda batch: calls.append(batch) or see(batch))
    session = Session(model)
    session.set(image=IMAGE)
    session.ask("What is there?", max_new_tokens=2)
    together = session.point(PHRASES)
    alone = [session.point([phrase])[0] for phrase in PHRASES]
    assert len(calls) == 1
    expected = model.point(IMAGE, PHRASES)
    for mask, (array, score) in zip(together, expected, strict=True):
        assert np.array_equal(mask.array, array) and mask.score == pytest.approx(score, abs=1e-6)
        assert 0 <= mask.score <= 1
    for mask, other in zip(together, alone, strict=True):
        assert (mask.array ^ other.array).mean() < 0.01
    assert 0 < together[0].area < together[0].array.size
    coarse = session.point(PHRASES, mask="coarse")
    assert any((a.array != b.array).any() for a, b in zip(coarse, together, strict=True))


def test_phrases_of_an_answer_are_those_of_the_text_read_again(model: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    found = session.converse("What is there?", extractor=first_word, max_new_tokens=23)
    content = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is there?"}]
    messages = [{"role": "user", "content": content}]
    assert found.text == model.chat(messages, max_new_tokens=23)
    ((array, score),) = model.ground_text(IMAGE, messages, found.text, first_word(found.text))
    (mask,) = found.masks
    assert np.array_equal(mask.array, array) and mask.score == pytest.approx(score)


@pytest.mark.parametrize("thought", ["object", "question", "none"])
def test_a_closer_look_runs_through(model: Any, thought: Any) -> None:
    session = Session(model)
    session.set(image=IMAGE)
    found = session.think("Where is the bar?", thought, max_new_tokens=5)
    assert found.answer.new_tokens <= 5
    if thought == "object":
        content = OBJECT_REQUEST.format(question="Where is the bar?")
        said = Session(model)
        said.set(image=IMAGE)
        named = said.ask(content, max_new_tokens=16, stop=["."]).text
        assert found.mask is None or found.mask.phrase in named
    assert (found.mask is None) == (thought == "none") or thought == "object"


def test_masks_are_scored_beside_their_ceilings(model: Any) -> None:
    samples = [painted(number) for number in range(3)]
    options = GroundingOptions(batch_size=2, bootstrap=Bootstrap(resamples=20))
    report = evaluate_masks(ModelGrounder(model, "tiny"), samples, options)
    makers = list(report.summary.splits[0].makers)
    assert makers == [
        "coarse",
        "refined",
        "coarse ceiling",
        "refined ceiling",
        "constant",
        "centre_box",
    ]
    numbers = report.numbers()
    # Cells of 14 pixels still show blocks of 23 x 29 well; a random head shows nothing of them.
    assert numbers["coarse ceiling.mean_iou"] > 0.7
    assert numbers["coarse ceiling.mean_iou"] > numbers["coarse.mean_iou"]
    batch = model.collator(samples[:2])
    for head in ("coarse", "refined"):
        found = model.predict(batch, head)
        for score, (array, _) in zip(report.scores, found, strict=False):
            assert (decode_run_length(score.masks[head]) ^ array).mean() < 0.001
    assert report.context["model"] == "tiny"


def test_the_ceiling_goes_through_cells_as_the_head_does() -> None:
    """A head that enlarges less has a ceiling of its own."""
    samples = [painted(number) for number in range(3)]
    options = GroundingOptions(bootstrap=Bootstrap(resamples=20))
    found = [
        evaluate_masks(ModelGrounder(build_grounder(False, least)), samples, options).numbers()
        for least in (8, 64)
    ]
    assert found[0]["coarse ceiling.mean_iou"] != found[1]["coarse ceiling.mean_iou"]


def test_the_verb_writes_what_the_session_finds(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", {"grounder": model}.__getitem__)
    IMAGE.save(tmp_path / "scene.png")
    words = ["predict", "grounder", "--image", str(tmp_path / "scene.png"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--phrase", PHRASES[0], "--json"])
    assert done.exit_code == 0, done.output
    session = Session(model)
    session.set(image=IMAGE)
    (mask,) = session.point(PHRASES[:1])
    assert json.loads(done.stdout)["masks"] == [json.loads(json.dumps(mask.document()))]


def test_what_points_is_asked_and_scored_like_its_base(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", {"grounder": model}.__getitem__)
    answerer = load_answerer("grounder")
    content = [{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is there?"}]
    messages = [{"role": "user", "content": content}]
    expected = model.chat(messages, max_new_tokens=answerer.max_new_tokens)
    assert answerer.answers([read_messages(messages)]) == [expected]
    assert answerer.describe()["model"] == "grounder"
