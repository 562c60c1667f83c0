"""The reader: padding is not read, a stream equals the whole, places and times matter."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from chiasm.core.errors import InputError, UnknownNameError
from chiasm.layers.attention import ATTENTION
from chiasm.layers.reader import Reader, ReaderConfig

OPTIONS: dict[str, dict[str, Any]] = {
    "cross_memory": {"slots": 5, "segment": 6, "pool": 3},
    "local_global": {"window": 5, "global_tokens": 1},
    "performer": {"features": 13},
    "strided": {},
    "hierarchical": {},
}


def reader(attention: str = "dense", causal: bool = False) -> Reader:
    torch.manual_seed(0)
    options = OPTIONS.get(attention, {})
    config = ReaderConfig(
        attention=attention, options=options, causal=causal, depth=2, heads=2, periods=(1.0, 7.0)
    )
    return config.build(width=14).eval()


def row(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, times, places and sizes of one row."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, tokens, 14, generator=generator)
    places = torch.rand(1, tokens, 2, generator=generator)
    sizes = torch.randint(1, 4, (1, tokens), generator=generator)
    return x, torch.arange(tokens)[None] / 3, places, sizes


@torch.no_grad()
def read(model: Reader, *parts: Tensor, real: int | None = None) -> Tensor:
    mask = torch.arange(parts[0].shape[1])[None] < (real or parts[0].shape[1])
    return model(*parts, mask)


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_padding_is_not_read(attention: str) -> None:
    model, long, short = reader(attention), row(19), tuple(part[:, :13] for part in row(19))
    padded = read(model, *long, real=13)
    torch.testing.assert_close(padded[:, :13], read(model, *short), rtol=0, atol=2e-5)
    assert not padded[:, 13:].any()


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_a_stream_reads_what_the_whole_reads(attention: str) -> None:
    model, parts = reader(attention, causal=True), row(17)
    state, found = model.initial_state(1), []
    with torch.no_grad():
        for start, stop in ((0, 4), (4, 5), (5, 17)):
            said, state = model.step(*(part[:, start:stop] for part in parts), state)
            found.append(said)
    torch.testing.assert_close(torch.cat(found, 1), read(model, *parts), rtol=0, atol=2e-5)


def test_time_place_and_size_are_told() -> None:
    model, (x, times, places, sizes) = reader(), row(7)
    plain = read(model, x, times, places, sizes)
    for other in (
        (x, times + 0.4, places, sizes),
        (x, times, 1 - places, sizes),
        # Attention does not see a factor that all sizes share.
        (x, times, places, sizes * 3),
    ):
        assert float((read(model, *other) - plain).abs().max()) > 1e-3


def test_only_the_phase_of_a_time_counts() -> None:
    model, (x, times, places, sizes) = reader(), row(7)
    later = read(model, x, times + 7.0 * 3, places, sizes)
    torch.testing.assert_close(later, read(model, x, times, places, sizes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_type_has_options_of_its_own(attention: str) -> None:
    config = ReaderConfig(attention=attention, heads=3, depth=1)
    again = ReaderConfig.model_validate(config.model_dump(exclude_defaults=True))
    assert again == config
    assert config.build(width=12)


def test_what_cannot_be_built_or_followed_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="attention type"):
        ReaderConfig(attention="sparse")
    with pytest.raises(ValidationError, match="`options` of dense: windw: Extra inputs"):
        ReaderConfig(attention="dense", options={"windw": 3})
    with pytest.raises(ValidationError, match=r"`options` of local_global: window: .*greater"):
        ReaderConfig(options={"window": 0})
    with pytest.raises(ValidationError, match="`options` give causal, width, which the reader"):
        ReaderConfig(options={"window": 3, "causal": True, "width": 7})
    with pytest.raises(ValidationError, match="seconds above 0"):
        ReaderConfig(periods=(1.0, 0.0))
    with pytest.raises(InputError, match="causal"):
        reader().step(*row(3), reader().initial_state(1))
    with pytest.raises(InputError, match="a state of 1 layers for a reader of 2"):
        reader(causal=True).step(*row(3), reader(causal=True).initial_state(1)[:1])
