"""Phrase tokens as prompts: a learned mixture of the host's layers, projected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import InputError


class TextLayersConfig(Config):
    """Mixture of layers and its projection.

    Attributes:
        layers: Hidden states mixed: the outputs of the host's decoder layers, embeddings left out.
        width: Width of the host's hidden states.
        prompt_width: Width of a prompt (256 for SAM).
    """

    layers: int = Field(gt=0)
    width: int = Field(gt=0)
    prompt_width: int = Field(default=256, gt=0)

    def build(self) -> TextLayers:
        """Build the mixture."""
        return TextLayers(layers=self.layers, width=self.width, prompt_width=self.prompt_width)


class TextLayers(nn.Module):
    """Sums layers with softmax weights, all equal at the start, and projects each token.

    Every token of a phrase is kept: a phrase of five tokens becomes five prompts (F-LMM, Wu et
    al., 2024, arXiv:2406.05821).

    Args:
        layers: As in the configuration.
        width: As in the configuration.
        prompt_width: As in the configuration.
    """

    def __init__(self, *, layers: int, width: int, prompt_width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(layers))
        self.project = nn.Linear(width, prompt_width)

    def mix(self, states: Tensor) -> Tensor:
        """Sum hidden states float (layers, T, width) over layers to float (T, width), float32.

        Raises:
            InputError: There are more or fewer layers than weights.
        """
        if states.dim() != 3 or states.shape[0] != len(self.weights):
            raise InputError(
                f"text layers: hidden states of shape {tuple(states.shape)} for "
                f"{len(self.weights)} layers; give (layers, tokens, width), embeddings left out"
            )
        return torch.einsum("l,ltd->td", self.weights.float().softmax(dim=0), states.float())

    def forward(self, states: Tensor) -> Tensor:
        """Return the prompts of T tokens, float (T, prompt_width).

        Args:
            states: float (layers, T, width), hidden states of the tokens.

        Raises:
            InputError: As `mix`.
        """
        prompts: Tensor = self.project(self.mix(states).to(self.project.weight.dtype))
        return prompts

    def predict(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the prompts of each phrase.

        Args:
            states: For each phrase float (layers, its tokens, width).

        Returns:
            For each phrase float (its tokens, prompt_width).

        Raises:
            InputError: As `mix`, or a phrase has no token.
        """
        if not states:
            return []
        counts = [one.shape[1] for one in states]
        if 0 in counts:
            raise InputError(
                f"text layers: phrase {counts.index(0)} of the batch has no token; a phrase must "
                "cover at least one"
            )
        return list(self(torch.cat(list(states), dim=1)).split(counts))


def pad_prompts(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Gather prompts of unequal number in one batch.

    Args:
        prompts: For each of P phrases float (its tokens, D).

    Returns:
        float (P, most tokens, D), zeros at the end of short ones; bool (P, most tokens), True for
        a real prompt.
    """
    padded = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    counts = torch.tensor([len(one) for one in prompts], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]
