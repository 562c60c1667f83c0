"""Samples of videos to a batch: frames or features, segments, questions, answers, domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import DataError
from chiasm.core.samples import Sample
from chiasm.data.conversation import name_of
from chiasm.data.feature_files import FEATURE_SUFFIXES, check_features, load_features
from chiasm.data.video import Decoder, open_video
from chiasm.data.video_captions import VideoCaptions
from chiasm.data.video_changing import ChangedVideo
from chiasm.data.video_sampling import AllSampling, Sampling, looked_at
from chiasm.data.video_words import NOT_CLOSED
from chiasm.data.vocabulary import PADDING, Vocabulary
from chiasm.data.world.motion_cells import MOTION_LABELS, label_motion
from chiasm.data.world.motion_render import MotionFrames


@dataclass(frozen=True)
class _Read:
    """What is read of one video: pixels uint8 (T, H, W, 3) or features float32 (T, width)."""

    values: NDArray[np.uint8] | NDArray[np.float32]
    times: NDArray[np.float64]
    duration: float
    indices: NDArray[np.int64]

    @property
    def is_features(self) -> bool:
        return self.values.ndim == 2


class VideoCollator:
    """Turns samples with videos into a batch; see `VideoBatch`.

    Each user turn is a question of its own, and the assistant's turn that follows is its answer;
    requests of `NOT_CLOSED` and those for captions are none. A sample without a question has one
    row without words.

    Args:
        vocabulary: The words of questions.
        answers: The closed set of answers, in lower case; empty where none are learned.
        actions: Labels of segments; empty where none are learned.
        domains: Names of domains (`Sample.group`); empty where they do not matter.
        sampling: Which frames are looked at.
        size: (height, width) that frames are scaled to; None keeps theirs, which must then agree.
        feature_rate: Features a second of a file of features, which has no times of its own.
        cells: (rows, columns) of dense labels of a world's frames; None gives none.
        captions: Finds captions; None where none are learned.
        decoder: Of video files, see `open_video`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        answers: Sequence[str] = (),
        actions: Sequence[str] = (),
        domains: Sequence[str] = (),
        sampling: Sampling | None = None,
        size: tuple[int, int] | None = None,
        feature_rate: float = 1.0,
        cells: tuple[int, int] | None = None,
        captions: VideoCaptions | None = None,
        decoder: Decoder = "pyav",
    ) -> None:
        self.vocabulary = vocabulary
        self.answers = {answer: place for place, answer in enumerate(answers)}
        self.actions = {label: place for place, label in enumerate(actions)}
        self.domains = {name: place for place, name in enumerate(domains)}
        self.sampling = sampling or AllSampling()
        self.size = size
        self.feature_rate = feature_rate
        self.cells = cells
        self.captions = captions
        self.decoder: Decoder = decoder
        self.requests = frozenset(NOT_CLOSED) | (captions.requests if captions else frozenset())

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate samples.

        Raises:
            DataError: There is no sample, one has no video, or an answer, a segment's label or a
                domain that is not in its list, or a caption that the model could not write; frames
                and features are mixed; what happens is told of a single frame.
            MediaError: A video cannot be read.
            InputError: A video does not fit the rule of sampling.
        """
        if not samples:
            raise DataError("an empty list of samples; give at least one")
        read = [self._read(sample) for sample in samples]
        featured = {one.is_features for one in read}
        if len(featured) > 1:
            raise DataError(
                "frames and features in one batch; give videos of one kind to a run, or encode "
                "them all"
            )
        questions = [
            (row, text, answer)
            for row, sample in enumerate(samples)
            for text, answer in self.questions(sample)
        ]
        self._check_lengths(samples, read)
        ids, mask = self._words([text for _, text, _ in questions])
        values = tuple(torch.from_numpy(one.values) for one in read)
        segments = [(row, segment) for row, s in enumerate(samples) for segment in s.segments or ()]
        captions = [(row, one) for row, s in enumerate(samples) for one in self._captions(s)]
        videos = VideoBatch(
            frames=() if True in featured else values,
            features=values if True in featured else (),
            times=tuple(torch.from_numpy(one.times).float() for one in read),
            durations=torch.tensor([one.duration for one in read], dtype=torch.float32),
            segments=torch.tensor([[s.start, s.end] for _, s in segments]).reshape(-1, 2).float(),
            segment_rows=torch.tensor([row for row, _ in segments], dtype=torch.long),
            segment_labels=_longs(
                self._place("action", self.actions, s.label, samples[row]) for row, s in segments
            ),
            segments_known=torch.tensor([s.segments is not None for s in samples]),
            asked=torch.tensor([row for row, _, _ in questions], dtype=torch.long),
            answers=_longs(
                self._place("answer", self.answers, answer, samples[row])
                for row, _, answer in questions
            ),
            domains=_longs(
                self._place("domain", self.domains, s.group or None, s) for s in samples
            ),
            captions=tuple(caption for _, caption in captions),
            captioned=_longs(row for row, _ in captions),
        )
        return Batch(
            input_ids=ids,
            attention_mask=mask,
            labels=torch.full_like(ids, IGNORE),
            token_types=torch.zeros_like(ids),
            targets=self._dense(samples, read),
            samples=tuple(samples),
            videos=videos,
        )

    def questions(self, sample: Sample) -> list[tuple[str, str | None]]:
        """Return the questions of a sample with their answers, None where nobody answered.

        A request for all that happens, or for a caption, is none: what it is answered with is in no
        closed set. A sample without a question has one without words.
        """
        found: list[tuple[str, str | None]] = []
        for turn, following in zip(sample.turns, (*sample.turns[1:], None), strict=False):
            if turn.role != "user" or turn.text.strip() in self.requests:
                continue
            answered = following is not None and following.role == "assistant"
            answer = following.text.strip().lower() if answered and following is not None else None
            found.append((turn.text, answer))
        return found or [("", None)]

    def _captions(self, sample: Sample) -> list[Tensor]:
        return [] if self.captions is None else self.captions.read(sample)

    def _read(self, sample: Sample) -> _Read:
        source = sample.video
        if source is None:
            raise DataError(f"{name_of(sample)}: it has no video; give samples with one")
        features = None
        if isinstance(source, str | Path) and Path(source).suffix.lower() in FEATURE_SUFFIXES:
            features = load_features(Path(source))
        elif isinstance(source, np.ndarray) and source.ndim == 2:
            features = check_features(source)
        if features is not None:
            times = np.arange(len(features)) / self.feature_rate
            duration = len(features) / self.feature_rate
            return _Read(features, times, duration, np.arange(len(features)))
        if isinstance(source, ChangedVideo):
            video = source.open(self.size)
        else:
            video = open_video(source, size=self.size, decoder=self.decoder)
        clip = video.sample(self.sampling)
        times = looked_at(video, clip.indices)
        return _Read(clip.frames, times, video.duration, clip.indices)

    def _check_lengths(self, samples: Sequence[Sample], read: Sequence[_Read]) -> None:
        short = [
            name_of(sample)
            for sample, one in zip(samples, read, strict=True)
            if self.actions and sample.segments is not None and len(one.times) < 2
        ]
        if short:
            raise DataError(
                f"{short[0]}: one frame of its video is looked at, and what happens takes two or "
                "more; sample more frames, or leave the sample out"
            )

    def _words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask int64 (Q, longest), at least one wide."""
        rows = [self.vocabulary.encode(text) for text in texts]
        longest = max(1, *map(len, rows))
        ids = torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows])
        return ids, (ids != PADDING).long()

    def _place(self, what: str, table: Mapping[str, int], name: str | None, sample: Sample) -> int:
        if name is None or not table:
            return IGNORE
        if name not in table:
            known = ", ".join(list(table)[:12])
            raise DataError(
                f"{name_of(sample)}: the {what} {name!r} is none of the {len(table)} that the "
                f"model knows ({known}, ...); add it to the recipe's list, or leave the sample out"
            )
        return table[name]

    def _dense(self, samples: Sequence[Sample], read: Sequence[_Read]) -> dict[str, Tensor]:
        """Return labels int64 (all frames, rows, columns) by name; none unless all are a world's.

        A video of a world says itself what its cells show.
        """
        worlds = [sample.video for sample in samples if isinstance(sample.video, MotionFrames)]
        if self.cells is None or len(worlds) < len(samples):
            return {}
        found = [
            label_motion(world.timeline, one.indices.tolist(), *self.cells)
            for world, one in zip(worlds, read, strict=True)
        ]
        return {
            f"cells.{name}": torch.from_numpy(np.concatenate([labels[name] for labels in found]))
            for name in MOTION_LABELS
        }


def _longs(values: object) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)  # type: ignore[call-overload]
