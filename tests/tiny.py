"""Tiny random hosts, built from the real configuration classes, for tests of every stage.

Sizes are primes where the class allows, and distinct, so that equal numbers hide no bug. Rotary
heads must be even, and a width that heads divide is not prime; those stay as small as they can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, Batch
from chiasm.language.host import Host

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
)
VOCABULARY = 269
"""256 bytes, the special tokens, and five rows that no text reaches."""

_IMAGE = "{%- if part['type'] == 'image' -%}%s{%- else -%}{{ part['text'] }}{%- endif -%}"
_CONTENT = (
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}IMAGE{%- endfor -%}{%- endif -%}"
)
_TURNS = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' }}CONTENT"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def chat_template(image_text: str) -> str:
    """A chat template that writes `image_text` for an image."""
    image = _IMAGE.replace("%s", "{{ '" + image_text + "' }}")
    return _TURNS.replace("CONTENT", _CONTENT.replace("IMAGE", image))


QWEN_TEMPLATE = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
LLAVA_TEMPLATE = chat_template("<image>\\n")


def tiny_tokenizer(
    template: str = QWEN_TEMPLATE,
    special: Sequence[str] = SPECIAL_TOKENS,
    names: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes with a chat template.

    Args:
        template: The chat template.
        special: Special tokens; their ids follow the bytes in this order.
        names: Further special tokens by the names under which processors read them.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=template,
        extra_special_tokens=dict(names or {}),
    )


def token_id(token: str) -> int:
    """The id of a special token in every tiny tokenizer."""
    return 256 + SPECIAL_TOKENS.index(token)


def _qwen_ids() -> dict[str, int]:
    return {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
    }


def _text_ids() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "bos_token_id": None,
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
    }


def tiny_qwen2_5_vl_config(**text: Any) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL: width 44, 3 layers; tower of 5 layers, patch 7, cells of 14 pixels."""
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 44,
            "intermediate_size": 53,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4099,
            "initializer_range": 0.2,
            # Half of a head, 11, in sections for time, rows and columns.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10007.0,
                "mrope_section": [3, 5, 3],
            },
            **_text_ids(),
            **text,
        },
        vision_config={
            "depth": 5,
            "hidden_size": 24,
            "intermediate_size": 37,
            "num_heads": 2,
            "patch_size": 7,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 28,
            "fullatt_block_indexes": [1, 4],
            "out_hidden_size": text.get("hidden_size", 44),
            "initializer_range": 0.2,
        },
        tie_word_embeddings=False,
        **_qwen_ids(),
    )


def tiny_qwen3_vl_config(**text: Any) -> Qwen3VLConfig:
    """Qwen3-VL: width 47, 3 layers, deepstack of 2; tower of 5 layers, cells of 10 pixels."""
    return Qwen3VLConfig(
        text_config={
            "hidden_size": 47,
            "intermediate_size": 59,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 22,
            "max_position_embeddings": 4099,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10007.0,
                "mrope_section": [5, 3, 3],
                "mrope_interleaved": True,
            },
            **_text_ids(),
            **text,
        },
        vision_config={
            "depth": 5,
            "hidden_size": 36,
            "intermediate_size": 41,
            "num_heads": 3,
            "patch_size": 5,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 49,
            "deepstack_visual_indexes": [1, 3],
            "out_hidden_size": text.get("hidden_size", 47),
            "initializer_range": 0.2,
        },
        tie_word_embeddings=False,
        **_qwen_ids(),
    )


