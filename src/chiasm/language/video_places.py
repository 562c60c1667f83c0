"""Where the states of a video stand in a prompt: as many places as states, by time.

A prompt is written with as many placeholders as the budget allows; a short video leaves some over,
and they are taken away. What is left is one placeholder a state, in the order of time. A host that
counts its tokens so knows the order. One that rotates by time, row and column (M-RoPE) is told all
three: the states of a moment share its time, and each has the row and column of its cell, as the
frames of a video have in Qwen2-VL (arXiv:2409.12191, section 2.1). The text after the video goes on
from its largest position, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, TEXT_TOKEN, Batch
from chiasm.core.config import lookup
from chiasm.core.errors import PlaceholderError
from chiasm.core.tokens import VisualTokens
from chiasm.language.host import Host
from chiasm.language.hosts.protocol import Extras
from chiasm.language.splice import Spliced, pads_on_the_left


def _nothing(counts: Sequence[int], features: Tensor) -> Extras:
    return {}


def _no_deep_features(counts: Sequence[int], features: Tensor) -> Extras:
    return {"deepstack": ()}


def _one_tile(counts: Sequence[int], features: Tensor) -> Extras:
    empty = tuple(features[0, :0] for _ in counts)
    order = tuple(torch.arange(count, device=features.device) for count in counts)
    return {"thumbnail": (empty,), "order": (order,)}


VIDEO_EXTRAS: dict[str, Callable[[Sequence[int], Tensor], Extras]] = {
    "deepseek_vl": _nothing,
    "internvl": _one_tile,
    "janus": _nothing,
    "llava": _nothing,
    "qwen2_5_vl": _nothing,
    "qwen3_vl": _no_deep_features,
}
"""By family, what is written beside the states: nothing that a picture would have.

