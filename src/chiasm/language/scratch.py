"""A host from scratch: Qwen2.5-VL classes at a size of one's own, and a tokenizer of its own text.

For hosts small enough to train where no checkpoint can be had, and for experiments in which the
whole history of a host must be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

from chiasm.core.config import Config
from chiasm.language.host import Host
from chiasm.layers.patches import start_from_cosines

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO)


def chat_template(picture: str) -> str:
    """Return the template of Qwen-VL's conversations, with what stands for a picture."""
    return (
        "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
        "{%- for part in message['content'] -%}"
        f"{{%- if part['type'] == 'image' -%}}{{{{ {picture!r} }}}}"
        "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )


CHAT_TEMPLATE = chat_template(f"{VISION_START}{IMAGE}{VISION_END}")


class ScratchHostConfig(Config):
    """Sizes of a Qwen2.5-VL host that starts from random weights.

    Attributes:
        vocabulary: Most tokens of the tokenizer, special tokens and the 256 bytes included.
        width: Width of the language model.
        layers: Layers of the language model.
        heads: Query heads; each is `width / heads` wide.
        key_value_heads: Key and value heads, shared by groups of query heads.
        intermediate: Width inside the language model's MLPs.
        vision_width: Width of the tower.
        vision_layers: Layers of the tower; all of them attend to the whole picture.
        vision_heads: Heads of the tower.
        vision_intermediate: Width inside the tower's MLPs.
        patch: Side of a patch in pixels of the resized picture.
        merge: Patches along a side of a visual token.
        pixels: (least, most) pixels of the resized picture; the picture keeps its shape.
        rotary_base: Base of the rotary positions. M-RoPE gives rows and columns of a picture the
            lower frequencies of a head (Wang et al., 2024, arXiv:2409.12191, section 2.1). With a
            narrow head and a small grid the usual 10000 leaves columns no measurable angle: 0.02
            radians over 7 columns for a head of 32, against 1.9 with a base of 10.
        rotary_layout: How M-RoPE shares the frequencies of a head: `blocks` gives time the highest,
            then rows, then columns, as Qwen2.5-VL does; `interleaved` gives each direction its
            share of all of them, as Qwen3-VL does, so that rows and columns both have high ones to
            tell neighbours by, and the lowest hardly turn at all and are left for content.
        attention_start: `alike` starts half of the key heads, with their query heads, so that a
            token attends to tokens like itself, in the lowest frequencies of the head: query and
            key weights are the same random projection (the product is near a multiple of the
            identity, as in trained models: Trockman and Kolter, 2023, arXiv:2305.09828). `random`
            starts as transformers does.
        patch_basis: How the tower's patch embedding starts: `cosine` reads a patch by its
            frequencies, each scaled against its weight in pictures, so that fine detail is not
            drowned by the mean colour; `random` as transformers does.
        embedding_deviation: Standard deviation of the initial weights of the language model.
        seed: Seed of the initial weights.
    """

    vocabulary: int = Field(default=640, ge=300)
    width: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 320
    vision_width: int = 96
    vision_layers: int = 4
    vision_heads: int = 4
    vision_intermediate: int = 192
    patch: int = 4
    merge: int = 2
    pixels: tuple[int, int] = (32 * 32, 56 * 56)
    rotary_base: float = Field(default=10.0, gt=1)
    rotary_layout: Literal["blocks", "interleaved"] = "blocks"
    attention_start: Literal["random", "alike"] = "random"
    patch_basis: Literal["cosine", "random"] = "cosine"
    embedding_deviation: float = Field(default=0.02, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> ScratchHostConfig:
        if self.width % (self.heads * 2) or self.heads % self.key_value_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of twice the heads ({self.heads}), and "
                f"heads a multiple of key_value_heads ({self.key_value_heads})"
            )
        if self.vision_width % (self.vision_heads * 4):
            raise ValueError(
                f"vision_width {self.vision_width} must be a multiple of four times vision_heads "
                f"({self.vision_heads}), for rotary positions in two directions"
            )
        return self

    def build(self, corpus: Iterable[str]) -> Host:
        """Train the tokenizer on a corpus and initialise the model."""
        tokenizer = train_tokenizer(corpus, self.vocabulary)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = Qwen2_5_VLForConditionalGeneration(self._model_config(tokenizer))
            if self.attention_start == "alike":
                for layer in model.model.language_model.layers:
                    start_alike(layer.self_attn, self.heads, self.key_value_heads)
        if self.patch_basis == "cosine":
            start_from_cosines(model.model.visual.patch_embed.proj.weight)
        return Host(
            model=model,
            tokenizer=tokenizer,
            image_processor=Qwen2VLImageProcessor(
                patch_size=self.patch,
                merge_size=self.merge,
                temporal_patch_size=2,
                size={"shortest_edge": self.pixels[0], "longest_edge": self.pixels[1]},
            ),
            name="scratch",
        )

    def _model_config(self, tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
        token = tokenizer.convert_tokens_to_ids
        half = self.width // self.heads // 2
        return Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": self.width,
                "intermediate_size": self.intermediate,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_value_heads,
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": self.rotary_base,
                    "mrope_section": _sections(half, self.rotary_layout),
                },
                "initializer_range": self.embedding_deviation,
                "tie_word_embeddings": True,
                "bos_token_id": None,
                "eos_token_id": token(TURN_END),
                "pad_token_id": token(END_OF_TEXT),
            },
            vision_config={
                "depth": self.vision_layers,
                "hidden_size": self.vision_width,
                "intermediate_size": self.vision_intermediate,
                "num_heads": self.vision_heads,
                "patch_size": self.patch,
                "spatial_merge_size": self.merge,
                "temporal_patch_size": 2,
                "window_size": 8 * self.patch * self.merge,
                "fullatt_block_indexes": list(range(self.vision_layers)),
                "out_hidden_size": self.width,
            },
            image_token_id=token(IMAGE),
            video_token_id=token(VIDEO),
            vision_start_token_id=token(VISION_START),
            vision_end_token_id=token(VISION_END),
            tie_word_embeddings=True,
        )


