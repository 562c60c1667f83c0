"""One stream out of several. Each fusion starts as a no-op on the host it is added to."""

from chiasm.fusion.gated import GatedFusionConfig

FUSIONS = {
    "gated": GatedFusionConfig,
}
"""Name to configuration; `FUSIONS[name](...).build(host_width=, encoder_widths=)` is a `Fusion`.

A fusion of your own: a configuration class with that `build`, added here by one line, or simply an
object with a `fuse` method given to the model.
"""
