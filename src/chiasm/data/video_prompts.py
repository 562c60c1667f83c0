"""Conversations about videos as a host reads them: placeholders for states, and the videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from chiasm.core.batch import IGNORE, Batch
from chiasm.core.errors import DataError, InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import PreparedImages
from chiasm.core.samples import Sample
from chiasm.data.collate import Side, pad_prompts
from chiasm.data.conversation import name_of
from chiasm.data.fitting import OverLong, Row, Tally, fit_rows
from chiasm.data.prompts import Prompter
from chiasm.data.video_collate import VideoCollator

_STAND_IN = Image.new("RGB", (1, 1))
"""A video stands in the conversation as a picture would; nobody looks at it."""


@dataclass(frozen=True)
class VideoPlaces:
    """What a host's preparer would say of a video: how many placeholders it takes.

    Attributes:
        budget: Most states of a video.
    """

    budget: int

    def prepare(self, images: Sequence[Image.Image]) -> PreparedImages:
        """Return `budget` placeholders for each stand-in."""
        grid = ImageGeometry.from_resize((1, 1), (1, self.budget), (1, 1))
        return PreparedImages({}, (grid,) * len(images), (self.budget,) * len(images))


class VideoPromptCollator:
    """Turns conversations about videos into a batch for a host.

    The video opens the first user turn. Each row has as many placeholders as a video may have
    states; a model takes away what a short video leaves over. Rows that follow each other about the
    same video of the same domain share it (`VideoBatch.asked`), so that it is read once.

    Args:
        prompter: Renders the conversations.
        videos: Reads the videos.
        budget: Most states of a video, and so placeholders of a row.
        padding: Where short rows are filled when training; generation always pads on the left.
        max_length: Most tokens in a row, the whole budget included; None for no limit.
        over_long: What happens to a longer row: `error`, `drop` or `shorten_text`.

    Raises:
        InputError: A setting is out of its range.
    """

    def __init__(
        self,
        prompter: Prompter,
        videos: VideoCollator,
        *,
        budget: int,
        padding: Side = "right",
        max_length: int | None = None,
        over_long: OverLong = "error",
    ) -> None:
        if budget < 1:
            raise InputError(f"a budget of {budget} states for a video; give 1 or more")
        if over_long == "shrink_image":
            raise InputError(
                "over_long 'shrink_image' on conversations about videos, which have no picture to "
                "shrink; take 'error', 'drop' or 'shorten_text', or a smaller budget"
            )
        self.prompter = prompter
        self.videos = videos
        self.budget = budget
        self.padding: Side = padding
        self.max_length = max_length
        self.over_long: OverLong = over_long
        self.tally = Tally()

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate for training; see `collate`."""
        return self.collate(samples)

    def collate(self, samples: Sequence[Sample], generation: bool = False) -> Batch:
        """Collate samples.

        Args:
            samples: At least one, each with a video and no image.
            generation: Leave out the last assistant turn, end with the template's prompt for it,
                label nothing, pad on the left.

        Raises:
            DataError: A sample has no video, or images beside it; it is malformed or too long; or
                no row is left.
            MediaError: A video cannot be read.
        """
        text = self.write(samples, generation)
        sources: list[Sample] = []
        asked: list[int] = []
        for sample in text.samples:
            if not sources or not same_video(sources[-1], sample):
                # Only frames and times are read: what is asked stands in the prompt.
                sources.append(replace(sample, turns=(), segments=None, truth={}))
            asked.append(len(sources) - 1)
        found = self.videos(sources).videos
        assert found is not None
        rows = torch.tensor(asked, dtype=torch.long)
        videos = replace(found, asked=rows, answers=torch.full_like(rows, IGNORE))
        return replace(text, videos=videos)

    def write(self, samples: Sequence[Sample], generation: bool = False) -> Batch:
        """Collate conversations without their videos, which were read before; see `collate`."""
        if not samples:
            raise DataError("an empty list of samples; give at least one")
        fitted = fit_rows(
            [Row(_with_place(sample), (_STAND_IN,)) for sample in samples],
            self.prompter,
            VideoPlaces(self.budget),
            max_length=self.max_length,
            policy=self.over_long,
            tally=self.tally,
            generation=generation,
        )
        side: Side = "left" if generation else self.padding
        ids, mask, labels, types = pad_prompts(fitted.prompts, self.prompter.pad_id, side)
        return Batch(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            token_types=types,
            samples=tuple(row.sample for row in fitted.rows),
        )


def _with_place(sample: Sample) -> Sample:
    """Return a sample whose first user turn begins with the place of its video."""
    if sample.video is None:
        raise DataError(
            f"{name_of(sample)}: it has no video, and this model answers about one; give samples "
            "with a video"
        )
    if sample.images:
        raise DataError(
            f"{name_of(sample)}: {len(sample.images)} image(s) beside its video; this model reads "
            "the video alone, leave them out"
        )
    first = next((i for i, turn in enumerate(sample.turns) if turn.role == "user"), None)
    if first is None:
        raise DataError(f"{name_of(sample)}: no user turn asks about its video; add one")
    turns = list(sample.turns)
    turns[first] = replace(turns[first], parts=(0, *turns[first].parts))
    return replace(sample, turns=tuple(turns), images=(_STAND_IN,), phrases=(), pair=None)


def same_video(one: Sample, other: Sample) -> bool:
    """Whether a reading of one sample's video does for the other.

    That takes the same object, or paths of one name; and one domain, which a video may be read by.
    """
    video, further = one.video, other.video
    named = isinstance(video, str | Path) and isinstance(further, str | Path)
    same = video is further or (named and str(video) == str(further))
    return same and one.group == other.group
