"""A second segment of visual tokens in what the host reads: the codes of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, TEXT_TOKEN
from chiasm.core.errors import InputError
from chiasm.language.hosts.mrope import text_positions
from chiasm.language.splice import Spliced

Place = Literal["before_text", "after_text"]


@dataclass(frozen=True)
class CodeSegment:
    """How codes are written into a row.

    Attributes:
        begin: The token before the codes; it predicts the first.
        end: The token after the codes, where text follows.
        placeholder: The token that the codes' vectors take the place of.
        pad: What fills rows.
        place: `before_text` (after the image, as HTFA orders it) or `after_text`.
    """

    begin: int
    end: int
    placeholder: int
    pad: int
    place: Place


@dataclass(frozen=True)
class WithCodes:
    """What the host reads when codes were written into its rows.

    Attributes:
        spliced: Text, visual tokens and codes.
        predicting: int64 (B, n), for each code the position whose state predicts it: the one before
            it.
    """

    spliced: Spliced
    predicting: Tensor


def write_codes(
    spliced: Spliced,
    vectors: Tensor,
    segment: CodeSegment,
    told: Sequence[Sequence[int]] = (),
    left: bool = False,
) -> WithCodes:
    """Write one segment of codes into each row.

    Positions are counted anew, as a decoder counts that knows one dimension; labels of the segment
    are `IGNORE`, so that the text's own loss stays as it was.

    Args:
        spliced: Rows with one image each.
        vectors: float (B, n, width), what the host reads for the codes; n may be 0, where only the
            token that begins is to be written.
        segment: How.
        told: For each row tokens of text that are written first, where codes come after the text.
        left: Fill rows on the left, for generation.

    Raises:
        InputError: A row has not exactly one image, or rows and vectors disagree.
    """
    rows = spliced.input_ids.shape[0]
    if len(spliced.image_lengths) != rows or vectors.shape[0] != rows:
        raise InputError(
            f"{rows} rows with {len(spliced.image_lengths)} images and the codes of "
            f"{vectors.shape[0]} pictures; give each row one image and one picture"
        )
    count = vectors.shape[1]
    middle = segment.place == "before_text"
    places = torch.arange(spliced.input_ids.shape[1], device=vectors.device)
    kept = [places[mask == 1] for mask in spliced.attention_mask]
    # The image's last token is followed by the one that closes it.
    cuts = [
        int((spliced.token_types[row][own] == IMAGE_TOKEN).nonzero().max()) + 2
        if middle
        else len(own)
        for row, own in enumerate(kept)
    ]
    text = [list(row) for row in told] or [[]] * rows
    ids = [
        [*said, segment.begin, *[segment.placeholder] * count, *[segment.end] * middle]
        for said in text
    ]
    types = [
        [*[TEXT_TOKEN] * (len(said) + 1), *[IMAGE_TOKEN] * count, *[TEXT_TOKEN] * middle]
        for said in text
    ]
    lengths = [len(own) + len(new) for own, new in zip(kept, ids, strict=True)]
    starts = [max(lengths) - length if left else 0 for length in lengths]

    def rebuild(values: Tensor, inserted: Sequence[Sequence[int]] | int, fill: int) -> Tensor:
        filled = values.new_full((rows, max(lengths)), fill)
        for row, (index, cut) in enumerate(zip(kept, cuts, strict=True)):
            new = [inserted] * len(ids[row]) if isinstance(inserted, int) else list(inserted[row])
            old = values[row]
            piece = torch.cat([old[index[:cut]], values.new_tensor(new), old[index[cut:]]])
            filled[row, starts[row] : starts[row] + len(piece)] = piece
        return filled

    mask = rebuild(spliced.attention_mask, 1, 0)
    begins = [s + c + len(said) for s, c, said in zip(starts, cuts, text, strict=True)]
    first = torch.tensor(begins, device=vectors.device)
    written = replace(
        spliced,
        input_ids=rebuild(spliced.input_ids, ids, segment.pad),
        attention_mask=mask,
        labels=rebuild(spliced.labels, IGNORE, IGNORE),
        token_types=rebuild(spliced.token_types, types, TEXT_TOKEN),
        position_ids=text_positions(mask),
        sources=rebuild(spliced.sources, -1, -1),
        mm_encoder_outputs=_with_vectors(spliced, vectors),
        image_lengths=tuple(size + count for size in spliced.image_lengths),
    )
    return WithCodes(written, first[:, None] + torch.arange(count, device=vectors.device))


def _with_vectors(spliced: Spliced, vectors: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    """Put each row's vectors after the tokens of its image, in the library's form."""
    seen = spliced.mm_encoder_outputs["image"].pooler_output
    rows = seen[0].split(list(spliced.image_lengths)) if isinstance(seen, Tensor) else seen
    both = [torch.cat([row, more.to(row)]) for row, more in zip(rows, vectors, strict=True)]
    return {"image": BaseModelOutputWithPooling(pooler_output=torch.cat(both)[None])}


def following_codes(spliced: Spliced, vectors: Tensor, segment: CodeSegment) -> Spliced:
    """Return one code a row that follows `spliced`, for a host whose cache already holds it.

    Args:
        spliced: What was read before.
        vectors: float (B, width).
        segment: How codes are written.
    """
    ids = torch.full((len(vectors), 1), segment.placeholder, device=vectors.device)
    after = spliced.following(ids)
    output = BaseModelOutputWithPooling(pooler_output=vectors[None])
    return replace(
        after,
        token_types=torch.full_like(ids, IMAGE_TOKEN),
        mm_encoder_outputs={"image": output},
    )


def drop_prefix(written: WithCodes, rows: Tensor) -> WithCodes:
    """Hide all that stands before the codes of some rows: what classifier-free guidance learns of.

    Args:
        written: Codes after the text.
        rows: bool (B,), True for a row whose codes are to be drawn from nothing.
    """
    spliced = written.spliced
    places = torch.arange(spliced.input_ids.shape[1], device=rows.device)
    hidden = rows[:, None] & (places < written.predicting[:, :1])
    mask = spliced.attention_mask.masked_fill(hidden, 0)
    return replace(
        written,
        spliced=replace(
            spliced,
            attention_mask=mask,
            labels=spliced.labels.masked_fill(hidden, IGNORE),
            position_ids=text_positions(mask),
        ),
    )


def states_at(hidden: Tensor, positions: Tensor) -> Tensor:
    """Return the states float (B, n, D) at int64 (B, n) of float (B, S, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
