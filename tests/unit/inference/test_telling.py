"""A session with a host that watches: the video is read once, each answer is the model's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from chiasm import Session
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import Turn
from chiasm.inference.responding import Generation
from chiasm.inference.telling import tell_samples
from tests.tiny_tellers import BUDGET, tiny_teller, told
from tests.tiny_videos import noise
from tests.tiny_watchers import STREAM, write_square

NEW = 6


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_teller(request.param)


def whole(model: Any, video: Any, *said: str) -> str:
    batch = model.collator.collate([told(video, *said)], generation=True)
    return str(model.generate(batch, max_new_tokens=NEW)[0])


def test_a_session_answers_as_the_model(model: Any) -> None:
    session, video = Session(model), noise(9)
    session.set(video=video)
    first = session.ask("What moved?", max_new_tokens=NEW)
    assert first.text == whole(model, video, "What moved?")
    second = session.ask("Where?", max_new_tokens=NEW).text
    assert second == whole(model, video, "Where?")
    kept = session.ask("And?", keep_history=True, max_new_tokens=NEW)
    assert kept.text == whole(model, video, "What moved?", first.text, "Where?", second, "And?")
    assert session.video().kept == 54 and int(session.video().memory.mask.sum()) == BUDGET
    # All of the prompt: the video's states, and what the template writes around the question.
    words = model.collator.write([told("a", "What moved?")], generation=True)
    assert first.prompt_tokens == words.input_ids.shape[1]


def test_an_answer_comes_piece_by_piece(model: Any) -> None:
    session, pieces = Session(model), []
    session.set(video=noise(4))
    answer = session.ask("What?", max_new_tokens=NEW, on_text=pieces.append)
    assert "".join(pieces) == answer.text


def test_a_stream_is_read_clip_by_clip_and_answered(tmp_path: Path) -> None:
    model = tiny_teller(**STREAM)
    session = Session(model)
    session.set(video=write_square(tmp_path / "square.mp4"))
    assert session.video().streamed
    assert session.ask("What?", max_new_tokens=NEW).new_tokens <= NEW


def test_what_cannot_be_asked_is_named(model: Any) -> None:
    session = Session(model)
    with pytest.raises(InputError, match=r"there is no video to ask about; call set\(video=...\)"):
        session.ask("What?")
    with pytest.raises(InputError, match="this model has no 'image'"):
        session.set(image=noise(1)[0])
    session.set(video=noise(2))
    with pytest.raises(DataError, match="give a text, not blank"):
        session.ask(" ")
    with pytest.raises(InputError, match="this model has no 'watch'"):
        session.watch()


def test_every_question_of_a_file_is_answered_by_itself(model: Any) -> None:
    video = noise(7)
    talk = told(video, "What?", "it", "Where?", name="talk")
    other = told(video, "When?", name="other")
    done: list[int] = []
    lines = tell_samples(model, [talk, other], Generation(NEW), done.append)
    assert [line["id"] for line in lines] == ["talk#0", "talk#1", "other"]
    asked = ("What?", "Where?", "When?")
    assert [line["text"] for line in lines] == [whole(model, video, one) for one in asked]
    assert done == [1, 1]
    silent = told(video, name="silent")
    with pytest.raises(InputError, match="silent: nothing is asked about the video"):
        tell_samples(model, [silent], Generation(NEW))


def test_a_video_is_watched_through_the_domain_that_it_names() -> None:
    model = tiny_teller(by_domain={"adapters": {"rank": 2}, "router": None})
    sample = told(noise(5), "What?")
    (line,) = tell_samples(model, [replace(sample, group="news")], Generation(NEW))
    assert line["text"] == whole(model, sample.video, "What?")
    with pytest.raises(InputError, match="this model has parts for each domain"):
        tell_samples(model, [sample], Generation(NEW))


def test_one_video_of_two_domains_is_read_through_each() -> None:
    model = tiny_teller("llava", by_domain={"adapters": {"rank": 2}, "router": None})
    torch.manual_seed(3)
    for name, parameter in model.watcher.reading.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    talk = told(noise(9), "What?")
    samples = [replace(talk, identifier=name, group=name) for name in ("news", "sports", "sports")]
    alone = [tell_samples(model, [one], Generation(NEW))[0]["text"] for one in samples]
    assert alone[0] != alone[1]
    together = tell_samples(model, samples, Generation(NEW))
    assert [line["text"] for line in together] == alone
    batch = model.collator.collate(samples, generation=True)
    assert batch.videos is not None and batch.videos.asked.tolist() == [0, 1, 1]
    assert model.generate(batch, max_new_tokens=NEW) == alone


def test_a_question_of_a_file_keeps_what_the_system_says(model: Any) -> None:
    talk = told(noise(6), "What?")
    talk = replace(talk, turns=(Turn("system", ("Be brief.",)), *talk.turns))
    (line,) = tell_samples(model, [talk], Generation(NEW))
    batch = model.collator.collate([talk], generation=True)
    assert line["prompt_tokens"] == int(batch.attention_mask.sum())
    assert line["text"] == model.generate(batch, max_new_tokens=NEW)[0]


def test_a_conversation_with_a_video_part_is_answered(model: Any) -> None:
    video = noise(5)
    shown = {"type": "video", "video": video}
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [shown, {"type": "text", "text": "What?"}]},
    ]
    talk = told(video, "What?")
    talk = replace(talk, turns=(Turn("system", ("Be brief.",)), *talk.turns))
    batch = model.collator.collate([talk], generation=True)
    assert model.chat(asked, max_new_tokens=NEW) == model.generate(batch, max_new_tokens=NEW)[0]
    with pytest.raises(DataError, match=r"0 video\(s\) in the messages \[\]; put one part"):
        model.chat([{"role": "user", "content": "What?"}])
    with pytest.raises(DataError, match=r"2 video\(s\) in the messages \[0, 0\]"):
        model.chat([{"role": "user", "content": [shown, shown, {"type": "text", "text": "?"}]}])
