"""The tower of frames: cells know only what their window shows, and may be merged half-way."""

from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.compression.merge import merge_tokens
from chiasm.core.errors import GeometryError, InputError
from chiasm.core.tokens import VisualTokens
from chiasm.encoders.frames import FrameEncoder, FrameEncoderConfig

SIZES: dict[str, Any] = {
    "cell": 14,
    "margin": 2,
    "patch": 2,
    "stem": 3,
    "channels": (5, 7),
    "width": 11,
    "detail": 7,
}


def tower(**changes: Any) -> FrameEncoder:
    torch.manual_seed(0)
    return FrameEncoderConfig(**{**SIZES, **changes}).build().eval()


def clip(frames: int, seed: int = 0) -> Tensor:
    """Noise of 2 x 3 cells."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 28, 42, 3), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def encode(encoder: FrameEncoder, *clips: Tensor, compress: Any = None) -> VisualTokens:
    times = [torch.arange(len(one)) / 8 for one in clips]
    nothing = [one[:0] for one in clips]
    return encoder.encode(clips, times, nothing, nothing, compress)


def test_tokens_say_where_and_when_they_were() -> None:
    tokens = encode(tower(), clip(3), clip(2))

    assert tokens.features.shape == (2, 18, 11)
    assert tokens.mask.sum(1).tolist() == [18, 12]
    assert tokens.cells[0, 7].tolist() == [14.0, 0.0, 28.0, 14.0]
    assert tokens.times[0, 12:].tolist() == [0.25] * 6
    assert tokens.sources[1].tolist() == [*range(12), *[-1] * 6]
    assert not tokens.features[1, 12:].any()


@pytest.mark.parametrize("offsets", [(-1, 1), (-2,), ()])
def test_a_token_depends_on_its_window_and_on_nothing_else(offsets: tuple[int, ...]) -> None:
    encoder = tower(offsets=offsets)
    # A pixel of the middle cell below, two pixels from the cell on its left, in frame 2 of 5.
    frames, other = clip(5), clip(5)
    other[2, 20, 15] = 255 - other[2, 20, 15]
    changed = (encode(encoder, frames).features - encode(encoder, other).features).abs().amax(-1)
    seen_by = {2} | {2 - offset for offset in offsets}
    expected = {(frame, cell) for frame in seen_by for cell in (3, 4)}
    found = {divmod(int(place), 6) for place in changed[0].nonzero()}
    assert found == expected


def test_a_clip_with_its_neighbours_is_the_piece_of_the_whole() -> None:
    encoder, frames = tower(offsets=(-2, 1)), clip(9)
    whole = encode(encoder, frames).features
    times = [torch.arange(3, 7) / 8]
    with torch.no_grad():
        piece = encoder.encode([frames[3:7]], times, [frames[1:3]], [frames[7:8]]).features
    torch.testing.assert_close(piece, whole[:, 18:42], rtol=0, atol=1e-6)


def test_the_first_frame_stands_for_those_before_it() -> None:
    encoder, frames = tower(offsets=(-1,)), clip(3)
    doubled = torch.cat([frames[:1], frames])
    torch.testing.assert_close(
        encode(encoder, frames).features,
        encode(encoder, doubled).features[:, 6:],
        rtol=0,
        atol=1e-6,
    )


def test_batch_equals_single() -> None:
    encoder = tower()
    both = encode(encoder, clip(4, 1), clip(2, 2)).rows()
    for row, seed, frames in zip(both, (1, 2), (4, 2), strict=True):
        alone = encode(encoder, clip(frames, seed)).features[0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-6)


def test_merging_nothing_changes_nothing() -> None:
    frames = clip(3)
    same = encode(tower(), frames, compress=lambda tokens, _: merge_tokens(tokens, 18))
    assert torch.equal(same.features, encode(tower(), frames).features)


def test_cells_that_are_alike_become_one_and_keep_their_token() -> None:
    encoder, frames = tower(offsets=()), clip(1).expand(2, -1, -1, -1)
    plain = encode(encoder, frames)
    merged = encode(encoder, frames, compress=lambda tokens, _: merge_tokens(tokens, 6, step=0.5))
    assert merged.sizes.tolist() == [[2] * 6]
    torch.testing.assert_close(merged.features, plain.features[:, :6], rtol=0, atol=1e-5)


def test_a_merged_token_is_refined_from_the_mean_of_its_windows() -> None:
    encoder, frames = tower(offsets=()), torch.cat([clip(1), 255 - clip(1)])

    def into_one(tokens: VisualTokens, _: Any) -> VisualTokens:
        return merge_tokens(tokens, 1)

    merged = encode(encoder, frames, compress=into_one).features
    # A video and its negative have a grey mean.
    grey = torch.full((1, 28, 42, 3), 127, dtype=torch.uint8)
    middle = encode(encoder, grey, compress=into_one).features
    assert float((merged - middle).abs().max()) < 0.02 * float(middle.abs().max())


def test_everything_in_it_learns() -> None:
    encoder = tower()
    frames = clip(3)
    times = [torch.arange(3) / 8]
    encoder.encode([frames], times, [frames[:0]], [frames[:0]]).features.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"give uint8 \(frames, height, width, 3\)"):
        encode(tower(), clip(2).float())
    with pytest.raises(InputError, match="all of one size"):
        encode(tower(), clip(2), clip(2)[:, :14])
    with pytest.raises(GeometryError, match="no whole number of cells"):
        encode(tower(), clip(2)[:, :27])


def test_sizes_that_cannot_be_built_are_refused() -> None:
    for changes, fault in (
        ({"patch": 3}, "patch divides cell and margin"),
        ({"detail": 4}, "detail the patches of a cell"),
        ({"channels": (2,) * 5}, "leave nothing of windows"),
        ({"offsets": (0,)}, "does not differ from itself"),
    ):
        with pytest.raises(ValueError, match=fault):
            FrameEncoderConfig(**{**SIZES, **changes})
