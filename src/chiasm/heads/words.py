"""A dense head that speaks in the words of the language model that will read the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from chiasm.core.tokens import VisualTokens
from chiasm.heads.cells import to_grids


class WordHead(nn.Module):
    """Scores what a cell shows by how much its token resembles the embeddings of words.

    The score of a word is the dot product of the visual token and the word's embedding, both in
    units of the embeddings' standard deviation, over the root of the width. A tower trained under
    this head writes tokens that are sums of the embeddings of what they show ("red" + "striped" +
    "circle"), of the size of embeddings. To a language model such a token is almost a phrase:
    finding the token that a word names is finding a like vector, and answering is copying one.

    Background has a classifier of its own, since no word names it. The embeddings are read anew in
    every call and get no gradient from here.

    Args:
        width: Width of the tokens.
        words: By attribute, for each class but background the token ids of its spellings.
        embeddings: Returns the language model's embedding matrix, float (V, width).
    """

    def __init__(
        self,
        *,
        width: int,
        words: Mapping[str, Sequence[Sequence[int]]],
        embeddings: Callable[[], Tensor],
    ) -> None:
        super().__init__()
        self.background = background_classifiers(width, tuple(words))
        self._words = {name: [list(ids) for ids in spelled] for name, spelled in words.items()}
        self._embeddings = embeddings
        self._deviation = float(embeddings().detach().float().std())

    def predict(self, tokens: VisualTokens) -> dict[str, Tensor]:
        """Score the classes of each cell; class 0 is background.

        Args:
            tokens: One token a cell of each image's grid, float (I, N, width).

        Returns:
            `cells.<attribute>`: float (I, rows, columns, 1 + words), see `CellHead.predict`.

        Raises:
            GeometryError: Tokens were compressed, so that cells have no token of their own.
        """
        table = self._embeddings().detach().float() / self._deviation
        scaled = tokens.features.float() / self._deviation
        found = {}
        for name, spelled in self._words.items():
            meanings = torch.stack([table[ids].mean(0) for ids in spelled])
            scores = scaled @ meanings.T / table.shape[1] ** 0.5
            both = torch.cat([self.background[name](scaled), scores], dim=-1)
            found[f"cells.{name}"] = to_grids(both, tokens)
        return found


def background_classifiers(width: int, attributes: Sequence[str]) -> nn.ModuleDict:
    """Build all that a `WordHead` learns: one score of background for each attribute."""
    return nn.ModuleDict({name: nn.Linear(width, 1) for name in attributes})
