"""A host from scratch that also draws: Janus classes at a size of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessor,
    PreTrainedTokenizerBase,
)

from chiasm.core.config import Config
from chiasm.language.host import Host
from chiasm.language.scratch import (
    END_OF_TEXT,
    TURN_END,
    TURN_START,
    chat_template,
    train_tokenizer,
)
from chiasm.layers.patches import start_from_cosines

PLACEHOLDER, BEGIN, END = "<image_placeholder>", "<begin_of_image>", "<end_of_image>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PLACEHOLDER, BEGIN, END)


SMALL_PICTURES: dict[str, Any] = {
    "embed_dim": 16,
    "num_embeddings": 512,
    "latent_channels": 64,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "num_patches": 8,
}
"""64 codes for a picture of 64 x 64 pixels."""


class ScratchJanusConfig(Config):
    """Sizes of a Janus host that starts from random weights.

    Attributes:
        family: `janus`; tells this form from that of the Qwen2.5-VL host.
        vocabulary: Rows of the embedding, and most tokens of the tokenizer, which a small corpus
            may not fill.
        width: Width of the decoder.
        layers: Layers of the decoder.
        heads: Attention heads of the decoder; each is `width / heads` wide.
        intermediate: Width inside the decoder's MLPs.
        vision_width: Width of the tower.
        vision_layers: Layers of the tower.
        vision_heads: Heads of the tower.
        vision_ratio: Width inside the tower's MLPs, as a multiple of `vision_width`.
        side: Height and width of the pictures that the tower reads, in pixels.
        patch: Side of a patch in pixels.
        mean: By channel, what is taken from pixels in [0, 1] before the tower.
        deviation: By channel, what they are divided by then.
        pictures: The tokenizer of pictures, as values of the library's `JanusVQVAEConfig`. Its
            `num_patches`, codes along a side, is `side / patch`: the library ties the two.
        rotary_base: Base of the rotary positions.
        patch_basis: How the patch embedding starts; see `ScratchHostConfig`.
        embedding_deviation: Standard deviation of the initial weights.
        seed: Seed of the initial weights.
    """

    family: Literal["janus"]
    vocabulary: int = Field(default=640, ge=300)
    width: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 320
    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    vision_ratio: float = Field(default=2.0, gt=0)
    side: int = 64
    patch: int = 8
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pictures: dict[str, Any] = Field(default_factory=lambda: dict(SMALL_PICTURES))
    rotary_base: float = Field(default=10000.0, gt=1)
    patch_basis: Literal["cosine", "random"] = "cosine"
    embedding_deviation: float = Field(default=0.02, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> ScratchJanusConfig:
        faults = []
        if self.width % (2 * self.heads):
            faults.append(f"width {self.width} is no multiple of twice the heads ({self.heads})")
        if self.vision_width % self.vision_heads:
            faults.append(
                f"vision_width {self.vision_width} is no multiple of vision_heads "
                f"({self.vision_heads})"
            )
        if self.side % self.patch:
            faults.append(f"side {self.side} is no multiple of patch ({self.patch})")
        codes = self.pictures.get("num_patches")
        if codes != self.side // self.patch:
            faults.append(
                f"pictures.num_patches {codes} is not side / patch ({self.side // self.patch}), "
                "to which Janus's configuration sets it"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def build(self, corpus: Iterable[str]) -> Host:
        """Train the text tokenizer on a corpus and initialise the model."""
        tokenizer = train_tokenizer(
            corpus,
            self.vocabulary,
            special=SPECIAL_TOKENS,
            template=chat_template(PLACEHOLDER + "\n"),
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = JanusForConditionalGeneration(self._model_config(tokenizer))
        if self.patch_basis == "cosine":
            embedding = model.model.vision_model.embeddings.patch_embedding
            start_from_cosines(embedding.weight[:, :, None])
        size = {"height": self.side, "width": self.side}
        processor = JanusImageProcessor(
            size=size, image_mean=list(self.mean), image_std=list(self.deviation)
        )
        return Host(model=model, tokenizer=tokenizer, image_processor=processor, name="scratch")

    def _model_config(self, tokenizer: PreTrainedTokenizerBase) -> JanusConfig:
        token = tokenizer.convert_tokens_to_ids
        shared: dict[str, Any] = {"initializer_range": self.embedding_deviation}
        return JanusConfig(
            text_config={
                **shared,
                "model_type": "llama",
                "vocab_size": self.vocabulary,
                "hidden_size": self.width,
                "intermediate_size": self.intermediate,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.heads,
                "max_position_embeddings": 16384,
                "rope_parameters": {"rope_type": "default", "rope_theta": self.rotary_base},
                "tie_word_embeddings": True,
                "bos_token_id": None,
                "eos_token_id": token(TURN_END),
                "pad_token_id": token(END_OF_TEXT),
            },
            vision_config={
                "hidden_size": self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "mlp_ratio": self.vision_ratio,
                "image_size": self.side,
                "patch_size": self.patch,
                "projection_dim": self.width,
                "num_image_tokens": (self.side // self.patch) ** 2,
            },
            vq_config={
                **self.pictures,
                "projection_dim": self.width,
                "image_token_embed_dim": self.width,
            },
            image_token_id=token(PLACEHOLDER),
            tie_word_embeddings=True,
        )
