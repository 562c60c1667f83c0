"""Codes of pictures, drawn one after another by a host that can draw."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor
from transformers import DynamicCache

from chiasm.core.errors import InputError
from chiasm.language.code_segment import CodeSegment, following_codes
from chiasm.language.host import Host
from chiasm.language.hosts.mrope import text_positions
from chiasm.language.painter import Painter, choose_codes
from chiasm.language.row_draws import check_seed, row_generators
from chiasm.language.splice import Spliced, check_ends_real


def check_drawing(temperature: float, top_k: int, guidance: float, seed: int | None = None) -> None:
    """Check the settings of drawing.

    Raises:
        InputError: One is out of range.
    """
    # Written so that what is not a number is out of range too.
    if not isinstance(temperature, Real) or not 0 <= temperature < math.inf:
        raise InputError(
            f"temperature is {temperature!r}; it must be 0 (greedy) or above (sampling)"
        )
    if not isinstance(top_k, int) or top_k < 0:
        raise InputError(f"top_k is {top_k!r}; it must be 0 (all codes) or a whole number above")
    if not isinstance(guidance, Real) or not 1 <= guidance < math.inf:
        raise InputError(f"guidance is {guidance!r}; it must be 1 (none) or above")
    check_seed(seed)


@torch.no_grad()
def draw_codes(
    host: Host,
    painter: Painter,
    prompt: Spliced,
    segment: CodeSegment,
    *,
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    guidance: float = 1.0,
    seed: int | None = None,
) -> Tensor:
    """Draw the codes of one picture a row.

    With guidance g above 1 every row is also read without what stands before the codes, and scores
    are those without plus g times the difference (Ho and Salimans, 2022, arXiv:2207.12598, as Janus
    uses it). It needs a model that was trained with prefixes left out.

    Args:
        host: Reads.
        painter: Its part that draws.
        prompt: Rows filled on the left that end in `segment.begin`.
        segment: How codes are written.
        count: Codes of a picture.
        temperature: 0 takes the likeliest code.
        top_k: Draws among so many of the likeliest; 0 among all.
        guidance: 1 for none.
        seed: Of the draws, each row's own: what else is in the batch changes nothing of a row; the
            global generator for all if None.

    Returns:
        int64 (B, count).

    Raises:
        InputError: A setting is out of range, or a row ends in padding.
    """
    check_drawing(temperature, top_k, guidance, seed)
    check_ends_real(prompt.attention_mask, "drawing")
    rows = prompt.input_ids.shape[0]
    generators = row_generators(seed, rows, prompt.input_ids.device)
    current = prompt if guidance == 1 else _with_blank_rows(prompt)
    past = DynamicCache()
    drawn: list[Tensor] = []
    while True:
        scores = painter.score(host.read(current, past)[:, -1])
        if guidance != 1:
            told, blank = scores[:rows], scores[rows:]
            scores = blank + guidance * (told - blank)
        codes = choose_codes(scores, temperature=temperature, top_k=top_k, generators=generators)
        drawn.append(codes)
        if len(drawn) == count:
            return torch.stack(drawn, dim=1)
        vectors = painter.embed(codes[:, None])[:, 0]
        both = vectors if guidance == 1 else torch.cat([vectors, vectors])
        current = following_codes(current, both, segment)


def _with_blank_rows(prompt: Spliced) -> Spliced:
    """Add to each row one that sees nothing but the token that begins the codes."""
    blank = torch.zeros_like(prompt.attention_mask)
    blank[:, -1] = 1
    seen = prompt.mm_encoder_outputs["image"].pooler_output

    def twice(values: Tensor, dim: int = 0) -> Tensor:
        return torch.cat([values, values], dim=dim)

    output = replace(prompt.mm_encoder_outputs["image"], pooler_output=twice(seen, dim=1))
    return replace(
        prompt,
        input_ids=twice(prompt.input_ids),
        attention_mask=torch.cat([prompt.attention_mask, blank]),
        labels=twice(prompt.labels),
        token_types=twice(prompt.token_types),
        position_ids=torch.cat([prompt.position_ids, text_positions(blank)]),
        sources=twice(prompt.sources),
        mm_encoder_outputs={"image": output},
        image_lengths=(*prompt.image_lengths, *prompt.image_lengths),
    )
