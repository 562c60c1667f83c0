"""The discrete codebook: a picture as a grid of codes and back, on the Janus VQ-VAE classes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from chiasm.core.config import Config
from chiasm.core.errors import CheckpointError, ConfigError, GeometryError, InputError
from chiasm.encoders.codebook_loading import (
    DTYPES,
    initialise_vqvae,
    load_vqvae,
    outline_vqvae,
    save_vqvae,
)
from chiasm.encoders.codebook_transform import CodebookTransform


class CodebookConfig(Config):
    """A codebook with its encoder and decoder, from a checkpoint or from plain values.

    Attributes:
        path: Local directory or hub name of a checkpoint in the form of transformers; that of a
            whole Janus gives its VQ-VAE.
        revision: Branch, tag or commit on the hub.
        architecture: Values of `JanusVQVAEConfig`, for random weights. `in_channels` and
            `out_channels` are 3, or 12, 27, ... where squares of 2 x 2, 3 x 3, ... pixels enter and
            leave as the channels of one place (Shi et al., 2016, arXiv:1609.05158): the costly
            first layers then work on fewer places. Channels are multiples of 32.
        codes: How many codes there must be; None takes what is there.
        code_width: Width that a code must have; None takes what is there.
        dtype: Type of the weights.
    """

    path: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    codes: int | None = Field(default=None, gt=0)
    code_width: int | None = Field(default=None, gt=0)
    dtype: str = "float32"

    @model_validator(mode="after")
    def _one_source(self) -> CodebookConfig:
        if (self.path is None) == (self.architecture is None):
            raise ValueError(
                "give either `path` (a checkpoint) or `architecture` (random weights), not both "
                "and not neither"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        return self

    def build(self) -> Codebook:
        """Load or initialise the codebook.

        Raises:
            CheckpointError: The checkpoint cannot be read, lacks weights, has others than its
                configuration says, or not the codes asked for.
            ConfigError: The architecture names an unknown or impossible value.
        """
        dtype = DTYPES[self.dtype]
        if self.path is not None:
            model = load_vqvae(self.path, self.revision, dtype)
        else:
            model = initialise_vqvae(self.architecture or {}, dtype)
        # Convolutions on a CPU are twice as fast so; the numbers are the same.
        return self.checked(Codebook(model.to(memory_format=torch.channels_last)))

    def outline(self) -> Codebook:
        """Build without weights, on the meta device; a checkpoint needs its `config.json` only.

        Raises:
            CheckpointError: There is no such file, or it is of no VQ-VAE.
            ConfigError: As for `build`.
        """
        model = outline_vqvae(self.path, self.revision, self.architecture or {}, DTYPES[self.dtype])
        return self.checked(Codebook(model))

    def checked(self, codebook: Codebook) -> Codebook:
        """Return the codebook, if it has the codes asked for.

        Raises:
            CheckpointError: It has not.
        """
        wanted = (self.codes or codebook.size, self.code_width or codebook.width)
        if wanted != (codebook.size, codebook.width):
            raise CheckpointError(
                f"codebook of {self.path or 'the architecture'}: {codebook.size} codes of width "
                f"{codebook.width}, and {wanted[0]} of width {wanted[1]} are asked for; name a "
                "checkpoint that has them, or change `codes` and `code_width`"
            )
        return codebook


@dataclass(frozen=True)
class Codes:
    """The codes of B pictures of n cells each, row by row from the top left.

    Attributes:
        indices: int64 (B, n), each in [0, size).
        latents: float (B, n, d), what the encoder says of each cell, of length 1.
        chosen: float (B, n, d), the codebook's rows at `indices`, of length 1; its gradient goes to
            the codebook.
        quantised: float (B, n, d), equal to `chosen`; its gradient goes to `latents` as if nothing
            had been rounded (straight-through, van den Oord et al., 2017, arXiv:1711.00937).
    """

    indices: Tensor
    latents: Tensor
    chosen: Tensor
    quantised: Tensor


class Codebook(nn.Module):
    """Pictures to codes and back.

    Rows of the codebook and latents lie on the unit sphere: both are divided by their length
    wherever they meet, in `encode` as in `decode`, as Janus was trained (Yu et al., 2022,
    arXiv:2110.04627, section 3.2). The library's class divides in `decode` only, so its `encode`
    chooses the same codes exactly where the rows it holds have length 1; `save` writes them so.

    The module holds no weights besides those of `model` and leaves them as they are, so it can be
    laid over a Janus host's own `vqmodel`.

    Args:
        model: The library's VQ-VAE.

    Raises:
        ConfigError: Its channels are not those of whole squares of RGB pixels.
    """

    def __init__(self, model: JanusVQVAE) -> None:
        super().__init__()
        self.model = model
        config = model.config
        self.fold = _fold(config.in_channels, config.out_channels)
        cell = self.fold * 2 ** (len(config.channel_multiplier) - 1)
        self.transform = CodebookTransform(cells=config.num_patches, cell=cell)

    @property
    def size(self) -> int:
        """How many codes there are."""
        return int(self.model.config.num_embeddings)

    @property
    def width(self) -> int:
        """Width d of a code."""
        return int(self.model.config.embed_dim)

    @property
    def side(self) -> int:
        """Height and width in pixels of the pictures it reads and draws."""
        return self.transform.side

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of a picture's codes."""
        return self.transform.cells, self.transform.cells

    @property
    def parts(self) -> dict[str, nn.Module]:
        """`picture_encoder`, `codes` and `picture_decoder`; together all of the weights."""
        model = self.model
        return {
            "picture_encoder": nn.ModuleDict({"body": model.encoder, "last": model.quant_conv}),
            "codes": model.quantize,
            "picture_decoder": nn.ModuleDict(
                {"first": model.post_quant_conv, "body": model.decoder}
            ),
        }

    @property
    def weight(self) -> nn.Parameter:
        """The codebook as it is stored, float (size, d), of any length."""
        weight: nn.Parameter = self.model.quantize.embedding.weight
        return weight

    @property
    def rows(self) -> Tensor:
        """The codes, float32 (size, d), each of length 1."""
        return nn.functional.normalize(self.weight.float(), dim=-1)

    def encode(self, pixels: Tensor) -> Codes:
        """Encode pictures.

        Args:
            pixels: float (B, 3, side, side), RGB in [-1, 1].

        Raises:
            GeometryError: They are of another shape.
        """
        return self.quantise(self.look(pixels))

    def look(self, pixels: Tensor) -> Tensor:
        """Return what the encoder says of each cell, before any code is chosen.

        Args:
            pixels: float (B, 3, side, side), RGB in [-1, 1].

        Returns:
            float32 (B, n, d), each of length 1.

        Raises:
            GeometryError: They are of another shape.
        """
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != (3, self.side, self.side):
            raise GeometryError(
                f"pictures of shape {tuple(pixels.shape)}; this codebook reads (pictures, 3, "
                f"{self.side}, {self.side}). Prepare them with its `transform` or `frame`"
            )
        folded = nn.functional.pixel_unshuffle(pixels.to(self.weight.dtype), self.fold)
        seen = self.model.quant_conv(self.model.encoder(folded))
        return nn.functional.normalize(seen.flatten(2).transpose(1, 2).float(), dim=-1)

    @torch.no_grad()
    def spread(self, pixels: Tensor) -> None:
        """Set the encoder's last layer so that latents of these pictures fill the sphere.

        An encoder from random weights says almost the same of every cell, and learns from there to
        tell cells apart along one or two directions of d alone. Here the layer takes the d
        directions in which what it reads varies most, each about its mean and at unit variance
        (whitening, as Mishkin and Matas, 2016, arXiv:1511.06422, start each layer).

        Args:
            pixels: float (B, 3, side, side), RGB in [-1, 1]; B * n cells, more than d.
        """
        layer = self.model.quant_conv
        folded = nn.functional.pixel_unshuffle(pixels.to(self.weight.dtype), self.fold)
        read = self.model.encoder(folded).movedim(1, -1).flatten(0, 2).double()
        mean = read.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov(read.T))
        # Ascending: the last are the widest.
        scales = variances[-self.width :].clamp_min(variances[-1] * 1e-8).rsqrt()
        rows = directions[:, -self.width :].T * scales[:, None]
        layer.weight.copy_(rows[:, :, None, None])
        layer.bias.copy_(-(rows @ mean))

    def quantise(self, latents: Tensor) -> Codes:
        """Choose for each latent the nearest code, which on the sphere is that of least angle.

        Args:
            latents: float (B, n, d), each of length 1.
        """
        rows = self.rows
        with torch.no_grad(), _full_precision(latents.device):
            indices = (latents.float() @ rows.T).argmax(-1)
        chosen = nn.functional.embedding(indices, rows)
        # In this order the sum is `chosen` to the last bit: what is added is exactly 0.
        quantised = chosen.detach() + (latents - latents.detach())
        return Codes(indices, latents, chosen, quantised)

    def embed(self, indices: Tensor) -> Tensor:
        """Return the codes at int64 (..., n) as float32 (..., n, d), each of length 1.

        Raises:
            InputError: An index is not in [0, size).
        """
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.size:
            raise InputError(
                f"codes from {int(indices.min())} to {int(indices.max())}; this codebook has codes "
                f"from 0 to {self.size - 1}"
            )
        return nn.functional.embedding(indices, self.rows)

    def decode(self, indices: Tensor) -> Tensor:
        """Draw the pictures of codes.

        Args:
            indices: int64 (B, n), row by row.

        Returns:
            float32 (B, 3, side, side), RGB in [-1, 1]; what the decoder draws beyond that range,
            which no picture can show, is brought to its ends.

        Raises:
            GeometryError: There is not one code a cell.
            InputError: An index is not in [0, size).
        """
        return self.decode_latents(self.embed(indices)).clamp(-1.0, 1.0)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Draw the pictures of quantised latents, for training: nothing is brought to a range.

        Args:
            latents: float (B, n, d), row by row.

        Returns:
            float32 (B, 3, side, side), RGB about [-1, 1].

        Raises:
            GeometryError: There is not one latent a cell.
        """
        rows, columns = self.grid
        if latents.dim() != 3 or latents.shape[1] != rows * columns:
            raise GeometryError(
                f"codes of {tuple(latents.shape[:2])} (pictures, cells); a picture has {rows} x "
                f"{columns} = {rows * columns} cells, row by row"
            )
        maps = latents.transpose(1, 2).unflatten(2, self.grid).to(self.weight.dtype)
        drawn = self.model.decoder(self.model.post_quant_conv(maps))
        return nn.functional.pixel_shuffle(drawn, self.fold).float()

    def frame(self, view: Tensor) -> Tensor:
        """Bring square views of any size to what `encode` reads; differentiable.

        Args:
            view: float (B, 3, height, height), RGB in [0, 1].

        Returns:
            float (B, 3, side, side), RGB in [-1, 1], bilinear, averaged where it shrinks.

        Raises:
            GeometryError: The views are no squares of three colours.
        """
        if view.dim() != 4 or view.shape[1] != 3 or view.shape[2] != view.shape[3]:
            raise GeometryError(
                f"views of shape {tuple(view.shape)}; give squares (views, 3, side, side)"
            )
        if view.shape[2] != self.side:
            size = (self.side, self.side)
            view = nn.functional.interpolate(view, size, mode="bilinear", antialias=True)
        return view * 2 - 1

    def save(self, directory: Path) -> None:
        """Write a checkpoint that `CodebookConfig.path` and transformers read, codes of length 1.

        Args:
            directory: Made if it is not there.
        """
        save_vqvae(self.model, self.rows, directory)


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off: in half precision, another code than the nearest would be chosen."""
    known = device.type != "meta"
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _fold(inner: int, outer: int) -> int:
    """Return the side of the square of pixels that one place of the model's input holds."""
    fold = round((inner / 3) ** 0.5)
    if fold < 1 or 3 * fold * fold != inner or inner != outer:
        raise ConfigError(
            f"codebook: in_channels {inner} and out_channels {outer}; both must be 3, or 3 times "
            "the same square (12, 27, ...), for pixels of three colours"
        )
    return fold
