"""Rows that are longer than allowed: refuse, drop, shrink the images, or shorten the text.

No policy cuts tokens. Images shrink as pictures and are prepared again, so that placeholders and
features always agree; text is shortened as text and rendered again; answers, and turns in which a
phrase stands that means pixels, are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from PIL import Image

from chiasm.core.errors import ChiasmError, DataError, MediaError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import ImagePreparer, PreparedImages
from chiasm.core.samples import Sample, Turn
from chiasm.data.conversation import name_of
from chiasm.data.prompts import Prompt, Prompter

OverLong = Literal["error", "drop", "shrink_image", "shorten_text"]
OVER_LONG: dict[str, str] = {
    "error": "stop, and name the sample",
    "drop": "leave the row out of the batch",
    "shrink_image": "make the row's images smaller until it fits",
    "shorten_text": "take words out of the middle of the longest user or system text",
}
"""Policy to what it does."""

GAP = " ... "
"""Stands where `shorten_text` took words out."""

ATTEMPTS = 12
"""How often a row is shrunk or shortened before it is an error."""

WORKERS = 256
"""Most loader processes that count separately."""


@dataclass(frozen=True)
class Row:
    """A sample with its decoded images.

    Attributes:
        sample: The sample.
        images: Its images as RGB, in original pixels.
        shrink: What the images are scaled by before the host's preparer sees them.
    """

    sample: Sample
    images: tuple[Image.Image, ...]
    shrink: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """Rows that fit, with their prompts and prepared images (all rows together)."""

    rows: list[Row]
    prompts: list[Prompt]
    prepared: PreparedImages


class Tally:
    """Counts of what was done to over-long rows, summed over loader processes.

    The counts live in shared memory, one line a process, so that a copy handed to a loader's
    worker reports back without a lock.
    """

    NAMES = ("dropped", "images_shrunk", "texts_shortened")

    def __init__(self) -> None:
        self._counts = torch.zeros(1 + WORKERS, len(self.NAMES), dtype=torch.long).share_memory_()

    def add(self, name: str, count: int = 1) -> None:
        """Count `count` more of `name`."""
        worker = torch.utils.data.get_worker_info()
        line = 0 if worker is None else 1 + worker.id % WORKERS
        self._counts[line, self.NAMES.index(name)] += count

    def totals(self) -> dict[str, int]:
        """Return the counts by name, over all processes."""
        return dict(zip(self.NAMES, self._counts.sum(0).tolist(), strict=True))


def fit_rows(
    rows: Sequence[Row],
    prompter: Prompter,
    preparer: ImagePreparer,
    *,
    max_length: int | None,
    policy: OverLong,
    tally: Tally,
    generation: bool = False,
) -> Fitted:
    """Prepare and render rows, and apply the policy to those that are too long.

    Args:
        rows: Samples with decoded images.
        prompter: Renders the conversations.
        preparer: Prepares the images of all rows at once.
        max_length: Most tokens in a row; None for no limit.
        policy: One of `OVER_LONG`.
        tally: Receives the counts.
        generation: Render prompts for generation.

    Raises:
        DataError: A row is too long and the policy is `error` or cannot make it fit, or every row
            was dropped.
        MediaError: The preparer refuses an image; the message names its sample.
    """
    fitted = _render(rows, prompter, preparer, generation)
    if max_length is None or all(len(prompt) <= max_length for prompt in fitted.prompts):
        return fitted
    kept: list[Row] = []
    for row, prompt in zip(fitted.rows, fitted.prompts, strict=True):
        if len(prompt) <= max_length:
            kept.append(row)
        elif policy == "error":
            raise DataError(
                f"{_too_long(row.sample, prompt, max_length)}; raise max_length, shorten the "
                "sample, or set over_long to drop, shrink_image or shorten_text"
            )
        elif policy == "drop":
            tally.add("dropped")
        elif policy == "shrink_image":
            kept.append(_shrunk(row, prompt, prompter, preparer, max_length, generation))
            tally.add("images_shrunk", len(row.images))
        else:
            kept.append(_shortened(row, prompt, prompter, preparer, max_length, generation))
            tally.add("texts_shortened")
    if not kept:
        raise DataError(
            f"every row of the batch has more than {max_length} tokens and was dropped, the first "
            f"is {name_of(rows[0].sample)}; raise max_length, or remove what `chiasm data check "
            "--max-length` lists"
        )
    return _render(kept, prompter, preparer, generation)


def _too_long(sample: Sample, prompt: Prompt, max_length: int) -> str:
    visual = sum(stop - start for start, stop in prompt.image_spans)
    return (
        f"{name_of(sample)}: {len(prompt)} tokens ({visual} of them visual) where at most "
        f"{max_length} are allowed"
    )


def _render(
    rows: Sequence[Row], prompter: Prompter, preparer: ImagePreparer, generation: bool
) -> Fitted:
    prepared = _prepare(rows, preparer)
    geometries = list(prepared.geometries)
    prompts, first = [], 0
    for row in rows:
        last = first + len(row.images)
        counts = prepared.token_counts[first:last]
        prompts.append(prompter.render(row.sample, counts, add_generation_prompt=generation))
        geometries[first:last] = map(_to_original, geometries[first:last], row.images)
        first = last
    return Fitted(list(rows), prompts, replace(prepared, geometries=tuple(geometries)))


def _prepare(rows: Sequence[Row], preparer: ImagePreparer) -> PreparedImages:
    """Prepare the images of all rows at once.

    Raises:
        MediaError: The preparer refuses an image; the message names its sample.
    """
    try:
        return preparer.prepare([image for row in rows for image in _resized(row)])
    except ChiasmError:
        for row in filter(lambda row: row.images, rows):
            try:
                preparer.prepare(_resized(row))
            except ChiasmError as error:
                raise MediaError(f"{name_of(row.sample)}: {error}") from error
        raise


def _resized(row: Row) -> list[Image.Image]:
    return [_resize(image, row.shrink) for image in row.images]


def _resize(image: Image.Image, shrink: float) -> Image.Image:
    if shrink == 1.0:
        return image
    size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _to_original(geometry: ImageGeometry, image: Image.Image) -> ImageGeometry:
    """Describe a grid over a shrunken image in the pixels of the original one."""
    if (geometry.original_height, geometry.original_width) == (image.height, image.width):
        return geometry
    return replace(
        geometry,
        original_height=image.height,
        original_width=image.width,
        scale_x=geometry.scale_x * geometry.original_width / image.width,
        scale_y=geometry.scale_y * geometry.original_height / image.height,
    )


def _shrunk(
    row: Row,
    prompt: Prompt,
    prompter: Prompter,
    preparer: ImagePreparer,
    max_length: int,
    generation: bool,
) -> Row:
    """Scale the images of a row until it fits."""
    shrink, length = 1.0, len(prompt)
    visual = sum(stop - start for start, stop in prompt.image_spans)
    room = max_length - (length - visual)
    for _ in range(ATTEMPTS):
        if room < len(row.images) or not row.images:
            break
        shrink *= min(0.95, math.sqrt(room / visual))
        candidate = replace(row, shrink=shrink)
        prompt = _render([candidate], prompter, preparer, generation).prompts[0]
        if len(prompt) <= max_length:
            return candidate
        visual = sum(stop - start for start, stop in prompt.image_spans)
    raise DataError(
        f"{_too_long(row.sample, prompt, max_length)}, even with its images at {shrink:.3f} of "
        "their size; raise max_length, shorten the text, or set over_long to drop"
    )


def _shortened(
    row: Row,
    prompt: Prompt,
    prompter: Prompter,
    preparer: ImagePreparer,
    max_length: int,
    generation: bool,
) -> Row:
    """Take words out of the longest user or system texts of a row until it fits."""
    for _ in range(ATTEMPTS):
        sample = _without_middle(row.sample, prompter, len(prompt) - max_length)
        if sample is None:
            break
        row = replace(row, sample=sample)
        prompt = _render([row], prompter, preparer, generation).prompts[0]
        if len(prompt) <= max_length:
            return row
    raise DataError(
        f"{_too_long(row.sample, prompt, max_length)}, even with its user and system texts "
        "shortened (but for turns with phrases that mean pixels); raise max_length, or set "
        "over_long to drop or shrink_image"
    )


def _without_middle(sample: Sample, prompter: Prompter, excess: int) -> Sample | None:
    """Remove about `excess` tokens from the longest user or system text; None when none is left."""
    pointing = {phrase.turn for phrase in sample.phrases}
    longest, place = 0, (0, 0)
    spans: list[tuple[int, int]] = []
    for index, turn in enumerate(sample.turns):
        for position, part in enumerate(turn.parts):
            if turn.role == "assistant" or index in pointing or not isinstance(part, str):
                continue
            found = prompter.token_spans(part)
            if len(found) > longest:
                longest, place, spans = len(found), (index, position), found
    gap = len(prompter.tokenizer(GAP, add_special_tokens=False)["input_ids"])
    # One token stays at each end; removing no more than the gap adds would not get shorter.
    removed = min(excess + gap, longest - 2)
    if removed <= gap:
        return None
    turn = sample.turns[place[0]]
    text = turn.parts[place[1]]
    assert isinstance(text, str)
    first = (longest - removed) // 2
    shorter = text[: spans[first][0]] + GAP + text[spans[first + removed - 1][1] :]
    parts = (*turn.parts[: place[1]], shorter, *turn.parts[place[1] + 1 :])
    return replace(sample, turns=_with_turn(sample.turns, place[0], replace(turn, parts=parts)))


def _with_turn(turns: tuple[Turn, ...], index: int, turn: Turn) -> tuple[Turn, ...]:
    return (*turns[:index], turn, *turns[index + 1 :])
