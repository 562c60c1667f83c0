"""A memory of fixed size: nothing is lost from the count, and what happened once stays."""

import torch
from torch import Tensor

from chiasm.compression.memory import consolidate
from chiasm.compression.spans import join_spans, split_spans, stack_rows
from chiasm.core.grid import ImageGeometry
from chiasm.core.tokens import VisualTokens

CELLS = ImageGeometry.from_resize((6, 9), (6, 9), (3, 3))


def tokens(*rows: Tensor) -> VisualTokens:
    """Rows of float (n, 6 or more, D): one token each."""
    return VisualTokens.from_images(list(rows), [_grid(len(row)) for row in rows])


def _grid(count: int) -> ImageGeometry:
    return ImageGeometry.from_resize((1, count), (1, count), (1, 1))


def test_sizes_sum_to_all_that_was_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    memory = None
    for step in range(1, 8):
        clip = tokens(*(torch.randn(7, 5, generator=generator) for _ in range(2)))
        memory = consolidate(memory, clip, 11)
        assert memory.mask.sum(1).tolist() == [min(11, 7 * step)] * 2
        assert memory.sizes.sum(1).tolist() == [7 * step] * 2
        assert memory.sources.shape[1] <= 11


def test_rows_of_unequal_length_stay_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(n, 5, generator=generator) for n in (3, 6)]
    second = [torch.randn(n, 5, generator=generator) for n in (4, 2)]
    memory = consolidate(consolidate(None, tokens(*first), None), tokens(*second), None)
    for row, parts in zip(memory.rows(), zip(first, second, strict=True), strict=True):
        assert torch.equal(row, torch.cat(parts))
    assert memory.sources[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_what_happened_once_stays_however_much_follows() -> None:
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(4, 8, generator=generator)
    once = torch.full((1, 8), 3.0) * torch.tensor([1.0, -1.0] * 4)

    def clip() -> Tensor:
        which = torch.randint(0, 4, (12,), generator=generator)
        return usual[which] + 0.1 * torch.randn(12, 8, generator=generator)

    memory = consolidate(None, tokens(torch.cat([clip(), once])), 9)
    for _ in range(60):
        memory = consolidate(memory, tokens(clip()), 9)
    distance = (memory.features[0] - once).norm(dim=1)
    assert float(distance.min()) < 1e-4
    assert int(memory.sizes[0, int(distance.argmin())]) == 1


def test_spans_encoded_apart_are_joined_as_if_together() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(6 * n, 5, generator=generator) for n in (5, 3)]
    whole = VisualTokens(
        features=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        cells=torch.zeros(2, 30, 4),
        sizes=(torch.arange(30) < torch.tensor([[30], [18]])).long(),
        sources=torch.arange(30).where(torch.arange(30) < torch.tensor([[30], [18]]), -1),
        mask=torch.arange(30) < torch.tensor([[30], [18]]),
        times=torch.zeros(2, 30),
        geometries=(CELLS, CELLS),
    )
    cut, spans = split_spans(whole, 2)
    apart = stack_rows([cut.chunk(5)[place] for place in range(5)])
    joined = join_spans(apart, spans)
    assert torch.equal(joined.features, whole.features)
    assert torch.equal(joined.sources, whole.sources)
    # The last span of the first row is short: alone it has no padding.
    short = stack_rows([cut.chunk(5)[0], tokens(rows[0][24:])])
    assert short.mask.sum(1).tolist() == [12, 6]
