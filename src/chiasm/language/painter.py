"""The part of a host that draws: what feeds codes of pictures to the decoder and scores them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import (
    JanusVQVAE,
    JanusVQVAEAlignerMLP,
    JanusVQVAEHead,
)

from chiasm.core.errors import ConfigError, InputError
from chiasm.language.host import Host
from chiasm.language.hosts.janus import JanusAdapter
from chiasm.language.row_draws import draw_rows


class Painter(nn.Module):
    """Embeds the codes of pictures, and scores the code that follows.

    Janus (arXiv:2410.13848, section 3.1): codes have embeddings and an aligner of their own, and a
    head of their own; the decoder is the one that reads text. The modules are the host's.

    Args:
        embeddings: Code to vector: weight float (K, code width).
        aligner: Brings vectors to the width of the decoder.
        head: Scores, from the decoder's states.
    """

    def __init__(self, *, embeddings: nn.Embedding, aligner: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.aligner = aligner
        self.head = head

    @classmethod
    def of(cls, host: Host) -> Painter:
        """Return the painter of a host that can draw.

        Raises:
            ConfigError: The host cannot.
        """
        if not isinstance(host.adapter, JanusAdapter):
            raise ConfigError(
                f"a host of the family {host.adapter.model_type!r} draws no pictures; give one of "
                "the family 'janus', or leave out the generation branch"
            )
        core: Any = host.model.base_model
        return cls(
            embeddings=core.generation_embeddings,
            aligner=core.generation_aligner,
            head=core.generation_head,
        )

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return self.embeddings.num_embeddings

    def embed(self, codes: Tensor, latents: Tensor | None = None) -> Tensor:
        """Return what the decoder reads for codes.

        Args:
            codes: int64 (B, n).
            latents: float (B, n, code width), what the codes were chosen for. Gradients pass to
                them straight through the choice, as if the embedding were the latent (Bengio et
                al., 2013, arXiv:1308.3432); values do not change.

        Returns:
            float (B, n, width of the decoder).

        Raises:
            InputError: Codes and latents are of different pictures.
        """
        vectors = self.embeddings(codes)
        if latents is not None:
            if latents.shape != vectors.shape:
                raise InputError(
                    f"latents {tuple(latents.shape)} for codes whose embeddings are "
                    f"{tuple(vectors.shape)}; the code width of tokenizer and host must agree"
                )
            vectors = vectors + (latents - latents.detach()).to(vectors.dtype)
        embedded: Tensor = self.aligner(vectors)
        return embedded

    def score(self, hidden: Tensor) -> Tensor:
        """Return scores float (..., K) of the code that follows states float (..., width)."""
        scores: Tensor = self.head(hidden)
        return scores


def give_tokenizer(host: Host, tokenizer: JanusVQVAE) -> None:
    """Give a Janus host another tokenizer of pictures.

    What embeds and scores its codes belongs to the old tokenizer's codes and starts anew, by the
    library's own rule and the global generator.

    Raises:
        ConfigError: The host is of another family, or has another grid of codes, which the library
            ties to the tower's.
    """
    Painter.of(host)
    core, own = host.model.base_model, host.model.config.vq_config
    if tokenizer.config.num_patches != own.num_patches:
        raise ConfigError(
            f"a tokenizer of {tokenizer.config.num_patches} codes along a side for a host of "
            f"{own.num_patches} tokens along a side; Janus's configuration has one number for both"
        )
    config = copy.deepcopy(tokenizer.config)
    config.projection_dim = config.image_token_embed_dim = own.image_token_embed_dim
    config.num_hidden_layers = own.num_hidden_layers
    like = core.generation_embeddings.weight
    core.vqmodel = tokenizer.to(like.device, like.dtype)
    core.generation_embeddings = nn.Embedding(config.num_embeddings, config.embed_dim).to(like)
    core.generation_aligner = JanusVQVAEAlignerMLP(config).to(like)
    core.generation_head = JanusVQVAEHead(config).to(like)
    host.model.config.vq_config = config
    fresh = (core.generation_embeddings, core.generation_aligner, core.generation_head)
    for part in fresh:
        part.apply(core._init_weights)
    host.known_again(str(host.identity["name"]), fresh=fresh)


def choose_codes(
    scores: Tensor,
    *,
    temperature: float,
    top_k: int,
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    """Draw one code for each vector of scores.

    Args:
        scores: float (B, K) or (B, n, K).
        temperature: 0 takes the likeliest.
        top_k: Draws among so many of the likeliest; 0 among all.
        generators: Of the draws, one a row; the global one if None.

    Returns:
        int64 (B,) or (B, n).
    """
    if temperature == 0:
        return scores.argmax(-1)
    scores = scores.float() / temperature
    if top_k:
        least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, float("-inf"))
    return draw_rows(scores, generators)
