"""Hosts of tiles and of padded squares beside the library's processors; what trains in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    DeepseekVLHybridProcessor,
    DeepseekVLProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    JanusProcessor,
    LlavaNextProcessor,
)

from chiasm.core.samples import Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.language.host import Host
from chiasm.language.parts import check_cover
from tests.parity.test_hosts import conversations, spliced
from tests.tiny import picture, tiny_batch
from tests.tiny_hosts import NEW_HOSTS, build_tiny


@pytest.fixture(scope="module", params=sorted(NEW_HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    return build_tiny(request.param)


def processor(host: Host) -> Any:
    """The library's own processor of a family, around the same pieces."""
    pieces = {
        "image_processor": host.image_processor,
        "tokenizer": host.tokenizer,
        "chat_template": host.tokenizer.chat_template,
    }
    return {
        "deepseek_vl": lambda: DeepseekVLProcessor(**pieces, num_image_tokens=49),
        "deepseek_vl_hybrid": lambda: DeepseekVLHybridProcessor(**pieces, num_image_tokens=49),
        "internvl": lambda: InternVLProcessor(
            **pieces, video_processor=InternVLVideoProcessor(), image_seq_length=9
        ),
        "janus": lambda: JanusProcessor(**pieces, num_image_tokens=49),
        "llava_next": lambda: LlavaNextProcessor(
            **pieces,
            patch_size=5,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        ),
    }[host.adapter.model_type]()


def test_text_and_pixels_equal_the_librarys_processor(host: Host) -> None:
    images = [picture(41, 59, 1), picture(30, 97, 2), picture(23, 20, 3), picture(149, 31, 4)]
    rows = [["What is this? ", images[0]], [images[1], "and", images[2], images[3], "differ?"]]
    content = [
        [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part}
            for part in row
        ]
        for row in rows
    ]
    theirs = processor(host).apply_chat_template(
        [[{"role": "user", "content": parts}] for parts in content],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    ours = tiny_batch(host, rows)
    assert torch.equal(ours.input_ids, theirs["input_ids"])
    assert torch.equal(ours.attention_mask, theirs["attention_mask"])
    for name, tensor in ours.host_images.items():
        assert torch.equal(tensor, theirs[name]), name
    # The way of training and inference, through the prompter, writes the same.
    prompter = Prompter(host.tokenizer, host.image_token, host.image_text)
    samples = [
        Sample(
            f"row {index}",
            (Turn("user", tuple(p if isinstance(p, str) else pictures(row, p) for p in row)),),
            tuple(part for part in row if not isinstance(part, str)),
        )
        for index, row in enumerate(rows)
    ]
    batch = Collator(prompter, host.preparer).collate(samples, generation=True)
    for index in range(2):
        assert torch.equal(
            batch.input_ids[index][batch.attention_mask[index] == 1],
            ours.input_ids[index][ours.attention_mask[index] == 1],
        )
    assert (batch.token_types == 1).sum() == (batch.input_ids == host.image_token_id).sum()


def pictures(row: list[Any], part: Any) -> int:
    """The index of an image among the images of its row."""
    return [piece for piece in row if not isinstance(piece, str)].index(part)


def test_parts_cover_the_model(host: Host) -> None:
    parts = host.parts
    drawing = {"tokenizer", "generation"} if host.adapter.model_type == "janus" else set()
    assert set(parts) == {"vision", "projector", "language"} | drawing
    check_cover(host.model, parts)
    assert all(any(True for _ in part.parameters()) for part in parts.values())


def test_gradients_reach_every_part_that_reading_runs(host: Host) -> None:
    fresh = build_tiny(host.adapter.model_type)
    batch = tiny_batch(fresh, conversations(), answers=["a", "b", "c"])
    logits, targets = fresh.supervised(spliced(fresh, batch), fresh.read(spliced(fresh, batch)))
    torch.nn.functional.cross_entropy(logits, targets).backward()
    for name, part in fresh.parts.items():
        reached = any(
            parameter.grad is not None and bool(parameter.grad.any())
            for parameter in part.parameters()
        )
        assert reached == (name not in ("tokenizer", "generation")), name


def test_no_images_give_nothing(host: Host) -> None:
    prepared = host.preparer.prepare([])
    assert (dict(prepared.tensors), prepared.geometries, prepared.token_counts) == ({}, (), ())
