"""Text from a spliced batch, through the library's own generate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from chiasm.core.errors import InputError
from chiasm.language.hosts.mrope import text_positions
from chiasm.language.row_draws import DrawByRow, row_generators
from chiasm.language.splice import Spliced, check_ends_real


def generate(
    model: Any,
    spliced: Spliced,
    *,
    tokenizer: Any,
    eos_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    min_new_tokens: int = 0,
    on_tokens: Callable[[list[int]], None] | None = None,
) -> list[list[int]]:
    """Write what follows each row. No gradient is kept.

    The generation settings of the checkpoint play no part: a repetition penalty or a temperature
    stored there would change what "greedy" means without a word.

    Args:
        model: The host's model.
        spliced: Rows that end in a real token, that is, padded on the left.
        tokenizer: Needed for `stop`.
        eos_ids: Each of these ends a row.
        pad_id: Fills rows that ended before the others.
        max_new_tokens: At most this many tokens a row, at least 1.
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: With sampling, the share of probability that is kept, in (0, 1]. Greedy ignores it.
        seed: Of the sampling, each row's own: what else is in the batch changes nothing of a row,
            beyond rounding. None samples all rows from the global generator.
        stop: Texts that end a row when it has written them; they stay in the result.
        min_new_tokens: No row ends with fewer tokens; for timing.
        on_tokens: Called as soon as each row has a new token, with one id a row; end tokens, and
            padding after them, are among these. What it raises ends the writing.

    Returns:
        For each row its new tokens, without the end token and what follows it.

    Raises:
        InputError: A row ends in padding, or a setting is out of range.
    """
    _check(max_new_tokens, temperature, top_p, min_new_tokens)
    check_ends_real(spliced.attention_mask, "generation")
    sampling: dict[str, Any] = {"do_sample": False}
    drawing = LogitsProcessorList()
    generators = row_generators(seed, len(spliced.input_ids), spliced.input_ids.device)
    if temperature > 0 and generators is None:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    elif temperature > 0 and generators is not None:
        warpers = TemperatureLogitsWarper(float(temperature)), TopPLogitsWarper(float(top_p))
        drawing.extend([*warpers, DrawByRow(generators)])
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=list(eos_ids),
        pad_token_id=pad_id,
        use_cache=True,
        stop_strings=list(stop) or None,
        **sampling,
    )
    with _own_settings_only(model):
        # Of the library's base and not of the model: Janus's own can also draw, and talks about it.
        sequences = GenerationMixin.generate(
            model,
            input_ids=spliced.input_ids,
            attention_mask=spliced.attention_mask,
            position_ids=_generation_positions(spliced),
            mm_encoder_outputs=dict(spliced.mm_encoder_outputs),
            generation_config=settings,
            logits_processor=drawing,
            tokenizer=tokenizer if stop else None,
            streamer=None if on_tokens is None else _Relay(on_tokens),
            **spliced.host_kwargs,
        )
    ends = {*eos_ids, pad_id}
    return [_until(row, ends) for row in sequences[:, spliced.input_ids.shape[1] :].tolist()]


class _Relay:
    """A streamer of the library, which first puts the whole prompt and then each step's tokens."""

    def __init__(self, tell: Callable[[list[int]], None]) -> None:
        self._tell = tell
        self._begun = False

    def put(self, value: Tensor) -> None:
        """Pass on the tokens of a step."""
        if self._begun:
            self._tell(value.flatten().tolist())
        self._begun = True

    def end(self) -> None:
        """Nothing is held back."""


def _check(max_new_tokens: int, temperature: float, top_p: float, min_new_tokens: int) -> None:
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise InputError(
            f"max_new_tokens is {max_new_tokens!r}; it must be at least 1, a whole number"
        )
    if not 0 <= min_new_tokens <= max_new_tokens:
        raise InputError(
            f"min_new_tokens is {min_new_tokens}; it must lie in [0, {max_new_tokens}], the "
            "max_new_tokens"
        )
    # Written so that what is not a number is out of range too.
    if not isinstance(temperature, Real) or not 0 <= temperature < math.inf:
        raise InputError(
            f"temperature is {temperature!r}; it must be 0 (greedy), or above and finite (sampling)"
        )
    if not isinstance(top_p, Real) or not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p!r}; it must lie in (0, 1], 1 keeps all tokens")


def _generation_positions(spliced: Spliced) -> Tensor:
    """Add to three-fold positions the plain ones, which the library carries on top in generate."""
    positions = spliced.position_ids
    if positions.ndim == 2:
        return positions
    return torch.cat([text_positions(spliced.attention_mask)[None], positions])


@contextmanager
def _own_settings_only(model: Any) -> Iterator[None]:
    """Hide the checkpoint's generation settings, from which unset values would be filled."""
    stored = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = stored


def _until(row: Sequence[int], ends: set[int]) -> list[int]:
    kept: list[int] = []
    for token in row:
        if token in ends:
            break
        kept.append(token)
    return kept
