"""What a model of long videos was shown, kept: read once, asked and watched many times.

A model whose layers see nothing of the future reads a file clip by clip: frames of one clip are in
memory at a time. Another one reads all sampled frames at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.core.batch import VideoBatch
from chiasm.core.errors import DataError, InputError
from chiasm.core.samples import FrameSource, Sample, VideoSource
from chiasm.core.tokens import VisualTokens
from chiasm.data.feature_files import FEATURE_SUFFIXES
from chiasm.data.media import local_path
from chiasm.data.video import open_video
from chiasm.data.video_sampling import looked_at
from chiasm.data.vocabulary import UNKNOWN
from chiasm.encoders.frames import FrameEncoder
from chiasm.encoders.video_features import VideoFeatures
from chiasm.inference.answers import Answer, Caption, Choice, Segment
from chiasm.inference.responding import Generation
from chiasm.inference.senses import Sensing, check_sense
from chiasm.models.long_video import LongVideo
from chiasm.models.probes import probing
from chiasm.models.video_language import VideoLanguage
from chiasm.models.video_states import frame_states, padded_times

LIKELIEST = 5
"""Answers that are told with their probabilities."""

VideoInput = VideoSource | NDArray[np.float32]
"""What can be shown: a path of a video file, a folder of frames or a file of features; an array
THWC uint8 RGB in [0, 255]; features float (frames, width); or something that makes frames."""


def as_watching(model: Sensing) -> LongVideo:
    """Return a model as one of long videos; of one that answers by a host, what watches for it.

    Raises:
        InputError: It has no sense `video`.
    """
    check_sense(model, "video")
    if isinstance(model, VideoLanguage):
        return model.watcher
    assert isinstance(model, LongVideo)
    return model


def name_video(video: object) -> str:
    """Return what messages and predictions call a video.

    Raises:
        InputError: It is none.
    """
    if isinstance(video, str | Path):
        return str(video)
    if isinstance(video, np.ndarray):
        return "video array" if video.ndim == 4 else "feature array"
    if isinstance(video, FrameSource):
        return type(video).__name__
    raise InputError(
        f"video is of type {type(video).__name__}; allowed: a path of a video, of a folder of "
        "frames or of a file of features, an array uint8 (frames, height, width, 3), or a source "
        "of frames"
    )


@dataclass(frozen=True, eq=False)
class ShownVideo:
    """What is kept of a video.

    Attributes:
        model: The model that was shown it.
        name: What messages call it.
        memory: The states that questions look at, one row.
        pooled: One state a frame for the head of actions, float (1, T, D); None without that head.
        times: When each sampled frame begins, float32 (T,), seconds.
        duration: Seconds.
        change: How much each sampled frame differs from the one before, float32 (T,), 0 for the
            first: mean grey levels of frames, or the distance of features.
        tokens: Tokens before compression, of all frames.
        kept: Tokens after it.
        streamed: Whether it was read clip by clip.
    """

    model: LongVideo
    name: str
    memory: VisualTokens
    pooled: Tensor | None
    times: Tensor
    duration: float
    change: Tensor
    tokens: int
    kept: int
    streamed: bool

    @classmethod
    def look(cls, model: LongVideo, video: Any, domain: str = "") -> ShownVideo:
        """Read a video.

        Args:
            model: The model.
            video: See `VideoInput`.
            domain: Of the video; read where the model does not find it itself, see `takes_domain`.

        Raises:
            InputError: It is no video, or not of the kind or length that the model reads; or its
                domain is needed and not given.
            DataError: The model does not know the domain.
            MediaError: A file cannot be read, is damaged or empty.
        """
        name = name_video(video)
        if not takes_domain(model):
            domain = ""
        elif not domain:
            raise InputError(
                f"{name}: this model has parts for each domain ({', '.join(model.domains)}) and no "
                "router that chooses; give the video's `domain`, beside it or in its record"
            )
        featured = _is_features(video)
        if featured != isinstance(model.reading.encoder, VideoFeatures):
            found, wanted = ("features", "frames") if featured else ("frames", "features")
            raise InputError(
                f"{name}: holds {found}, and this model reads {wanted}; give "
                + ("the video itself" if featured else "features of the encoder it was trained on")
            )
        with probing(model):
            if streams(model):
                return _stream(model, video, name)
            return _read_whole(model, video, name, domain)

    def ask(
        self,
        text: str,
        generation: Generation,
        keep_history: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer as `Session.ask`, with settings that a closed set of answers can follow.

        A request for a caption is answered with one, by a model that writes them.

        Raises:
            InputError: As for `answer`; the text is none, or there is something to sample, to stop
                at or to remember.
            DataError: As for `answer`.
        """
        if not isinstance(text, str):
            raise InputError(f"the question is of type {type(text).__name__}; allowed: a text")
        if keep_history or generation != Generation(generation.max_new_tokens):
            raise InputError(
                "this model chooses each answer out of a closed set; leave out keep_history, "
                "temperature, top_p and stop"
            )
        if self.wants_caption(text):
            answer = self.answer_with_caption(generation.max_new_tokens)
        else:
            answer = self.answer(text)
        if on_text is not None:
            on_text(answer.text)
        return answer

    def answer(self, text: str) -> Answer:
        """Answer a question out of the model's closed set.

        Raises:
            InputError: The model answers no questions, or the question is too long for it.
            DataError: The question has no word.
        """
        check_sense(self.model, "ask")
        head, vocabulary = self.model.answer_head, self.model.collator.vocabulary
        assert head is not None
        words = vocabulary.encode(text)
        if not words:
            raise DataError(f"the question {text!r} has no word; ask something")
        memory = self.memory
        ids = torch.tensor([words], device=memory.mask.device)
        with probing(self.model):
            asked = torch.zeros(1, dtype=torch.long, device=ids.device)
            scores = head(
                ids,
                torch.ones_like(ids, dtype=torch.bool),
                asked,
                memory.features,
                memory.mask,
                memory.sizes,
            )
        shares = scores[0].float().softmax(-1)
        best = shares.topk(min(LIKELIEST, len(self.model.answers)))
        likeliest = {
            self.model.answers[place]: share
            for place, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        }
        choice = Choice(likeliest, tuple(dict.fromkeys(vocabulary.unknown(text))))
        seen = int(memory.mask.sum())
        return Answer(text=next(iter(likeliest)), prompt_tokens=seen + len(words), choice=choice)

    def wants_caption(self, text: str) -> bool:
        """Whether a text asks for a caption, and the model writes captions."""
        words = self.model.collator.captions
        return words is not None and text.strip() in words.requests

    def answer_with_caption(self, limit: int | None = None) -> Answer:
        """Return the caption of the video as an answer; see `caption`."""
        written = self.caption(limit)
        return Answer(
            text=written.text,
            finish=written.finish,
            prompt_tokens=int(self.memory.mask.sum()),
            new_tokens=len(written.tokens),
            tokens=written.tokens,
            caption=written,
        )

    def caption(self, limit: int | None = None, beams: int = 1) -> Caption:
        """Write what happens in the video.

        Args:
            limit: Most words; None for as many as the model can write, which bounds it always.
            beams: 1 takes the likeliest word each time; more keep so many captions at once.

        Raises:
            InputError: The model writes no captions, or a number is below 1.
        """
        check_sense(self.model, "caption")
        head, words = self.model.caption_head, self.model.collator.captions
        assert head is not None and words is not None
        memory = self.memory
        with probing(self.model):
            (found,) = head.write(
                memory.features,
                memory.mask,
                limit=head.longest if limit is None else min(limit, head.longest),
                sizes=memory.sizes,
                beams=beams,
                never=(UNKNOWN,),
            )
        return Caption(
            text=words.vocabulary.decode(found.tokens),
            finish="stop" if found.finished else "length",
            score=found.score,
            tokens=found.tokens,
        )

    def segments(self) -> list[Segment]:
        """Return the actions that the model finds, from the highest score down.

        Raises:
            InputError: The model finds no actions, or looks at a single frame of the video.
        """
        check_sense(self.model, "watch")
        head, decoder = self.model.action_head, self.model.decoder
        assert head is not None and decoder is not None and self.pooled is not None
        if len(self.times) < 2:
            raise InputError(
                f"{self.name}: one frame of its {self.duration:g} s is looked at, and what happens "
                "takes two or more; give a longer video"
            )
        times = self.times.to(self.pooled.device)[None]
        with probing(self.model):
            mask = torch.ones(times.shape, dtype=torch.bool, device=times.device)
            named = head.predict(self.pooled, mask, times)
        (found,) = decoder.decode(named, torch.tensor([self.duration]))
        return [Segment(*segment) for segment in found.segments]


