"""How a codebook may start: as principal components of pictures, which it keeps and draws again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import (
    JanusVQVAEAttnBlock,
    JanusVQVAEDecoder,
    JanusVQVAEEncoder,
    JanusVQVAEResnetBlock,
)

from chiasm.core.errors import ConfigError, InputError
from chiasm.encoders.codebook import Codebook
from chiasm.encoders.codebook_loading import GROUPS

REFERENCE = 3.0
"""Root mean square of the mark in a channel, where the widest component has a deviation of 1: the
larger, the less a picture's own contrast is normalised away."""

SLOPE = 1.5
"""By how many deviations of the widest component a latent turns by 45 degrees on the sphere."""

OFFSETS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
"""Added to a latent's direction where the decoder has channels for it more than once."""

RIDGE = 1e-4
"""Of the mean variance, added in least squares, so that few cells do not decide alone."""

_ALIKE = 1e-8
"""Variance below which no number of a cell varies: far less than a step of 8 bits, 2 / 255."""


@torch.no_grad()
def start_from_components(codebook: Codebook, pixels: Tensor) -> None:
    """Write weights with which a codebook says and draws the principal components of cells.

    From random weights, training finds the cells' mean colours first, codes settle on these two or
    three directions, and latents never leave them: what is not told apart is not drawn, and what is
    not drawn is not told apart. Here latents begin as the d - 1 widest components of what cells
    look like, beside a constant that takes them to the sphere, and the decoder draws them by least
    squares. All of it is learned further.

    - Blocks begin as the identity: the last convolution of each is 0 (Goyal et al., 2017,
      arXiv:1706.02677, section 5.1).
    - Channels come in pairs x, -x, because swish(x) - swish(-x) = x passes the activation.
    - The last normalisation divides a channel by its size in this very picture, and so would make a
      pale picture the same as a strong one. The last block before it therefore draws a mark of
      fixed size into the picture's corners, alternating in sign, beside which the picture's own
      size matters little.

    Args:
        codebook: Of one level, without a change of channels, of a multiple of 64; overwritten,
            besides its codes.
        pixels: float (B, 3, side, side), RGB in [-1, 1]; more cells than the numbers of a cell or
            of channels make components that are the world's rather than the batch's.

    Raises:
        ConfigError: The architecture is another.
        InputError: There are fewer cells than a code has numbers, or all are alike.
    """
    check_for_components(codebook)
    model, width = codebook.model, codebook.width
    folded = nn.functional.pixel_unshuffle(pixels.to(codebook.weight.dtype), codebook.fold)
    cells = _flat(folded)
    if len(cells) < width:
        raise InputError(
            f"{len(cells)} cells to start from, for codes of {width} numbers; give at least as "
            "many: more pictures in the first batch"
        )
    if float(cells.var(0).max()) < _ALIKE:
        raise InputError(
            f"{len(cells)} cells to start from, all alike; the first batch must show something"
        )
    for module in (*model.encoder.modules(), *model.decoder.modules()):
        if isinstance(module, JanusVQVAEResnetBlock):
            _silence(module.conv2)
        if isinstance(module, JanusVQVAEAttnBlock):
            _silence(module.proj_out)

    encoder, decoder = model.encoder, model.decoder
    mean, directions, variances = _components(cells, _room(encoder))
    rows = (directions / variances[0].sqrt()).T
    _write_pairs(encoder.conv_in, rows, -(rows @ mean))
    _keep_size(encoder, encoder.mid.block_2)
    weight, bias = _least_squares(_read(encoder, encoder.conv_out, folded), cells)
    fit = _read(encoder, encoder.conv_out, folded) @ weight.T + bias
    mean, directions, variances = _components(fit, min(width - 1, len(weight)))
    rows = (directions / variances[0].sqrt()).T
    _write(encoder.conv_out, rows @ weight, rows @ (bias - mean))

    _silence(model.quant_conv)
    for index in range(len(rows)):
        model.quant_conv.weight[index, index] = 1 / SLOPE
    model.quant_conv.bias[width - 1] = 1.0
    said = codebook.look(pixels).flatten(0, 1).double()
    scale = said.std(0).max()
    _write(model.post_quant_conv, torch.eye(width).to(said) / scale, -said.mean(0) / scale)

    room = _room(decoder)
    rows = torch.eye(width).to(said).repeat(-(-room // width), 1)[:room]
    turns = (torch.arange(room, device=said.device) // width) % len(OFFSETS)
    _write_pairs(decoder.conv_in, rows, torch.tensor(OFFSETS).to(said)[turns])
    _keep_size(decoder, decoder.up[0].block[-1])
    latents = codebook.look(pixels).transpose(1, 2).unflatten(2, codebook.grid)
    maps = model.post_quant_conv(latents.to(codebook.weight.dtype))
    _write(decoder.conv_out, *_least_squares(_read(decoder, decoder.conv_out, maps), cells))


def check_for_components(codebook: Codebook) -> None:
    """Check that a codebook can start from components.

    Raises:
        ConfigError: Its architecture has another form; all that is wrong at once.
    """
    config = codebook.model.config
    faults = []
    if list(config.channel_multiplier) != [1]:
        faults.append(f"channel_multiplier: {list(config.channel_multiplier)}; only [1]")
    if config.base_channels % (2 * GROUPS):
        faults.append(f"base_channels: {config.base_channels}; only multiples of {2 * GROUPS}")
    if config.latent_channels < config.embed_dim:
        faults.append(
            f"latent_channels: {config.latent_channels}; no fewer than embed_dim "
            f"({config.embed_dim})"
        )
    # A constant beside the components takes them to the sphere; the decoder reads all of them.
    widest = min(1 + config.in_channels, _room(codebook.model.decoder))
    if not 2 <= config.embed_dim <= widest:
        faults.append(
            f"embed_dim: {config.embed_dim}; at least 2, and at most {widest}, which is how many "
            f"components the {config.in_channels} numbers of a cell have and the "
            f"{config.base_channels} channels hold; more would begin as nothing. Take fewer, a "
            "wider architecture, or start: spread"
        )
    if faults:
        raise ConfigError("a codebook that starts from components", faults)


def _room(half: JanusVQVAEEncoder | JanusVQVAEDecoder) -> int:
    """Return how many components fit into the channels: pairs, besides those of two groups."""
    channels = int(half.norm_out.num_channels)
    return channels // 2 - channels // GROUPS


def _keep_size(half: JanusVQVAEEncoder | JanusVQVAEDecoder, block: JanusVQVAEResnetBlock) -> None:
    """Let the last block draw the mark of corners that the last normalisation measures against.

    The last group of channels holds a constant 1 and -1, which the block reads: around it are
    zeros, so a difference over both axes is 0 except in the corners. The group before holds the
    mark alone. What the block draws is (+-REFERENCE) times a mark of mean square 1, whatever the
    size of the grid.
    """
    channels = int(half.norm_out.num_channels)
    group = channels // GROUPS
    sign = torch.ones(channels).to(block.conv1.weight)
    sign[1::2] = -1
    last = channels - group
    half.conv_in.bias[last:] = sign[last:]
    across = torch.tensor([1.0, 0.0, -1.0]).to(sign)
    difference = torch.outer(across, across)
    block.conv1.bias[:group] = 0
    block.conv1.weight[:group] = 0
    # One group of the normalisation between them, so that nothing else has a part in it.
    block.conv1.weight[:group, last] = sign[:group, None, None] * difference
    block.conv1.weight[:group, last + 1] = -sign[:group, None, None] * difference
    drawn = sign[:last, None] * torch.tensor([REFERENCE, -REFERENCE]).to(sign)
    block.conv2.weight[:last, :2, 1, 1] = drawn
    half.norm_out.weight.fill_(REFERENCE)


def _silence(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _write(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Write a map of each place to itself into the first channels of a convolution."""
    _silence(layer)
    assert layer.bias is not None
    middle = layer.kernel_size[0] // 2
    layer.weight[: weight.shape[0], : weight.shape[1], middle, middle] = weight.to(layer.weight)
    layer.bias[: len(bias)] = bias.to(layer.bias)


def _write_pairs(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Write each row of a map, and its opposite after it."""
    _write(
        layer,
        torch.stack([weight, -weight], 1).flatten(0, 1),
        torch.stack([bias, -bias], 1).flatten(),
    )


def _flat(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) as float64 (B * H * W, C)."""
    return maps.movedim(1, -1).flatten(0, 2).double()


def _read(half: nn.Module, layer: nn.Module, maps: Tensor) -> Tensor:
    """Return what `layer` of `half` reads when `half` is given `maps`, float64 (cells, C)."""
    found: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    half(maps)
    hook.remove()
    return _flat(found[0])


def _components(cells: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (C,), the widest directions (C, k) and their variances (k,) of (cells, C)."""
    variances, directions = torch.linalg.eigh(torch.cov(cells.T))
    count = min(count, cells.shape[1])
    # Ascending: the last are the widest.
    found = variances.flip(0)[:count].clamp_min(torch.finfo(cells.dtype).tiny)
    return cells.mean(0), directions.flip(1)[:, :count], found


def _least_squares(given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (D, C) and bias (D,) that take (cells, C) nearest to (cells, D)."""
    from_mean = given - given.mean(0)
    square = from_mean.T @ from_mean / len(given)
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    weight = torch.linalg.solve(square, from_mean.T @ (wanted - wanted.mean(0)) / len(given)).T
    return weight, wanted.mean(0) - weight @ given.mean(0)