def _sections(half: int, layout: Literal["blocks", "interleaved"]) -> list[int]:
    """Return how many frequencies go to time, rows, columns, time, rows, ... in turn."""
    side = half * 7 // 16
    time = half - 2 * side
    if layout == "blocks":
        return [time, side, side]
    # The first and what is left over at the end go to time.
    return [1] + [1, 1, 0] * (side - 1) + [1, 1, time - 1]


CONTENT_FROM = 0.375
"""Part of a head's frequencies, from the highest, that an alike start leaves to positions."""


@torch.no_grad()
def start_alike(attention: Any, heads: int, key_value_heads: int, gain: float = 1.0) -> None:
    """Make the first half of the key heads, and their query heads, prefer tokens alike.

    Args:
        attention: Attention module with `q_proj` and `k_proj`, weights (heads * D, width).
        heads: Query heads.
        key_value_heads: Key heads, each shared by a group of query heads.
        gain: Size of the projection; at 1 the score of a token with itself is about the root of D.
    """
    query, key = attention.q_proj.weight, attention.k_proj.weight
    size, width = query.shape[0] // heads, query.shape[1]
    half = size // 2
    first = int(CONTENT_FROM * half)
    # A frequency turns the pair of dimensions i and i + half.
    content = [*range(first, half), *range(half + first, size)]
    group = heads // key_value_heads
    for head in range(max(1, key_value_heads // 2)):
        projection = torch.randn(len(content), width) * gain * (size / len(content) / width) ** 0.5
        key[head * size : (head + 1) * size].mul_(0.1)
        key[[head * size + place for place in content]] = projection
        for own in range(head * group, (head + 1) * group):
            query[own * size : (own + 1) * size].mul_(0.1)
            query[[own * size + place for place in content]] = projection


def train_tokenizer(
    corpus: Iterable[str],
    vocabulary: int,
    special: tuple[str, ...] = SPECIAL_TOKENS,
    template: str = CHAT_TEMPLATE,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Any text can be written with it, since every byte is a token; words of the corpus are short.

    Args:
        corpus: Texts.
        vocabulary: Most tokens; a small corpus may give fewer.
        special: Tokens of their own: the one that ends a text first.
        template: Of the conversations.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=TURN_END,
        additional_special_tokens=list(special[1:]),
        chat_template=template,
    )
