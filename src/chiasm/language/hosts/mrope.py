"""Positions by time, row and column (M-RoPE), as the Qwen-VL models count them.

Qwen2-VL (arXiv:2409.12191), section 2.1: text advances all three together; an image keeps time,
counts rows and columns from where the text stopped, and the text after it goes on from the largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def text_positions(attention_mask: Tensor) -> Tensor:
    """Return int64 (B, S): real tokens count from 0, padding has 0."""
    positions = attention_mask.long().cumsum(-1) - 1
    return positions.masked_fill(attention_mask == 0, 0)


def mrope_positions(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_types: Tensor,
    host_images: Mapping[str, Tensor],
) -> Tensor:
    """Return int64 (3, B, S) from the library's own rule; see `HostAdapter.positions`."""
    if "image_grid_thw" not in host_images:
        return text_positions(attention_mask).expand(3, -1, -1)
    positions, _ = model.base_model.get_rope_index(
        input_ids,
        mm_token_type_ids=token_types,
        image_grid_thw=host_images["image_grid_thw"],
        attention_mask=attention_mask,
    )
    return positions


def mrope_kwargs(token_types: Tensor, host_images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arguments without which the library loses these positions without a word."""
    kwargs = {"mm_token_type_ids": token_types}
    if "image_grid_thw" in host_images:
        kwargs["image_grid_thw"] = host_images["image_grid_thw"]
    return kwargs
