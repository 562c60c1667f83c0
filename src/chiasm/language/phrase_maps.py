"""From the phrases of a batch to what the tap is asked, and from its rows to maps on cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chiasm.core.batch import IMAGE_TOKEN, Batch, PhraseBatch
from chiasm.core.errors import InputError
from chiasm.core.grid import ImageGeometry
from chiasm.core.sampling import resample_cells
from chiasm.core.tokens import VisualTokens
from chiasm.language.attention_rows import Merge
from chiasm.language.host import Host
from chiasm.language.hosts.protocol import CellGrid
from chiasm.language.merged import are_merged, merged_grids
from chiasm.language.splice import Spliced
from chiasm.language.tap import tap


@dataclass(frozen=True)
class PhraseQueries:
    """What to read for the phrases of a batch; see `language.tap.tap`.

    Attributes:
        queries: int64 (B, Q), positions of phrase tokens, -1 for padding.
        groups: bool (B, G, Q), which of them each phrase of the row has.
        keys: int64 (B, K), positions of visual tokens, -1 for padding.
        places: int64 (P, 2), for each phrase of the batch its row and its group in it.
    """

    queries: Tensor
    groups: Tensor
    keys: Tensor
    places: Tensor


@dataclass(frozen=True)
class PhraseReading:
    """What a host's reading says of each phrase.

    Attributes:
        maps: For each phrase float (C, rows, columns) in [0, 1]; see `phrase_maps`.
        states: For each phrase float (layers, its tokens, width), hidden states of its tokens;
            empty unless asked for.
        words: For each phrase float (its tokens, width), the host's embeddings of its tokens; empty
            unless asked for.
    """

    maps: list[Tensor]
    states: list[Tensor]
    words: list[Tensor] = field(default_factory=list)


def read_phrases(
    host: Host,
    batch: Batch,
    spliced: Spliced,
    tokens_per_cell: int = 1,
    *,
    tokens: VisualTokens | None = None,
    merge: Merge = "mean",
    hidden: bool = False,
) -> PhraseReading:
    """Read a batch and keep what its phrases attend to.

    Args:
        host: The host.
        batch: A batch with phrases.
        spliced: The same, spliced.
        tokens_per_cell: How many tokens the fusion wrote for each cell.
        tokens: The tokens that were spliced, where some may stand for several cells.
        merge: How the rows of a phrase's tokens become one.
        hidden: Whether to keep hidden states, too.

    Raises:
        InputError: The batch has no phrases, or one has no token.
    """
    phrases = batch.phrases
    if phrases is None:
        raise InputError("the batch has no phrase to point at; give samples with `phrases`")
    asked = phrase_queries(phrases, spliced)
    with tap(
        host.model,
        queries=asked.queries,
        keys=asked.keys,
        groups=asked.groups,
        merge=merge,
        hidden=hidden,
    ) as rows:
        host.read(spliced)
    grids = image_grids(host, batch.geometries, tokens_per_cell, tokens)
    maps = phrase_maps(
        rows.channels(),
        asked.places,
        phrases.images,
        batch.image_rows,
        spliced.image_lengths,
        grids,
        host.adapter.most_grids,
    )
    states = phrase_states(rows.hidden, asked.groups, asked.places) if hidden else []
    return PhraseReading(maps, states, phrase_words(host, batch))


def image_grids(
    host: Host,
    geometries: Sequence[ImageGeometry],
    tokens_per_cell: int,
    tokens: VisualTokens | None,
) -> list[tuple[CellGrid, ...]]:
    """Return for each image the grids in which it stands in the text; see `read_phrases`."""
    if tokens is not None and are_merged(tokens):
        return merged_grids(tokens)
    config = host.model.config
    return [host.adapter.grids(config, one, tokens_per_cell) for one in geometries]


def phrase_queries(phrases: PhraseBatch, spliced: Spliced) -> PhraseQueries:
    """Find the tokens of phrases, and the visual tokens, in what a host reads.

    Args:
        phrases: Phrases whose tokens are positions of the batch's text.
        spliced: The same batch, spliced.

    Raises:
        InputError: A phrase has no token.
    """
    device = spliced.input_ids.device
    tokens: dict[int, list[int]] = {index: [] for index in range(len(phrases))}
    for phrase, position in phrases.tokens.tolist():
        tokens[phrase].append(position)
    without = [index for index, found in tokens.items() if not found]
    if without:
        raise InputError(
            f"phrase {without[0]}{_name(phrases, without[0])} has no token in the text; a phrase "
            "must cover at least one"
        )
    places: list[tuple[int, int]] = []
    asked: dict[int, dict[int, int]] = {row: {} for row in range(len(spliced.input_ids))}
    seen = dict.fromkeys(asked, 0)
    for index, row in enumerate(phrases.rows.tolist()):
        places.append((row, seen[row]))
        seen[row] += 1
        for position in tokens[index]:
            asked[row].setdefault(position, len(asked[row]))
    most = max((len(found) for found in asked.values()), default=0)
    queries = torch.full((len(asked), most), -1, dtype=torch.long)
    groups = torch.zeros(len(asked), max(seen.values(), default=0), most, dtype=torch.bool)
    for row, found in asked.items():
        if found:
            queries[row, : len(found)] = _after_splice(spliced, row, list(found))
    for index, (row, group) in enumerate(places):
        groups[row, group, [asked[row][position] for position in tokens[index]]] = True
    return PhraseQueries(
        queries=queries.to(device),
        groups=groups.to(device),
        keys=image_positions(spliced),
        places=torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2),
    )


def image_positions(spliced: Spliced) -> Tensor:
    """Return the positions of visual tokens, int64 (B, K), padded by -1 on the right."""
    rows = [(types == IMAGE_TOKEN).nonzero().flatten() for types in spliced.token_types]
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def phrase_maps(
    rows: Tensor,
    places: Tensor,
    images: Tensor,
    image_rows: Tensor,
    image_lengths: Sequence[int],
    grids: Sequence[tuple[CellGrid, ...]],
    most_grids: int = 1,
) -> list[Tensor]:
    """Lay the rows of phrases out on the cells of the images they mean.

    A cell that stands in the text as several tokens has the mean of their weights; cells that one
    token stands for share its weight. Further grids of an image are carried onto the first one
    through original pixels and become further channels.

    Args:
        rows: float (B, C, G, K), weights over the visual tokens of each row, images in order.
        places: int64 (P, 2), row and group of each phrase.
        images: int64 (P,), the image each phrase means, among those of the batch.
        image_rows: int64 (I,), the row of each image.
        image_lengths: How many positions each image takes.
        grids: For each image its grids.
        most_grids: How many there can be. An image that has fewer, because it is small enough to
            be its own overview, repeats its first one.

    Returns:
        For each phrase float (C * most_grids, rows, columns) in [0, 1], the columns' weights on the
        first grid of its image.
    """
    starts: list[int] = []
    for image, row in enumerate(image_rows.tolist()):
        before = image_rows[:image].tolist()
        starts.append(sum(image_lengths[i] for i, other in enumerate(before) if other == row))
    maps = []
    for (row, group), image in zip(places.tolist(), images.tolist(), strict=True):
        weights = rows[row, :, group, starts[image] : starts[image] + image_lengths[image]]
        first = grids[image][0].geometry
        laid = [_lay_out(weights, grid) for grid in grids[image]]
        carried = [
            resample_cells(one, grid.geometry, first)
            for one, grid in zip(laid[1:], grids[image][1:], strict=True)
        ]
        again = [laid[0]] * (most_grids - len(laid))
        maps.append(torch.cat([laid[0], *carried, *again]))
    return maps


def phrase_words(host: Host, batch: Batch) -> list[Tensor]:
    """Return the host's embeddings of each phrase's tokens, before it reads anything.

    Returns:
        For each phrase float (its tokens, width).

    Raises:
        InputError: The batch has no phrase.
    """
    phrases = batch.phrases
    if phrases is None:
        raise InputError("the batch has no phrase to point at; give samples with `phrases`")
    phrase, position = phrases.tokens.unbind(1)
    embeddings = host.model.get_input_embeddings()
    embedded = embeddings(batch.input_ids[phrases.rows[phrase], position])
    return [embedded[phrase == index] for index in range(len(phrases))]


def phrase_states(hidden: Sequence[Tensor], groups: Tensor, places: Tensor) -> list[Tensor]:
    """Gather the hidden states of each phrase's tokens.

    Args:
        hidden: For each layer float (B, Q, D).
        groups: bool (B, G, Q).
        places: int64 (P, 2), row and group of each phrase.

    Returns:
        For each phrase float (layers, its tokens, D), tokens in the order of the queries.
    """
    stacked = torch.stack(list(hidden))
    return [stacked[:, row, groups[row, group]] for row, group in places.tolist()]


def _lay_out(weights: Tensor, grid: CellGrid) -> Tensor:
    """Return float (C, rows, columns) from weights float (C, K) over an image's tokens."""
    cells = weights[:, grid.positions.to(weights.device)].mean(-1)
    if grid.shares is not None:
        cells = cells * grid.shares.to(cells)
    return cells.unflatten(1, (grid.geometry.rows, grid.geometry.columns))


def _after_splice(spliced: Spliced, row: int, positions: Sequence[int]) -> Tensor:
    """Return where text positions of the batch stand after the splice."""
    sources = spliced.sources[row].tolist()
    stands = {source: place for place, source in enumerate(sources) if source >= 0}
    return torch.tensor([stands[position] for position in positions], dtype=torch.long)


def _name(phrases: PhraseBatch, index: int) -> str:
    return f" ({phrases.names[index]})" if phrases.names else ""
