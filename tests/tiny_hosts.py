"""Tiny random hosts of the families that `tests.tiny` does not hold, from their real classes.

`build_tiny(family)` gives any of them, and those of `tests.tiny` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from chiasm.language.host import Host
from tests.tiny import TINY_HOSTS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
    "<image_placeholder>",
    "<begin_of_image>",
    "<end_of_image>",
)
VOCABULARY = 269
"""256 bytes, the special tokens, and two rows that no text reaches."""

TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ 'PLACEHOLDER\\n' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def token_id(token: str) -> int:
    """The id of a special token."""
    return 256 + SPECIAL_TOKENS.index(token)


def tiny_tokenizer(placeholder: str) -> PreTrainedTokenizerFast:
    """Single bytes, the special tokens of all families under the names their processors read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=TEMPLATE.replace("PLACEHOLDER", placeholder),
        extra_special_tokens={
            "image_token": placeholder,
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )


def _text(width: int, layers: int, heads: int, keys: int, **text: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 61,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "max_position_embeddings": 4099,
        "initializer_range": 0.2,
        "vocab_size": VOCABULARY,
        "bos_token_id": None,
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
        **text,
    }


def _host(kind: Any, config: Any, seed: int, attention: str, token: str, processor: Any) -> Host:
    torch.manual_seed(seed)
    config._attn_implementation = attention
    return Host(
        model=kind(config).eval(),
        tokenizer=tiny_tokenizer(token),
        image_processor=processor,
        name=f"tiny-{config.model_type}",
    )


PINPOINTS = [[35, 70], [70, 35], [70, 70], [105, 35], [35, 105]]


def tiny_llava_next(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """LLaVA-NeXT: width 42, 3 layers; tiles of 35 pixels, 7 x 7 patches of 5, five canvases."""
    config = LlavaNextConfig(
        text_config=LlamaConfig(**_text(42, 3, 3, 1, **text)),
        vision_config=CLIPVisionConfig(
            hidden_size=34,
            intermediate_size=67,
            num_hidden_layers=5,
            num_attention_heads=2,
            image_size=35,
            patch_size=5,
            projection_dim=29,
            initializer_factor=3.0,
        ),
        image_token_id=token_id("<image>"),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": 35},
        crop_size={"height": 35, "width": 35},
        image_grid_pinpoints=PINPOINTS,
    )
    return _host(LlavaNextForConditionalGeneration, config, seed, attention, "<image>", processor)


def tiny_internvl(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """InternVL: width 44, 3 layers; one to six tiles of 42 pixels, 3 x 3 cells of 14."""
    config = InternVLConfig(
        text_config=Qwen2Config(**_text(44, 3, 2, 1, **text)),
        vision_config={
            "hidden_size": 26,
            "intermediate_size": 37,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "image_size": [42, 42],
            "patch_size": [7, 7],
            "layer_scale_init_value": 0.7,
            "initializer_range": 0.2,
        },
        image_token_id=token_id("<IMG_CONTEXT>"),
        image_seq_length=9,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    processor = GotOcr2ImageProcessor(size={"height": 42, "width": 42}, max_patches=6)
    return _host(
        InternVLForConditionalGeneration, config, seed, attention, "<IMG_CONTEXT>", processor
    )


NEW_HOSTS: dict[str, Callable[..., Host]] = {
    "internvl": tiny_internvl,
    "llava_next": tiny_llava_next,
}
"""One builder for each family of this file."""

ALL_HOSTS: dict[str, Callable[..., Host]] = {**TINY_HOSTS, **NEW_HOSTS}
"""One builder for each family."""


def build_tiny(family: str, seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """A random host of a family, float32, in evaluation mode; `text` overrides text settings."""
    return ALL_HOSTS[family](seed=seed, attention=attention, **text)