def tiny_llava_config(**text: Any) -> LlavaConfig:
    """LLaVA-1.5: width 42, 3 layers; CLIP tower of 5 layers at 35 pixels, 7 x 7 patches of 5."""
    return LlavaConfig(
        text_config=LlamaConfig(
            **{
                "hidden_size": 42,
                "intermediate_size": 61,
                "num_hidden_layers": 3,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "max_position_embeddings": 4099,
                "initializer_range": 0.2,
                **_text_ids(),
                **text,
            }
        ),
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
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _qwen_images(patch_size: int) -> Qwen2VLImageProcessor:
    cell = patch_size * 2
    return Qwen2VLImageProcessor(
        patch_size=patch_size,
        merge_size=2,
        temporal_patch_size=2,
        # Four to thirty-five cells an image.
        size={"shortest_edge": 4 * cell * cell, "longest_edge": 35 * cell * cell},
    )


def _attention(config: Any, attention: str) -> Any:
    config._attn_implementation = attention
    return config


def tiny_qwen2_5_vl(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """A random Qwen2.5-VL host, float32, in evaluation mode; `text` overrides text settings."""
    torch.manual_seed(seed)
    config = _attention(tiny_qwen2_5_vl_config(**text), attention)
    return Host(
        model=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tiny_tokenizer(QWEN_TEMPLATE),
        image_processor=_qwen_images(patch_size=7),
        name="tiny-qwen2_5_vl",
    )


def tiny_qwen3_vl(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """A random Qwen3-VL host, float32, in evaluation mode; `text` overrides text settings."""
    torch.manual_seed(seed)
    config = _attention(tiny_qwen3_vl_config(**text), attention)
    return Host(
        model=Qwen3VLForConditionalGeneration(config).eval(),
        tokenizer=tiny_tokenizer(QWEN_TEMPLATE),
        image_processor=_qwen_images(patch_size=5),
        name="tiny-qwen3_vl",
    )


def tiny_llava(seed: int = 0, attention: str = "sdpa", **text: Any) -> Host:
    """A random LLaVA-1.5 host, float32, in evaluation mode; `text` overrides text settings."""
    torch.manual_seed(seed)
    config = _attention(tiny_llava_config(**text), attention)
    return Host(
        model=LlavaForConditionalGeneration(config).eval(),
        tokenizer=tiny_tokenizer(LLAVA_TEMPLATE),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 35}, crop_size={"height": 35, "width": 35}
        ),
        name="tiny-llava",
    )


TINY_HOSTS = {
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "llava": tiny_llava,
}
"""One builder a family, for parametrised tests."""


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A random RGB image with large and small structure."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    base = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = generator.integers(-40, 41, (height, width, 3))
    return Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def tiny_batch(
    host: Host,
    conversations: Sequence[Sequence[str | Image.Image]],
    *,
    answers: Sequence[str] = (),
    padding: Literal["left", "right"] = "right",
) -> Batch:
    """Build a batch by hand: one user turn a row, of texts and images, and the answer if given.

    The answer, with the token that ends it, is supervised.
    """
    images = [part for row in conversations for part in row if not isinstance(part, str)]
    prepared = host.preparer.prepare(images)
    counts = iter(prepared.token_counts)
    rows: list[tuple[list[int], list[int]]] = []
    for index, parts in enumerate(conversations):
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]
        pieces = host.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        ).split(host.image_token)
        text = pieces[0] + "".join(host.image_text(next(counts)) + piece for piece in pieces[1:])
        ids = host.tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = (
            [*host.tokenizer(answers[index])["input_ids"], host.tokenizer.eos_token_id]
            if answers
            else []
        )
        rows.append((ids + answer, [IGNORE] * len(ids) + answer))
    longest = max(len(ids) for ids, _ in rows)

    def pad(values: list[int], fill: int) -> list[int]:
        filler = [fill] * (longest - len(values))
        return filler + values if padding == "left" else values + filler

    input_ids = torch.tensor([pad(ids, host.pad_id) for ids, _ in rows])
    attention_mask = torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows])
    placeholders = (input_ids == host.image_token_id) & (attention_mask == 1)
    owners = [
        row
        for row, parts in enumerate(conversations)
        for part in parts
        if not isinstance(part, str)
    ]
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        labels=torch.tensor([pad(labels, IGNORE) for _, labels in rows]),
        token_types=placeholders.long() * IMAGE_TOKEN,
        host_images=prepared.tensors,
        image_rows=torch.tensor(owners, dtype=torch.long),
        geometries=prepared.geometries,
    )