The others write a picture in more than its cells (LLaVA-NeXT closes rows, the hybrid of DeepSeek-VL
reads it twice), and a video has none of that.
"""


def check_video_host(host: Host) -> None:
    """Check that a host has a place for a video.

    Raises:
        UnknownNameError: Its family writes pictures in a way that a video cannot take.
    """
    lookup(VIDEO_EXTRAS, host.adapter.model_type, "host family that can read videos")


def in_order_of_time(states: VisualTokens) -> VisualTokens:
    """Return the tokens of each row by time, those of one moment as they were; padding last."""
    late = states.times.masked_fill(~states.mask, torch.inf)
    order = late.argsort(dim=1, stable=True)

    def take(values: Tensor) -> Tensor:
        index = order if values.dim() == 2 else order[..., None].expand(-1, -1, values.shape[2])
        return values.gather(1, index)

    held = order.argsort(dim=1).gather(1, states.sources.clamp(min=0))
    return replace(
        states,
        features=take(states.features),
        cells=take(states.cells),
        sizes=take(states.sizes),
        sources=torch.where(states.sources < 0, -1, held),
        mask=take(states.mask),
        times=take(states.times),
    )


def write_video(host: Host, batch: Batch, states: VisualTokens, features: Tensor) -> Spliced:
    """Write the states of videos over their placeholders.

    Args:
        host: The host.
        batch: Text with one video a row, and at least as many placeholders as the video has states.
        states: One row a row of the batch, in order of time.
        features: float (B, N, `host.token_width`), what the host reads of each state.

    Returns:
        What the host reads: exactly one visual token a state.

    Raises:
        PlaceholderError: A video has more states than its row has placeholders.
        UnknownNameError: The host has no place for a video.
    """
    extras = lookup(VIDEO_EXTRAS, host.adapter.model_type, "host family that can read videos")
    counts = states.mask.sum(1).tolist()
    fitted = fit_placeholders(batch, counts, host.pad_id)
    places = torch.arange(states.mask.shape[1], device=states.mask.device)
    tokens = replace(
        states,
        features=features.to(host.dtype),
        sizes=states.mask.long(),
        sources=torch.where(states.mask, places, -1),
    )
    spliced = host.splice(fitted, tokens, extras(counts, tokens.features))
    if spliced.position_ids.dim() == 2:
        return spliced
    return replace(spliced, position_ids=_positions(spliced, states, _ticks(host)))


def fit_placeholders(batch: Batch, counts: Sequence[int], pad_id: int) -> Batch:
    """Take away the placeholders that videos leave over; every row then shows one "image".

    Args:
        batch: With placeholders in one piece a row.
        counts: For each row how many of its placeholders stay.
        pad_id: Fills rows that are now shorter than others.

    Raises:
        PlaceholderError: A row has fewer placeholders than states.
    """
    written = (batch.token_types == IMAGE_TOKEN).sum(1).tolist()
    for row, (found, count) in enumerate(zip(written, counts, strict=True)):
        if count > found:
            name = f" ({batch.samples[row].identifier})" if batch.samples else ""
            raise PlaceholderError(
                f"row {row}{name}: {count} states of its video for {found} placeholders; collate "
                f"with a budget of at least {count}, or let the model keep at most {found}"
            )
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    if written == list(counts):
        return replace(batch, image_rows=rows)
    nth = (batch.token_types == IMAGE_TOKEN).long().cumsum(1)
    limits = torch.tensor(counts, device=nth.device)[:, None]
    keep = (batch.attention_mask == 1) & ((batch.token_types != IMAGE_TOKEN) | (nth <= limits))
    longest = int(keep.sum(1).max())
    on_the_left = pads_on_the_left(batch.attention_mask)

    def take(values: Tensor, fill: int) -> Tensor:
        kept = values.new_full((len(values), longest), fill)
        for row, (own, real) in enumerate(zip(values, keep, strict=True)):
            found = own[real]
            start = longest - len(found) if on_the_left else 0
            kept[row, start : start + len(found)] = found
        return kept

    return replace(
        batch,
        input_ids=take(batch.input_ids, pad_id),
        attention_mask=take(batch.attention_mask, 0),
        labels=take(batch.labels, IGNORE),
        token_types=take(batch.token_types, TEXT_TOKEN),
        image_rows=rows,
    )


def _ticks(host: Host) -> float | None:
    """Return the positions of a second, where the family counts time by the clock."""
    if host.adapter.model_type != "qwen2_5_vl":
        return None
    return float(host.model.config.vision_config.tokens_per_second)


def _positions(spliced: Spliced, states: VisualTokens, ticks: float | None) -> Tensor:
    """Return int64 (3, B, S): time, row and column of states; text goes on after the largest."""
    positions = spliced.position_ids.clone()
    for row, types in enumerate(spliced.token_types):
        shown = (types == IMAGE_TOKEN).nonzero().flatten()
        first, end = int(shown[0]), int(shown[-1]) + 1
        own = _offsets(states, row, ticks).to(positions.device)
        start = positions[0, row, first]
        positions[:, row, shown] = start + own
        rest = (spliced.attention_mask[row] == 1).clone()
        rest[:end] = False
        following = torch.arange(1, int(rest.sum()) + 1, device=positions.device)
        positions[:, row, rest] = positions[:, row, shown].max() + following
    return positions


def _offsets(states: VisualTokens, row: int, ticks: float | None) -> Tensor:
    """Return int64 (3, states of the row), from 0.

    Without ticks, a clock, time goes from one moment to the next.
    """
    real, geometry = states.mask[row], states.geometries[row]
    times, cells = states.times[row][real], states.cells[row][real]
    if ticks is None:
        moments = times.unique(return_inverse=True)[1]
    else:
        moments = (times * ticks).floor().long()
    middles = torch.stack([cells[:, 0] + cells[:, 2], cells[:, 1] + cells[:, 3]], -1) / 2
    columns, rows = geometry.to_cells(middles).floor().long().unbind(-1)
    return torch.stack([moments, rows, columns])
