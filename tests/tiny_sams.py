"""Tiny random Segment Anything models from the real configuration classes.

Their weights are large, so that logits are of order 1 and a wrong one shows.
"""

from __future__ import annotations

from typing import Any

import torch

from chiasm.heads.sam import SamConfig
from chiasm.heads.segment_anything import SegmentAnything

_PROMPTS = {"hidden_size": 24, "mask_input_channels": 12}
_DECODER = {
    "hidden_size": 24,
    "mlp_dim": 19,
    "num_attention_heads": 3,
    "iou_head_hidden_dim": 13,
    "num_hidden_layers": 2,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # Images of 35 x 35, patches of 7: 5 x 5 places, masks of 20 x 20.
    "sam": {
        "initializer_range": 0.3,
        "vision_config": {
            "hidden_size": 26,
            "output_channels": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 35,
            "patch_size": 7,
            "window_size": 3,
            "global_attn_indexes": [1],
            "num_pos_feats": 12,
            "mlp_dim": 31,
            "initializer_range": 0.3,
        },
        "prompt_encoder_config": {**_PROMPTS, "image_size": 35, "patch_size": 7},
        "mask_decoder_config": _DECODER,
    },
    # Hiera halves three times after strides of 4: images of 64 x 64, 4 x 4 places, masks 16 x 16.
    "sam2": {
        "model_type": "sam2",
        "initializer_range": 0.3,
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 6,
                "num_attention_heads": 1,
                "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 3, 1],
                "embed_dim_per_stage": [6, 12, 24, 48],
                "num_attention_heads_per_stage": [1, 2, 3, 4],
                "window_size_per_stage": [4, 2, 2, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [3, 3],
                "initializer_range": 0.3,
            },
            "backbone_channel_list": [48, 24, 12, 6],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 24,
            "initializer_range": 0.3,
        },
        "prompt_encoder_config": {**_PROMPTS, "image_size": 64, "patch_size": 16},
        "mask_decoder_config": _DECODER,
    },
}


def tiny_sam(name: str = "sam", seed: int = 0) -> SegmentAnything:
    """A random model of a generation, in evaluation mode."""
    torch.manual_seed(seed)
    return SegmentAnything(SamConfig(architecture=ARCHITECTURES[name]).build()).eval()
