"""Frames of videos as tokens: a small tower that can merge before most of its work is done.

A frame is cut into square cells, and a cell is seen through a window that is a little larger than
itself. What a window shows is computed in two steps:

    look:    one linear map of small patches, colours and their change between frames; cheap
    refine:  convolutions within the window; dear

No window knows another, so cells that look alike may become one between the two steps: the tower
then refines their mean. What is compared is a small picture of each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens

Compress = Callable[[VisualTokens, Sequence[Tensor]], VisualTokens]
"""Fewer tokens out of those of some clips and their frames uint8 (T, H, W, 3)."""

MIDDLE, SPREAD = 127.5, 64.0
"""Grey levels are brought to about one in size by these."""


class FrameEncoderConfig(Config):
    """The tower.

    Attributes:
        cell: Side of a cell in pixels; frames are a whole number of cells.
        margin: Pixels that a window shows beyond its cell on each side. A thing whose middle lies
            in the cell should fit into the window: half of it tells little of its shape.
        patch: Side of the patches of the first step; it divides cell and margin.
        offsets: Other frames that a frame's colours are compared with, relative to it. Only
            negative ones see nothing of the future, as a stream must.
        stem: Channels of the first step.
        channels: Channels of each convolution of the second, 3 x 3 without padding.
        width: Width of a token.
        detail: Side of the small picture that merging compares, in values of a cell; it divides a
            cell's patches.
    """

    cell: int = Field(default=16, ge=1)
    margin: int = Field(default=8, ge=0)
    patch: int = Field(default=4, ge=1)
    offsets: tuple[int, ...] = (-1, 1)
    stem: int = Field(default=32, ge=1)
    channels: tuple[int, ...] = (48, 64)
    width: int = Field(default=96, ge=1)
    detail: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> FrameEncoderConfig:
        pieces = self.cell // self.patch
        if self.cell % self.patch or self.margin % self.patch or pieces % self.detail:
            raise ValueError(
                f"patches of {self.patch} in cells of {self.cell} with margins of {self.margin}, "
                f"detail {self.detail}: patch divides cell and margin, detail the patches of a cell"
            )
        if (self.cell + 2 * self.margin) // self.patch <= 2 * len(self.channels):
            raise ValueError(
                f"{len(self.channels)} convolutions leave nothing of windows of "
                f"{(self.cell + 2 * self.margin) // self.patch} patches; take fewer, or more margin"
            )
        if 0 in self.offsets:
            raise ValueError(f"offsets {self.offsets}: a frame does not differ from itself")
        return self

    def build(self) -> FrameEncoder:
        """Build the tower with random weights."""
        return FrameEncoder(**{name: getattr(self, name) for name in type(self).model_fields})


class FrameEncoder(nn.Module):
    """One token a cell of each frame.

    Args:
        cell: As in the configuration.
        margin: As in the configuration.
        patch: As in the configuration.
        offsets: As in the configuration.
        stem: As in the configuration.
        channels: As in the configuration.
        width: As in the configuration.
        detail: As in the configuration.
    """

    def __init__(
        self,
        *,
        cell: int,
        margin: int,
        patch: int,
        offsets: tuple[int, ...],
        stem: int,
        channels: tuple[int, ...],
        width: int,
        detail: int,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.margin = margin
        self.patch = patch
        self.offsets = offsets
        self.width = width
        self.detail = detail
        self.side = (cell + 2 * margin) // patch
        self.stem = PatchMap(3 * patch * patch, stem, 1 + len(offsets))
        widths = [stem, *channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3) for before, after in zip(widths, channels, strict=False)
        )
        left = self.side - 2 * len(channels)
        self.out = nn.Linear(widths[-1] * left * left, width)
        self.norm = nn.LayerNorm(width)

    @property
    def past(self) -> int:
        """How many earlier frames a frame is compared with at most."""
        return max([0, *(-offset for offset in self.offsets)])

    @property
    def future(self) -> int:
        """How many later frames a frame is compared with at most."""
        return max([0, *self.offsets])

    def geometry(self, size: tuple[int, int]) -> ImageGeometry:
        """Return where the cells of frames of `size` (height, width) lie.

        Raises:
            GeometryError: The frames are no whole number of cells.
        """
        return ImageGeometry.from_resize(size, size, (self.cell, self.cell))

    def encode(
        self,
        clips: Sequence[Tensor],
        times: Sequence[Tensor],
        before: Sequence[Tensor],
        after: Sequence[Tensor],
        compress: Compress | None = None,
    ) -> VisualTokens:
        """Encode clips, one a row.

        Args:
            clips: For each uint8 (T, H, W, 3) in [0, 255], RGB, all of one height and width.
            times: For each float32 (T,), seconds.
            before: For each uint8 (n, H, W, 3), the frames before it, as many as there are and
                `offsets` reach for; a video's first frame stands for those before it.
            after: As `before`, for the frames after it.
            compress: Merges between the two steps; None leaves one token a cell.

        Returns:
            Tokens frame after frame, cells row by row.

        Raises:
            InputError: The clips are of several sizes, or of no colour pictures.
            GeometryError: The frames are no whole number of cells.
        """
        _check(clips)
        geometry = self.geometry((clips[0].shape[1], clips[0].shape[2]))
        seen = [
            self._look(clip, *around) for clip, *around in zip(clips, before, after, strict=True)
        ]
        pictures = _padded([picture for picture, _ in seen])
        tokens = self._tokens(pictures, geometry, clips, times)
        windows = _padded([window for _, window in seen])
        # Windows are most of what is in memory, and are there twice now.
        del seen
        if compress is not None:
            merged = compress(tokens, clips)
            windows = windows if merged is tokens else _means(windows, merged)
            tokens = merged
        return tokens.with_features(self._refine(windows, tokens.mask))

    def _look(self, clip: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Return the small pictures (N, 3 * detail^2) and windows (N, stem * side^2) of a clip."""
        patches = self._patches(torch.cat([before, clip, after]))
        # One product for a frame's own colours and for each way it is compared with others.
        parts = F.linear(patches, self.stem.weight).unflatten(-1, (1 + len(self.offsets), -1))
        own = slice(len(before), len(before) + len(clip))
        places = torch.arange(len(before), len(before) + len(clip), device=clip.device)
        seen = parts[own, ..., 0, :] + self.stem.bias
        for number, offset in enumerate(self.offsets, 1):
            other = parts[(places + offset).clamp(0, len(parts) - 1), ..., number, :]
            seen = seen + other - parts[own, ..., number, :]
        around, step = self.margin // self.patch, self.cell // self.patch
        seen = F.pad(seen, (0, 0, around, around, around, around))
        windows = seen.unfold(1, self.side, step).unfold(2, self.side, step)
        return self._pictures(patches[own]), windows.flatten(0, 2).flatten(1)

    def _patches(self, frames: Tensor) -> Tensor:
        """Return uint8 (T, H, W, 3) as patches float (T, H / patch, W / patch, patch^2 * 3)."""
        cut = frames.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        levels = cut.transpose(2, 3).flatten(3).to(self.stem.weight.dtype)
        return (levels - MIDDLE) / SPREAD

    def _pictures(self, patches: Tensor) -> Tensor:
        """Return the colours of `detail` x `detail` pieces of each cell, (N, 3 * detail^2)."""
        colours = patches.unflatten(-1, (-1, 3)).mean(-2)
        size = self.cell // self.patch // self.detail
        if size > 1:
            colours = F.avg_pool2d(colours.movedim(-1, 1), size).movedim(1, -1)
        cut = colours.unflatten(2, (-1, self.detail)).unflatten(1, (-1, self.detail))
        return cut.transpose(2, 3).flatten(0, 2).flatten(1)

    def _tokens(
        self,
        pictures: Tensor,
        geometry: ImageGeometry,
        clips: Sequence[Tensor],
        times: Sequence[Tensor],
    ) -> VisualTokens:
        device, cells = pictures.device, geometry.count
        counts = torch.tensor([len(clip) * cells for clip in clips], device=device)
        places = torch.arange(pictures.shape[1], device=device).expand(len(clips), -1)
        mask = places < counts[:, None]
        boxes = geometry.cell_boxes().to(device)
        frames = -(-pictures.shape[1] // cells)
        return VisualTokens(
            features=pictures,
            cells=torch.where(mask[..., None], boxes.repeat(frames, 1)[places], 0),
            sizes=mask.long(),
            sources=torch.where(mask, places, -1),
            mask=mask,
            times=_padded([one.to(device).repeat_interleave(cells) for one in times]),
            geometries=(geometry,) * len(clips),
        )

    def _refine(self, windows: Tensor, mask: Tensor) -> Tensor:
        """Map windows float (B, N, stem * side^2) to tokens (B, N, width), zero at padding."""
        full = bool(mask.all())
        x = windows.flatten(0, 1) if full else windows[mask]
        x = F.gelu(x.unflatten(1, (-1, self.side, self.side)))
        for layer in self.layers:
            x = F.gelu(layer(x))
        x = self.norm(self.out(x.flatten(1)))
        if full:
            return x.unflatten(0, mask.shape)
        return x.new_zeros((*mask.shape, self.width)).masked_scatter(mask[..., None], x)


class PatchMap(nn.Module):
    """Weights of one linear map of patches for each way of looking at them, and one bias.

    Args:
        values: Values of a patch.
        channels: Channels of the result.
        ways: How many ways.
    """

    def __init__(self, values: int, channels: int, ways: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ways * channels, values))
        self.bias = nn.Parameter(torch.zeros(channels))
        # As the library starts a linear layer that reads all ways at once.
        bound = 1 / (ways * values) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)


