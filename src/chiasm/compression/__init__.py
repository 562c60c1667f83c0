"""Few tokens out of many, with sizes and sources."""

from chiasm.compression.merging import GuidedMergingConfig, SimilarityMergingConfig
from chiasm.compression.uniform import UniformDroppingConfig

CompressionConfig = GuidedMergingConfig | SimilarityMergingConfig | UniformDroppingConfig
"""Every configuration of the table."""

COMPRESSIONS: dict[str, type[CompressionConfig]] = {
    "guided": GuidedMergingConfig,
    "similarity": SimilarityMergingConfig,
    "uniform": UniformDroppingConfig,
}
"""Name to configuration; `COMPRESSIONS[name](...).build()` is a `Compression`."""