def show_video(model: Sensing, video: Any, domain: str | None) -> ShownVideo | None:
    """Read the video that a session was given, if any; arguments and errors as `ShownVideo.look`.

    Raises:
        InputError: A domain is told that nothing reads.
    """
    if domain is not None and (video is None or not takes_domain(as_watching(model))):
        raise InputError(
            f"domain {domain!r}: told of a video, to a model that has parts for each domain and no "
            "router; leave it out"
        )
    return None if video is None else ShownVideo.look(as_watching(model), video, domain or "")


def streams(model: LongVideo) -> bool:
    """Whether a model can read a video clip by clip: nothing in it looks at what comes later."""
    encoder, reader = model.reading.encoder, model.reading.reader
    alone = isinstance(encoder, FrameEncoder) and not encoder.future
    return alone and reader.causal and model.by_domain is None


def takes_domain(model: LongVideo) -> bool:
    """Whether each video must say its domain: the model differs by it and has no router."""
    return model.by_domain is not None and model.by_domain.router is None


def _is_features(video: Any) -> bool:
    if isinstance(video, str | Path):
        return Path(video).suffix.lower() in FEATURE_SUFFIXES
    return isinstance(video, np.ndarray) and video.ndim == 2


def _read_whole(model: LongVideo, video: Any, name: str, domain: str) -> ShownVideo:
    source = local_path(video) if isinstance(video, str | Path) else video
    batch = model.collator([Sample(identifier=name, turns=(), video=source, group=domain)])
    videos = batch.to(_device(model)).videos
    assert videos is not None
    _check_features(model, videos, name)
    states, _ = model.think(model.reading.encode(videos), videos)
    frames = (videos.frames or videos.features)[0]
    change = _change(frames, None)
    pooled = _pool(model, states, padded_times(videos.times))
    return ShownVideo(
        model=model,
        name=name,
        memory=model.reading.remember(states),
        pooled=pooled,
        times=videos.times[0].cpu(),
        duration=float(videos.durations[0]),
        change=change.cpu(),
        tokens=int(states.sizes.sum()),
        kept=int(states.mask.sum()),
        streamed=False,
    )


