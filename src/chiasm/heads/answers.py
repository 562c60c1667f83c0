"""Answers out of a closed set: the words of a question look at the states of a video.

Words attend to each other, then to the states, in turn; the mean of the words scores the answers.
Attention to states adds log(size), so that a merged state counts as often as what it stands for,
unless it is told not to.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError
from chiasm.layers.attention.dense import softmax_attention
from chiasm.layers.attention.rows import Projections, log_weights
from chiasm.layers.mlp import MLP


class AnswerHeadConfig(Config):
    """The head.

    Attributes:
        depth: Layers, each with both attentions.
        heads: Attention heads.
        expansion: Width of the MLP's inner layer, in widths of a token.
        longest: Most words of a question.
        proportional: Whether a merged state counts as often as what it stands for. Without it what
            happened once weighs as much as what lasted, however long the video.
    """

    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    expansion: int = Field(default=2, ge=1)
    longest: int = Field(default=32, ge=1)
    proportional: bool = True

    def build(self, *, width: int, words: int, answers: int) -> AnswerHead:
        """Build the head for states of a width, ids below `words`, and a number of answers."""
        return AnswerHead(
            width=width,
            words=words,
            answers=answers,
            depth=self.depth,
            heads=self.heads,
            expansion=self.expansion,
            longest=self.longest,
            proportional=self.proportional,
        )


class AnswerHead(nn.Module):
    """Scores a closed set of answers.

    Args:
        width: Width of a state.
        words: How many ids of words there are.
        answers: How many answers there are.
        depth: As in the configuration.
        heads: As in the configuration.
        expansion: As in the configuration.
        longest: As in the configuration.
        proportional: As in the configuration.
    """

    def __init__(
        self,
        *,
        width: int,
        words: int,
        answers: int,
        depth: int,
        heads: int,
        expansion: int,
        longest: int,
        proportional: bool = True,
    ) -> None:
        super().__init__()
        self.longest = longest
        self.proportional = proportional
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(longest, width)
        self.layers = nn.ModuleList(
            _Layer(width=width, heads=heads, expansion=expansion) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, answers)

    def forward(
        self,
        ids: Tensor,
        known: Tensor,
        asked: Tensor,
        states: Tensor,
        mask: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        """Score answers.

        Args:
            ids: int64 (Q, S), words.
            known: bool (Q, S), True for a word; a question without any is answered from the video.
            asked: int64 (Q,), the row of states of each question, ascending.
            states: float (V, N, D).
            mask: bool (V, N), True for a real state.
            sizes: int64 (V, N), how many original tokens each state stands for.

        Returns:
            float (Q, answers).

        Raises:
            InputError: A question has more words than the head knows places.
        """
        if ids.shape[1] > self.longest:
            raise InputError(
                f"a question of {ids.shape[1]} words; this head reads at most {self.longest}"
            )
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.places(places)
        # A row without words still needs something to attend to.
        known = known | (~known.any(1, keepdim=True) & (places == 0))
        own = log_weights(known.float())
        counted = sizes if self.proportional else torch.ones_like(sizes)
        shown = log_weights(torch.where(mask, counted, 0).float())
        assert own is not None and shown is not None
        slots = _slots(asked, len(states))
        for layer in self.layers:
            x = cast("Tensor", layer(x, own, states, shown, slots))
        share = known / known.sum(1, keepdim=True)
        pooled = (self.norm(x) * share[..., None].to(x.dtype)).sum(1)
        return cast("Tensor", self.scores(pooled))


class _Layer(nn.Module):
    """Words see words, then states, then an MLP."""

    def __init__(self, *, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.own = Projections(width=width, heads=heads)
        self.shown = Projections(width=width, heads=heads)
        self.mlp = MLP(width=width, hidden=expansion * width, output=width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, x: Tensor, own: Tensor, states: Tensor, shown: Tensor, slots: tuple[Tensor, int]
    ) -> Tensor:
        """Return float (Q, S, D); `own` and `shown` are the biases of words and states."""
        queries, keys, values = self.own(self.norms[0](x))
        x = x + self.own.join(softmax_attention(queries, keys, values, bias=own))
        # All questions about a video stand in one row: its keys and values are made once.
        places, most = slots
        words = x.shape[1]
        gathered = x.new_zeros((len(states) * most, *x.shape[1:]))
        gathered = gathered.index_copy(0, places, self.norms[1](x))
        queries = self.shown.queries(gathered.view(len(states), most * words, -1))
        found = softmax_attention(queries, *self.shown.memory(states), bias=shown)
        joined = self.shown.join(found).view(len(states) * most, words, -1)
        x = x + joined[places]
        return x + cast("Tensor", self.mlp(self.norms[2](x)))


def _slots(asked: Tensor, videos: int) -> tuple[Tensor, int]:
    """Return the place of each question in a table (video, question), flat, and its columns."""
    counts = torch.bincount(asked, minlength=videos)
    most = int(counts.max())
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(asked), device=asked.device) - first[asked]
    return asked * most + rank, most
