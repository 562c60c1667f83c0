"""Captions of a video that was set: written once, asked for in words, cut at a limit, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.data.video_words import ACTIONS_REQUEST, VIDEO_REQUEST
from chiasm.inference.session import Session
from chiasm.inference.watching import watch_samples
from chiasm.models.long_video import LongVideo
from tests.tiny_watchers import STREAM, moving_square, tiny_watcher, write_square

LONGEST = 13
HEAD = {"width": 26, "heads": 2, "layers": 1, "longest": LONGEST}
OTHER_REQUEST = "Tell me."


def writer(**changes: Any) -> LongVideo:
    """A model that writes; its words are as far apart as those of one that learned."""
    requests = [VIDEO_REQUEST, OTHER_REQUEST]
    model = tiny_watcher(caption_head=HEAD, caption_requests=requests, **changes)
    assert model.caption_head is not None
    for parameter in model.caption_head.decoder.parameters():
        parameter.data.mul_(6)
    return model


def watch(model: LongVideo, video: Any = None) -> Session:
    session = Session(model)
    session.set(video=moving_square() if video is None else video)
    return session


@pytest.mark.parametrize("changes", [{"memory": 5}, STREAM], ids=["whole", "stream"])
def test_a_caption_is_what_the_head_writes_of_what_is_remembered(changes: Any) -> None:
    model = writer(**changes)
    session = watch(model)
    memory, head, words = session.video().memory, model.caption_head, model.collator.captions
    assert head is not None and words is not None
    found = session.caption()
    with torch.no_grad():
        ids = torch.tensor(found.tokens)
        logits, targets = head.predict(memory.features, memory.mask, [ids], sizes=memory.sizes)
    logs = logits.log_softmax(-1)
    told = len(found.tokens) + (found.finish == "stop")
    assert found.score == pytest.approx(
        float(logs.gather(1, targets[:, None])[:told].mean()), abs=1e-5
    )
    logs[:, [0, 1, head.begin]] = -torch.inf
    assert logs.argmax(-1)[:told].tolist() == targets[:told].tolist()
    assert found.text.split() == [words.vocabulary.words[one - 2] for one in found.tokens]
    assert found.text == str(found) and found.text


def test_a_request_for_a_caption_is_answered_with_it() -> None:
    session = watch(writer())
    caption = session.caption()
    for request in (VIDEO_REQUEST, OTHER_REQUEST, f"{VIDEO_REQUEST}\n"):
        answer = session.ask(request)
        assert (answer.text, answer.finish) == (caption.text, caption.finish)
        assert (answer.choice, answer.new_tokens) == (None, len(caption.tokens))
        assert answer.caption == caption
    document = answer.document()
    assert document["score"] == round(caption.score, 4)
    assert {"gate", "likeliest"} & set(document) == set()
    other = session.ask("What moved?")
    assert other.choice is not None and other.text in session.video().model.answers
    # A model without the head chooses among its answers, whatever it is asked.
    assert watch(tiny_watcher()).ask(VIDEO_REQUEST).choice is not None


def test_a_limit_cuts_and_says_so() -> None:
    session = watch(writer())
    whole = session.caption()
    assert len(whole.tokens) >= 3
    short = session.caption(max_new_tokens=2)
    assert (short.tokens, short.finish) == (whole.tokens[:2], "length")
    assert session.ask(VIDEO_REQUEST, max_new_tokens=2).text == short.text
    # The head's own length bounds every limit.
    assert session.caption(max_new_tokens=999) == whole
    with pytest.raises(InputError, match="limit=0"):
        session.caption(max_new_tokens=0)
    with pytest.raises(InputError, match="limit='3', beams=1; both must be whole numbers"):
        session.caption(max_new_tokens="3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beams=0"):
        session.caption(beams=0)
    assert len(session.caption(beams=3).tokens) <= LONGEST


def test_who_cannot_caption_says_so() -> None:
    with pytest.raises(InputError, match="this model has no 'caption'; it has ask, video, watch"):
        watch(tiny_watcher()).caption()
    with pytest.raises(InputError, match="no video to describe"):
        Session(writer()).caption()
    alone = watch(writer(answer_head=None, action_head=None))
    assert alone.ask(VIDEO_REQUEST).text == alone.caption().text
    with pytest.raises(InputError, match="this model has no 'ask'; it has caption, video"):
        alone.ask("What moved?")
    with pytest.raises(InputError, match="leave out keep_history, temperature"):
        alone.ask(VIDEO_REQUEST, temperature=0.5)


def test_samples_that_ask_for_captions_get_them(tmp_path: Path) -> None:
    square = write_square(tmp_path / "square.mp4")

    def sample(name: str, *requests: str) -> Sample:
        return Sample(name, tuple(Turn("user", (one,)) for one in requests), video=square)

    samples = [
        sample("told", VIDEO_REQUEST),
        sample("silent"),
        sample("both", "What moved?", VIDEO_REQUEST),
        sample("when", ACTIONS_REQUEST),
    ]
    model = writer()
    text = watch(model, square).caption().text
    lines = {line["id"]: line for line in watch_samples(model, samples)}
    assert list(lines) == ["told", "silent", "both#0", "both#1", "both", "when"]
    for name in ("told", "silent", "both#1"):
        assert lines[name]["text"] == text and lines[name]["finish"] in ("stop", "length")
    assert "likeliest" in lines["both#0"] and "finish" not in lines["both#0"]
    assert "text" not in lines["when"] and lines["told"]["segments"] == lines["when"]["segments"]
    only = writer(answer_head=None, action_head=None)
    found = watch_samples(only, samples)
    assert [line["id"] for line in found] == ["told", "silent", "both#1", "when"]
    assert found[-1] == {"id": "when"}
