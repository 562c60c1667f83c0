"""Tiny random grounding models of every host family, and conversations for them to point in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiasm.core.protocols import Fusion
from chiasm.core.samples import Phrase, Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.masks import ArrayMask
from chiasm.data.prompts import Prompter
from chiasm.encoders.protocol import Encoder
from chiasm.heads.mask_refiner import MaskRefiner
from chiasm.heads.mask_unet import MaskUNetConfig
from chiasm.heads.text_layers import TextLayersConfig
from chiasm.language.host import Host
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.grounding import Grounding
from chiasm.models.phrase_masks import PhraseMasks
from tests.tiny import picture
from tests.tiny_hosts import build_tiny
from tests.tiny_sams import tiny_sam

REQUEST = "Name what is in the picture."
SIZES = ((41, 59), (30, 97), (83, 31), (35, 35), (61, 47))
"""Height and width of the pictures, in turn."""


def build_base(
    host: Host, encoders: dict[str, Encoder] | None = None, fusion: Fusion | None = None
) -> DualEncoder:
    """What answers: a host alone, or with further eyes."""
    eyes = encoders or {}
    prompter = Prompter(host.tokenizer, host.image_token, host.image_text)
    transforms = {name: eye.transform for name, eye in eyes.items()}
    collator = Collator(prompter, host.preparer, transforms)
    return DualEncoder(host=host, encoders=eyes, fusion=fusion, collator=collator).eval()


def build_masks(host: Host, refines: bool = True, least: int = 16) -> PhraseMasks:
    """Random heads that fit a host."""
    text = host.model.config.get_text_config()
    layers, heads = text.num_hidden_layers, text.num_attention_heads
    torch.manual_seed(11)
    channels = layers * heads * host.adapter.most_grids
    head = MaskUNetConfig(channels=channels, widths=(5, 7), least=least).build()
    if not refines:
        return PhraseMasks(mask_head=head)
    return PhraseMasks(
        mask_head=head,
        refiner=MaskRefiner(sam=tiny_sam(), at_once=5),
        text_layers=TextLayersConfig(layers=layers, width=host.width, prompt_width=24).build(),
    )


def build_on(base: DualEncoder, masks: PhraseMasks, **settings: Any) -> Grounding:
    """A model that answers as `base` and points with `masks`."""
    own = base.collator
    collator = Collator(own.prompter, own.preparer, {**own.transforms, **masks.transforms})
    return Grounding(base=base, masks=masks, collator=collator, **settings).eval()


def build_grounder(family: str, refines: bool = True, **settings: Any) -> Grounding:
    """A random model that points, of a host family."""
    host = build_tiny(family)
    return build_on(build_base(host), build_masks(host, refines), **settings)


def said(
    identifier: str,
    words: Sequence[str],
    images: Sequence[Image.Image],
    shown: Sequence[int] = (),
    asks: str = REQUEST,
) -> Sample:
    """A conversation about pictures in which the assistant says words, each of them a phrase.

    Args:
        identifier: Of the sample; those of the phrases are `<identifier>/<place>`.
        words: The phrases, in order; joined by ", ".
        images: The pictures, all in the user's turn.
        shown: For each phrase the picture it means; by default the first.
        asks: What the user says after the pictures.
    """
    phrases = []
    start = 0
    for place, text in enumerate(words):
        image = shown[place] if shown else 0
        size = (images[image].height, images[image].width)
        phrases.append(
            Phrase(
                turn=1,
                start=start,
                stop=start + len(text),
                image=image,
                mask=ArrayMask(quarter(size, place)),
                identifier=f"{identifier}/{place}",
            )
        )
        start += len(text) + 2
    turns = (
        Turn("user", (*range(len(images)), asks)),
        Turn("assistant", (", ".join(words),), supervised=True),
    )
    return Sample(identifier, turns, tuple(images), phrases=tuple(phrases))


def quarter(size: tuple[int, int], place: int) -> Any:
    """A mask of one quarter of a picture."""
    mask = np.zeros(size, np.bool_)
    rows = slice(size[0] // 2, None) if place % 2 else slice(0, size[0] // 2)
    columns = slice(size[1] // 2, None) if place // 2 % 2 else slice(0, size[1] // 2)
    mask[rows, columns] = True
    return mask


def pictures(count: int, first: int = 0) -> list[Image.Image]:
    """Pictures of different sizes."""
    return [picture(*SIZES[n % len(SIZES)], seed=n) for n in range(first, first + count)]


def conversations() -> list[Sample]:
    """Rows of different length: two phrases; two pictures, the later one first; one phrase."""
    return [
        said("one", ["the red cup", "a box"], pictures(1)),
        said("two", ["both of these", "left", "the dog"], pictures(2, 1), shown=[1, 0, 1]),
        said("three", ["it"], pictures(1, 3), asks="?"),
    ]


def only(sample: Sample, place: int) -> Sample:
    """The same conversation with one of its phrases."""
    phrases = (sample.phrases[place],)
    return Sample(sample.identifier, sample.turns, sample.images, phrases=phrases)