def _means(windows: Tensor, merged: VisualTokens) -> Tensor:
    """Return the mean window of each token, float (B, tokens, values)."""
    batch, count = merged.mask.shape
    real = merged.sources >= 0
    starts = torch.arange(0, batch * count, count, device=windows.device)[:, None]
    share = 1.0 / merged.sizes.gather(1, merged.sources.clamp(min=0)).to(windows.dtype)
    weighted = (windows * share[..., None])[real]
    sums = windows.new_zeros((batch * count, windows.shape[-1]))
    return sums.index_add(0, (merged.sources + starts)[real], weighted).unflatten(0, (batch, -1))


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows (n, ...) with zeros at the end."""
    longest = max(map(len, rows))
    # Writing rows into one tensor would copy all of it for each row on the way back.
    return torch.stack(
        [
            row
            if len(row) == longest
            else F.pad(row, (0, 0) * (row.dim() - 1) + (0, longest - len(row)))
            for row in rows
        ]
    )


def _check(clips: Sequence[Tensor]) -> None:
    sizes = {tuple(clip.shape[1:]) for clip in clips}
    wrong = [clip for clip in clips if clip.dtype != torch.uint8 or clip.dim() != 4]
    if len(sizes) != 1 or wrong or any(size[-1] != 3 for size in sizes):
        raise InputError(
            f"clips of {sorted(map(str, sizes))}, types {sorted({str(c.dtype) for c in clips})}; "
            "give uint8 (frames, height, width, 3), all of one size"
        )
