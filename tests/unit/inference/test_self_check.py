"""The cascade: what it reads at each step, what it scores, and when it looks closer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from chiasm import Session
from chiasm.core.errors import InputError, UnknownNameError
from chiasm.core.samples import Pair, Sample, Turn
from chiasm.inference.self_check import CLARITY, SelfCheck, check_itself
from tests.unit.inference.pair_models import IMAGE, QUESTIONS, build_pair_model, hidden, rendered

QUESTION = QUESTIONS[0]
NEW = 4


@pytest.fixture(scope="module")
def session() -> Session:
    session = Session(build_pair_model())
    session.set(image=IMAGE, reconstruction=rendered(), mask=hidden())
    return session


def alone(picture: Any) -> Session:
    """A session in which one picture stands for both."""
    session = Session(build_pair_model())
    session.set(image=picture, reconstruction=picture)
    return session


def test_where_it_is_clear_the_first_answer_counts(session: Session) -> None:
    found = session.self_check(QUESTION, sure=0.0, max_new_tokens=NEW)
    assert isinstance(found, SelfCheck)
    assert found.clear and found.second is None and found.source == "original"
    assert found.text == found.first.text


@pytest.mark.parametrize("closer", ["reconstruction", "pair"])
def test_where_it_is_not_clear_it_looks_closer(session: Session, closer: str) -> None:
    found = session.self_check(QUESTION, sure=1.0, closer=closer, max_new_tokens=NEW)
    assert not found.clear and found.source == closer and found.second is not None
    # The mask tells of the original, which a reconstruction alone has not.
    other = session if closer == "pair" else alone(rendered())
    assert found.text == other.ask(QUESTION, max_new_tokens=NEW).text == found.second.text
    clear = session.self_check(QUESTION, sure=0.0, max_new_tokens=NEW)
    assert found.first.text == clear.first.text and found.scores == clear.scores
    assert found.second.pair is not None and found.first.pair is not None


def test_the_first_answer_is_read_from_the_original_alone(session: Session) -> None:
    found = session.self_check(QUESTION, sure=0.0, max_new_tokens=NEW)
    seen = found.first.pair
    assert seen is not None
    assert abs(seen.blended.astype(int) - seen.aligned.astype(int)).max() <= 1
    other = Session(build_pair_model())
    other.set(image=IMAGE, reconstruction=IMAGE, mask=hidden())
    assert other.ask(QUESTION, max_new_tokens=NEW).text == found.first.text


def test_scores_are_log_probabilities_token_by_token(session: Session) -> None:
    found = session.self_check(QUESTION, sure=0.0, max_new_tokens=NEW)
    model: Any = session.model
    prompter = model.collator.prompter
    turns = (
        Turn("user", (0, QUESTION)),
        Turn("assistant", (found.first.text,)),
        Turn("user", (CLARITY,)),
    )
    pair = Pair(IMAGE, hidden=session._exhibit.shown.pair.hidden)  # type: ignore[union-attr]
    for name, reply in (("yes", "Yes"), ("no", "No")):
        told = Turn("assistant", (reply,), supervised=True)
        collated = model.collator.collate([Sample("x", (*turns, told), (IMAGE,), pair=pair)])
        with torch.no_grad():
            view = model.see(collated)
            spliced = model.host.splice(collated, view.fused.tokens, view.extras)
            scores = model.host.logits(model.host.read(spliced))[0].log_softmax(-1)
        labels = collated.labels[0]
        places = (labels != -100).nonzero()[:, 0].tolist()
        spelled = model.host.tokenizer.decode(labels[places])
        assert spelled.startswith(reply) and len(places) > len(prompter.closing_ids())
        total = sum(float(scores[place - 1, labels[place]]) for place in places)
        assert found.scores[name] == pytest.approx(total, abs=1e-4)
    odds = math.exp(found.scores["yes"]) / sum(math.exp(s) for s in found.scores.values())
    assert found.clarity == pytest.approx(odds, rel=1e-4)


def test_a_document_is_plain(session: Session) -> None:
    import json

    document = session.self_check(QUESTION, sure=1.0, max_new_tokens=NEW).document()
    assert json.loads(json.dumps(document)) == document
    assert set(document["scores"]) == {"yes", "no"} and document["source"] == "reconstruction"


def test_a_model_that_says_nothing_is_judged_on_the_picture(session: Session) -> None:
    """An empty answer cannot stand in a conversation; the question of clarity stands alone."""
    shown: Any = session._exhibit.shown
    found = check_itself(shown, QUESTION, sure=0.0, max_new_tokens=NEW, clarity="Clear?")
    assert math.isfinite(found.scores["yes"])


def test_faults_are_named(session: Session) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown closer look 'recon'.*pair, reconstruct"):
        session.self_check(QUESTION, closer="recon")
    with pytest.raises(InputError, match=r"sure is 1.5; give a probability"):
        session.self_check(QUESTION, sure=1.5)
    with pytest.raises(InputError, match="both replies are 'No'"):
        session.self_check(QUESTION, yes="No")
    empty = Session(build_pair_model())
    empty.set()
    with pytest.raises(InputError, match="no pair to check itself on"):
        empty.self_check(QUESTION)
