"""One stream out of several. Each fusion starts as a no-op on the host it is added to."""

from chiasm.fusion.concat import ConcatFusionConfig
from chiasm.fusion.cross_attention import CrossAttentionFusionConfig
from chiasm.fusion.gated import GatedFusionConfig
from chiasm.fusion.interleave import InterleaveFusionConfig
from chiasm.fusion.mining import MiningFusionConfig

FusionConfig = (
    GatedFusionConfig
    | ConcatFusionConfig
    | InterleaveFusionConfig
    | CrossAttentionFusionConfig
    | MiningFusionConfig
)
"""Every configuration of the table."""

FUSIONS: dict[str, type[FusionConfig]] = {
    "gated": GatedFusionConfig,
    "concat": ConcatFusionConfig,
    "interleave": InterleaveFusionConfig,
    "cross_attention": CrossAttentionFusionConfig,
    "mining": MiningFusionConfig,
}
"""Name to configuration; `FUSIONS[name](...).build(host_width=, encoder_widths=)` is a `Fusion`.

A fusion of your own: a configuration class with that `build`, added here by one line, or simply an
`nn.Module` with a `fuse` method given to the model.
"""