def _stream(model: LongVideo, video: Any, name: str) -> ShownVideo:
    """Read clip by clip; what is kept for each frame is one state and three numbers."""
    collator, reading, device = model.collator, model.reading, _device(model)
    opened = open_video(video, size=collator.size)
    chosen = collator.sampling.choose(opened)
    watched, before = reading.begin(), None
    pooled: list[Tensor] = []
    change: list[Tensor] = []
    tokens = kept = 0
    all_times, seen = torch.from_numpy(looked_at(opened, chosen)).float(), 0
    for clip in opened.pieces(chosen, reading.clip):
        frames = torch.from_numpy(clip.frames).to(device)
        times = all_times[seen : seen + len(clip)].to(device)
        seen += len(clip)
        states, watched = reading.watch(frames, times, watched)
        one = _pool(model, states, times[None])
        pooled += [] if one is None else [one]
        change.append(_change(frames, before).cpu())
        before = frames[-1:]
        tokens, kept = tokens + int(states.sizes.sum()), kept + int(states.mask.sum())
    assert watched.memory is not None
    return ShownVideo(
        model=model,
        name=name,
        memory=watched.memory,
        pooled=torch.cat(pooled, 1) if pooled else None,
        times=all_times,
        duration=opened.duration,
        change=torch.cat(change),
        tokens=tokens,
        kept=kept,
        streamed=True,
    )


def _check_features(model: LongVideo, videos: VideoBatch, name: str) -> None:
    encoder = model.reading.encoder
    if isinstance(encoder, VideoFeatures) and videos.features[0].shape[1] != encoder.features:
        frames, width = videos.features[0].shape
        raise InputError(
            f"{name}: {frames} frames of {width} features, and this model reads "
            f"{encoder.features} a frame; encode the video with the encoder it was trained on"
        )


def _pool(model: LongVideo, states: VisualTokens, times: Tensor) -> Tensor | None:
    """Return one state a frame, float (1, T, D), as the head of actions reads them."""
    if model.frame_pool is None:
        return None
    pooled: Tensor = model.frame_pool(frame_states(states, times).features)
    return pooled


def _change(frames: Tensor, before: Tensor | None) -> Tensor:
    """Return how much frames (T, ...) differ from the ones before them, float32 (T,)."""
    first = frames[:1] if before is None else before
    found = []
    # Frame by frame: the difference of all at once would take four times their room.
    for one, other in zip([*first, *frames[:-1]], frames, strict=True):
        difference = other.float() - one.float()
        found.append(difference.abs().mean() if difference.ndim > 1 else difference.norm())
    return torch.stack(found)


def _device(model: LongVideo) -> torch.device:
    return next(model.parameters()).device
