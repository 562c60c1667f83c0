"""Random grounding models of real parts: a tiny host, a small mask head, a tiny refiner."""

from __future__ import annotations

import torch

from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.heads.mask_refiner import MaskRefiner
from chiasm.heads.mask_unet import MaskUNetConfig
from chiasm.heads.text_layers import TextLayersConfig
from chiasm.models.dual_encoder import DualEncoder
from chiasm.models.grounding import Grounding
from chiasm.models.phrase_masks import PhraseMasks
from tests.tiny import TINY_HOSTS
from tests.tiny_sams import tiny_sam

LAYERS, HEADS, WIDTH = 3, 2, 44
"""Of the tiny Qwen2.5-VL."""


def build_grounder(refines: bool = True, least: int = 64) -> Grounding:
    """A random model that answers and points."""
    host = TINY_HOSTS["qwen2_5_vl"]()
    torch.manual_seed(11)
    head = MaskUNetConfig(channels=LAYERS * HEADS, widths=(5, 7), least=least).build()
    masks = PhraseMasks(mask_head=head)
    if refines:
        refiner = MaskRefiner(
            sam=tiny_sam(),
            use_mask=True,
            use_box=True,
            use_text=True,
            multimask=False,
            resolution="image",
            at_once=3,
        )
        text = TextLayersConfig(layers=LAYERS, width=WIDTH, prompt_width=24).build()
        masks = PhraseMasks(mask_head=head, refiner=refiner, text_layers=text)
    prompter = Prompter(host.tokenizer, host.image_token)
    plain = Collator(prompter, host.preparer)
    base = DualEncoder(host=host, encoders={}, fusion=None, collator=plain)
    collator = Collator(prompter, host.preparer, masks.transforms)
    return Grounding(base=base, masks=masks, collator=collator).eval()
