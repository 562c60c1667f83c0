"""MGM (Mini-Gemini, Li et al., 2024, arXiv:2403.18814): published names to a mined LLaVA host.

The composition: a host of the family `mgm` (CLIP tower, layer -2, two-layer projector, a decoder of
transformers), the encoder `convnext`, and the fusion `mining` with the encoder's `oversample` as
its side. MGM-2B and 7B read one square; MGM-HD cuts a grid of squares and adds a global one, which
this composition does not do.

Where the names come from. Read in the published code (dvlab-research/MGM, `mgm_arch.py`,
`openclip_encoder.py`, `clip_encoder.py`): the three projectors `vlm_uni_*`, each a LayerNorm and a
Linear; `vision_tower.vision_tower` around CLIP of transformers; `vision_tower_aux` with
`vision_stem` and `vision_stages`, taken from timm's ConvNeXt; all under `model.`. Recalled, and not
read again for this: the names inside timm's ConvNeXt (`downsample`, `blocks`, `conv_dw`, `norm`,
`mlp.fc1`, `mlp.fc2`, `gamma`), and LLaVA's `mm_projector.0` and `.2`. No published file was at hand
when this was written; `load_renamed` refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from chiasm.language.checkpoints.renaming import WITHOUT_EFFECT, Renamed, Rule, rename

_STAGE = r"model\.vision_tower_aux\.vision_stages\.(\d+)"
_BLOCK = rf"{_STAGE}\.blocks\.(\d+)"
_LAYER = r"model.encoder.stages.\1.layers.\2"
_DECODER = r"(embed_tokens|layers|norm)\..+"


def rename_mgm(state: Mapping[str, Tensor], encoder: str = "convnext") -> Renamed:
    """Rename a published MGM state dictionary.

    A checkpoint whose towers were never tuned may lack them; then name them in `elsewhere` of
    `load_renamed`.

    Args:
        state: Tensors by their published names.
        encoder: Name of the ConvNeXt among the encoders that the fusion was built for.

    Returns:
        Modules `host` (the host's `model`), `fusion` and `encoder`.
    """
    return rename(state, _rules(encoder))


def _rules(encoder: str) -> tuple[Rule, ...]:
    mined = ((r"query", "query"), (r"aux", f"keys.{encoder}"), (r"val", f"values.{encoder}"))
    return (
        # A shift of all keys shifts all scores of a query alike, which softmax does not see.
        (r"(model\.vlm_uni_aux_projector\.[01]\.bias)", WITHOUT_EFFECT, r"\1"),
        *(
            (rf"model\.vlm_uni_{theirs}_projector\.(.+)", "fusion", rf"{ours}.\1")
            for theirs, ours in mined
        ),
        (r"model\.mm_projector\.0\.(.+)", "host", r"model.multi_modal_projector.linear_1.\1"),
        (r"model\.mm_projector\.2\.(.+)", "host", r"model.multi_modal_projector.linear_2.\1"),
        (
            r"model\.vision_tower\.vision_tower\.vision_model\.(.+)",
            "host",
            r"model.vision_tower.\1",
        ),
        (rf"model\.({_DECODER})", "host", r"model.language_model.\1"),
        (r"(lm_head\..+)", "host", r"\1"),
        (
            r"model\.vision_tower_aux\.vision_stem\.0\.(.+)",
            "encoder",
            r"model.embeddings.patch_embeddings.\1",
        ),
        (
            r"model\.vision_tower_aux\.vision_stem\.1\.(.+)",
            "encoder",
            r"model.embeddings.layernorm.\1",
        ),
        (
            rf"{_STAGE}\.downsample\.(\d+)\.(.+)",
            "encoder",
            r"model.encoder.stages.\1.downsampling_layer.\2.\3",
        ),
        (rf"{_BLOCK}\.conv_dw\.(.+)", "encoder", rf"{_LAYER}.dwconv.\3"),
        (rf"{_BLOCK}\.norm\.(.+)", "encoder", rf"{_LAYER}.layernorm.\3"),
        (rf"{_BLOCK}\.mlp\.fc1\.(.+)", "encoder", rf"{_LAYER}.pwconv1.\3"),
        (rf"{_BLOCK}\.mlp\.fc2\.(.+)", "encoder", rf"{_LAYER}.pwconv2.\3"),
        (rf"{_BLOCK}\.gamma", "encoder", rf"{_LAYER}.layer_scale_parameter"),
    )
