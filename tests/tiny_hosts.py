"""Tiny random hosts of the families that `tests.tiny` does not hold, from their real classes.

`build_tiny(family)` gives any of them, and those of `tests.tiny` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessor,
    DeepseekVLImageProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SamVisionConfig,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from chiasm.language.host import Host
from tests import tiny
from tests.tiny import TINY_HOSTS, tiny_llava

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


def token_id(token: str) -> int:
    """The id of a special token."""
    return 256 + SPECIAL_TOKENS.index(token)


def tiny_tokenizer(placeholder: str, without: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Single bytes, the special tokens of all families under the names their processors read."""
    names = {
        "image_token": placeholder,
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    special = [
        token if token not in without else f"<unused {i}>" for i, token in enumerate(SPECIAL_TOKENS)
    ]
    known = {key: name for key, name in names.items() if name not in without}
    return tiny.tiny_tokenizer(tiny.chat_template(f"{placeholder}\\n"), special, known)


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


def _siglip() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=34,
        intermediate_size=67,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=35,
        patch_size=5,
        vision_use_head=False,
    )


def tiny_deepseek_vl(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """DeepSeek-VL: width 42, 3 layers; SigLIP tower of 5 layers, 7 x 7 patches of 5."""
    config = DeepseekVLConfig(
        text_config=LlamaConfig(**_text(42, 3, 3, 1, **text)),
        vision_config=_siglip(),
        image_token_id=token_id("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = DeepseekVLImageProcessor(size={"height": 35, "width": 35}, min_size=3)
    kind = DeepseekVLForConditionalGeneration
    return _host(kind, config, seed, attention, "<image_placeholder>", processor)


def tiny_deepseek_vl_hybrid(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """DeepSeek-VL with a SAM tower at 88 pixels beside the SigLIP tower at 35."""
    config = DeepseekVLHybridConfig(
        text_config=LlamaConfig(**_text(42, 3, 3, 1, **text)),
        vision_config=_siglip(),
        high_res_vision_config=SamVisionConfig(
            hidden_size=26,
            output_channels=11,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=88,
            patch_size=8,
            window_size=3,
            global_attn_indexes=[1],
            mlp_dim=31,
            initializer_range=0.2,
        ),
        image_token_id=token_id("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = DeepseekVLHybridImageProcessor(
        size={"height": 35, "width": 35}, high_res_size={"height": 88, "width": 88}, min_size=3
    )
    kind = DeepseekVLHybridForConditionalGeneration
    return _host(kind, config, seed, attention, "<image_placeholder>", processor)


def tiny_janus(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """Janus: width 42, 3 layers; its own tower of 5 layers, 7 x 7 patches of 5."""
    config = JanusConfig(
        text_config=LlamaConfig(**_text(42, 3, 3, 1, **text)),
        vision_config={
            "hidden_size": 34,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "mlp_ratio": 2.0,
            "image_size": 35,
            "patch_size": 5,
            "projection_dim": 42,
            "num_image_tokens": 49,
            "initializer_range": 0.2,
        },
        vq_config={
            "embed_dim": 3,
            "num_embeddings": 13,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "projection_dim": 42,
            "image_token_embed_dim": 42,
        },
        image_token_id=token_id("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = JanusImageProcessor(size={"height": 35, "width": 35}, min_size=3)
    kind = JanusForConditionalGeneration
    return _host(kind, config, seed, attention, "<image_placeholder>", processor)


def tiny_padded_llava(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """The LLaVA of `tests.tiny` with the processor that pads to a square first."""
    return _like_llava(tiny_llava(seed, attention, **text))


def tiny_mgm(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """MGM without its fine eye: the same, with a projector that comes after a fusion."""
    return _like_llava(tiny_llava(seed, attention, **text), host_family="mgm")


def tiny_hpt(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """HPT: LLaVA classes around SigLIP, layer -2; pictures stretched to 35 pixels, 7 x 7 cells."""
    config = LlavaConfig(
        text_config=LlamaConfig(**_text(42, 3, 3, 1, **text)),
        vision_config=_siglip(),
        image_token_id=token_id("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    processor = SiglipImageProcessor(size={"height": 35, "width": 35})
    return _host(LlavaForConditionalGeneration, config, seed, attention, "<image>", processor)


def _like_llava(host: Host, **values: Any) -> Host:
    host.model.config.update(values)
    return Host(
        model=host.model,
        tokenizer=host.tokenizer,
        image_processor=LlavaImageProcessor(
            size={"shortest_edge": 35}, crop_size={"height": 35, "width": 35}, do_pad=True
        ),
        name="tiny",
    )


NEW_HOSTS: dict[str, Callable[..., Host]] = {
    "deepseek_vl": tiny_deepseek_vl,
    "deepseek_vl_hybrid": tiny_deepseek_vl_hybrid,
    "internvl": tiny_internvl,
    "janus": tiny_janus,
    "llava_next": tiny_llava_next,
}
"""One builder for each family of this file."""

ALL_HOSTS: dict[str, Callable[..., Host]] = {
    **TINY_HOSTS,
    **NEW_HOSTS,
    "hpt": tiny_hpt,
    "llava, padded": tiny_padded_llava,
    "mgm": tiny_mgm,
}
"""One builder for each family, and for each other way to compose one."""


def build_tiny(family: str, seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """A random host of a family, float32, in evaluation mode; `text` overrides text settings."""
    return ALL_HOSTS[family](seed=seed, attention=attention, **text)
