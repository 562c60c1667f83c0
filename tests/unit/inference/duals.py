"""Tiny dual encoders whose fusion speaks, as after training."""

from __future__ import annotations

from typing import Any

import torch

from chiasm.core.samples import Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.fusion import FUSIONS
from chiasm.models.dual_encoder import DualEncoder
from tests.tiny import TINY_HOSTS, picture
from tests.tiny_eyes import tiny_encoder

IMAGE = picture(61, 83, 1)
QUESTIONS = ("What is it?", "Where?", "How many of them are there?")


def build_dual(
    family: str = "qwen2_5_vl", *names: str, fusion: str = "gated", **collation: Any
) -> DualEncoder:
    """A random dual encoder; `names` are its extra encoders, `dinov2` when none is given."""
    host = TINY_HOSTS[family]()
    encoders = {name: tiny_encoder(name) for name in names or ("dinov2",)}
    torch.manual_seed(7)
    widths = {name: encoder.width for name, encoder in encoders.items()}
    settings: dict[str, dict[str, Any]] = {
        "gated": {"width": 31, "scope": "token"},
        "interleave": {"opened": True},
    }
    module = FUSIONS[fusion](**settings.get(fusion, {})).build(
        host_width=host.width, encoder_widths=widths
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    transforms = {name: encoder.transform for name, encoder in encoders.items()}
    prompter = Prompter(host.tokenizer, host.image_token)
    collator = Collator(prompter, host.preparer, transforms, **collation)
    return DualEncoder(host=host, encoders=encoders, fusion=module, collator=collator).eval()


def build_host_alone(family: str = "qwen2_5_vl") -> DualEncoder:
    """A random host without extra encoders."""
    host = TINY_HOSTS[family]()
    collator = Collator(Prompter(host.tokenizer, host.image_token), host.preparer)
    return DualEncoder(host=host, encoders={}, fusion=None, collator=collator).eval()


def conversation(question: str, image: Any = IMAGE) -> list[dict[str, Any]]:
    """The messages of one question about an image."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def asked(question: str, identifier: str = "q", image: Any = IMAGE) -> Sample:
    """The sample of one question about an image."""
    return Sample(identifier, (Turn("user", (0, question)),), (image,))
