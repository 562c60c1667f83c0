"""The one place where visual tokens take the places of placeholders, checked image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, TEXT_TOKEN, Batch
from chiasm.core.errors import InputError, PlaceholderError
from chiasm.core.tokens import VisualTokens
from chiasm.language.hosts.protocol import Extras, HostAdapter, Written
from chiasm.language.merged import are_merged, check_mergeable, text_order


@dataclass(frozen=True)
class Spliced:
    """What the host reads: text and visual tokens of B rows, S positions each.

    Attributes:
        input_ids: int64 (B, S).
        attention_mask: int64 (B, S), or (B, past + S) when earlier positions lie in a cache.
        labels: int64 (B, S), not shifted.
        token_types: int64 (B, S).
        position_ids: int64 (B, S) or (3, B, S), as the family counts.
        sources: int64 (B, S), the position of the batch's text that each position came from, or -1
            for padding.
        mm_encoder_outputs: The visual tokens in the library's form, by modality.
        host_kwargs: What else the family's forward wants.
        image_lengths: For each image of the batch how many positions it takes.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    token_types: Tensor
    position_ids: Tensor
    sources: Tensor
    mm_encoder_outputs: Mapping[str, Any]
    host_kwargs: Mapping[str, Tensor]
    image_lengths: tuple[int, ...] = ()

    def following(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Spliced:
        """Return text that follows this, for a host whose cache already holds this.

        Args:
            input_ids: int64 (B, T), text tokens without placeholders.
            attention_mask: int64 (B, T), 1 for a real token, with padding on the right; None where
                all are real.

        Raises:
            InputError: A row of this ends in padding, so that nothing can follow it, or a row of
                the text is not real tokens followed by padding.
        """
        check_ends_real(self.attention_mask, "continuing from a cache")
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        _check_starts_real(real, input_ids)
        steps = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        return Spliced(
            input_ids=input_ids,
            attention_mask=torch.cat([self.attention_mask, real], dim=1),
            labels=torch.full_like(input_ids, IGNORE),
            token_types=torch.full_like(input_ids, TEXT_TOKEN),
            position_ids=(self.position_ids[..., -1:] + steps).masked_fill(real == 0, 0),
            sources=(self.sources[:, -1:] + steps).masked_fill(real == 0, -1),
            mm_encoder_outputs={},
            host_kwargs={},
        )


def _check_starts_real(attention_mask: Tensor, input_ids: Tensor) -> None:
    if attention_mask.shape != input_ids.shape:
        raise InputError(
            f"an attention mask {tuple(attention_mask.shape)} for tokens {tuple(input_ids.shape)}; "
            "give one value a token"
        )
    steps = attention_mask.diff(dim=1, prepend=torch.ones_like(attention_mask[:, :1]))
    wrong = ((steps > 0).any(1) | (attention_mask[:, :1] == 0).any(1)).nonzero().flatten().tolist()
    if wrong:
        raise InputError(
            f"rows {wrong} of the text that follows have padding before a token, or nothing else; "
            "pad on the right, after at least one token"
        )


def check_ends_real(attention_mask: Tensor, purpose: str) -> None:
    """Check that every row ends in a real token.

    Raises:
        InputError: A row ends in padding; the message names it.
    """
    ending = (attention_mask[:, -1] == 0).nonzero().flatten().tolist()
    if ending:
        raise InputError(
            f"rows {ending} end in padding, and {purpose} appends to the end; collate with padding "
            "on the left"
        )


def pads_on_the_left(attention_mask: Tensor) -> bool:
    """Whether rows that change their length are filled up on the left.

    So they are unless a row ends in padding. Where no row has any, nobody said, and a row that ends
    in a real token can be both scored and continued.

    Args:
        attention_mask: int64 (B, S), 1 for a real token.
    """
    return bool((attention_mask[:, -1] == 1).all())


def splice(
    batch: Batch,
    tokens: VisualTokens | None,
    extras: Extras,
    *,
    adapter: HostAdapter,
    model: Any,
    image_token_id: int,
    pad_id: int,
    tokens_per_cell: int = 1,
) -> Spliced:
    """Write visual tokens over their placeholders.

    Args:
        batch: Text with one placeholder a cell of each image.
        tokens: The tokens of the batch's images, in order; None when there are none. A token that
            stands for several cells takes the placeholder of the first.
        extras: What the host's `encode` returned beside its tokens.
        adapter: The host's family.
        model: The host's model; its parameters are not read.
        image_token_id: The placeholder.
        pad_id: Written where rows have to be filled up after repeats.
        tokens_per_cell: With k, each placeholder becomes k positions with the same position id.

    Raises:
        PlaceholderError: Placeholders and tokens of an image disagree.
        InputError: The tokens of an image are no whole number of cells, or are merged where the
            host writes more than cells.
    """
    _check_types(batch, image_token_id)
    rows = [] if tokens is None else tokens.rows()
    if len(rows) != len(batch.image_rows):
        raise PlaceholderError(
            f"{len(rows)} images have visual tokens, and the batch names the rows of "
            f"{len(batch.image_rows)}; pass the tokens of exactly the batch's images, in order"
        )
    written = Written((), (), {})
    if tokens is not None and are_merged(tokens):
        check_mergeable(extras, tokens_per_cell, adapter.model_type)
        orders, repeats = text_order(tokens)
        ordered = [row[order] for row, order in zip(rows, orders, strict=True)]
        written = replace(adapter.write(ordered, extras, 1), repeats=tuple(repeats))
    elif rows:
        written = adapter.write(rows, extras, tokens_per_cell)
    _check_images(batch, [len(repeats) for repeats in written.repeats], adapter.separated)
    positions = adapter.positions(
        model, batch.input_ids, batch.attention_mask, batch.token_types, batch.host_images
    )
    sources, real = _sources(batch, written)

    def take(values: Tensor, fill: int) -> Tensor:
        index = sources.clamp(min=0).expand(*values.shape[:-1], -1)
        return values.gather(-1, index).masked_fill(~real, fill)

    token_types = take(batch.token_types, TEXT_TOKEN)
    return Spliced(
        input_ids=take(batch.input_ids, pad_id),
        attention_mask=take(batch.attention_mask, 0),
        labels=take(batch.labels, IGNORE),
        token_types=token_types,
        position_ids=take(positions, 0),
        sources=sources,
        mm_encoder_outputs=written.mm_encoder_outputs,
        host_kwargs=adapter.model_kwargs(token_types, batch.host_images),
        image_lengths=tuple(len(features) for features in written.features),
    )


def _check_types(batch: Batch, image_token_id: int) -> None:
    """Check that token types and placeholders tell the same story."""
    placeholders = (batch.input_ids == image_token_id) & (batch.attention_mask == 1)
    wrong = (placeholders != (batch.token_types == IMAGE_TOKEN)).nonzero().tolist()
    if wrong:
        row, position = wrong[0]
        raise PlaceholderError(
            f"row {row}{_origin(batch, row)}, position {position}: token "
            f"{int(batch.input_ids[row, position])} with token type "
            f"{int(batch.token_types[row, position])} ({len(wrong)} such positions); the "
            f"placeholder {image_token_id}, and nothing else, has type {IMAGE_TOKEN}: without it "
            "the host counts image positions as text"
        )


def _check_images(batch: Batch, counts: Sequence[int], separated: bool) -> None:
    """Check for each image of each row that its placeholders are as many as its tokens."""
    owners = batch.image_rows.tolist()
    for row, types in enumerate(batch.token_types.tolist()):
        images = [index for index, owner in enumerate(owners) if owner == row]
        waiting = list(images)
        for run in _runs(types):
            left = run
            taken: list[int] = []
            # Images that touch share a run; its end is also the end of an image.
            while left and waiting and (not taken or not separated):
                image = waiting[0]
                if counts[image] > left:
                    break
                left -= counts[image]
                taken.append(waiting.pop(0))
            if not left:
                continue
            if taken and (separated or not waiting):
                _disagree(batch, row, images, taken[-1], counts[taken[-1]] + left, counts)
            if waiting:
                _disagree(batch, row, images, waiting[0], left, counts)
            raise PlaceholderError(
                f"row {row}{_origin(batch, row)}: {left} placeholders after the last of its "
                f"{len(images)} images, where 0 visual tokens wait; remove the placeholders or add "
                "the image"
            )
        if waiting:
            _disagree(batch, row, images, waiting[0], 0, counts)


def _disagree(
    batch: Batch, row: int, images: Sequence[int], image: int, found: int, counts: Sequence[int]
) -> None:
    raise PlaceholderError(
        f"row {row}{_origin(batch, row)}, image {images.index(image)} of the row: {found} "
        f"placeholders in the text, {counts[image]} visual tokens; write one placeholder a token "
        "of this image (was the text cut, or the image prepared at another size?)"
    )


def _origin(batch: Batch, row: int) -> str:
    return f" ({batch.samples[row].identifier})" if batch.samples else ""


def _runs(types: Sequence[int]) -> list[int]:
    """Return the lengths of the runs of image tokens, in order."""
    runs: list[int] = []
    before = TEXT_TOKEN
    for kind in types:
        if kind == IMAGE_TOKEN:
            if before == IMAGE_TOKEN:
                runs[-1] += 1
            else:
                runs.append(1)
        before = kind
    return runs


def _sources(batch: Batch, written: Written) -> tuple[Tensor, Tensor]:
    """Return int64 (B, S') where each position comes from (-1: padding), and bool (B, S')."""
    rows, length = batch.input_ids.shape
    device = batch.input_ids.device
    places = torch.arange(length, device=device)
    if all(bool((repeats == 1).all()) for repeats in written.repeats):
        real = batch.attention_mask == 1
        return torch.where(real, places.expand(rows, length), -1), real
    repeats = batch.attention_mask.clone()
    owners = batch.image_rows.tolist()
    for row in set(owners):
        own = [written.repeats[i] for i, owner in enumerate(owners) if owner == row]
        repeats[row, batch.token_types[row] == IMAGE_TOKEN] = torch.cat(own).to(repeats)
    expanded = [places.repeat_interleave(counts) for counts in repeats]
    longest = max(len(row) for row in expanded)
    on_the_left = pads_on_the_left(batch.attention_mask)
    sources = torch.full((rows, longest), -1, device=device)
    for index, row_sources in enumerate(expanded):
        start = longest - len(row_sources) if on_the_left else 0
        sources[index, start : start + len(row_sources)] = row_sources
    return sources, sources >= 0
