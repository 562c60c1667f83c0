"""Attention types, one file each, with one interface: `rows.Mixer`.

    ATTENTION["performer"](width=768, heads=12, causal=True).build()

Between tokens of one row:

| name | a token sees | cost of N tokens | state of a causal stream |
|---|---|---|---|
| `dense` | all | N^2 | grows |
| `strided` | every `stride`-th, and a window | N^2 / stride | grows |
| `local_global` | a window and the first tokens | N window | flat |
| `cross_memory` | `slots` averages of the row | N slots | flat |
| `performer` | all, estimated | N features | flat |
| `mamba` | all, through a state | N state | flat |
| `hierarchical` | near ones in detail, far ones averaged | N window + (N / 4)^2 | `top` chooses |
| `linear` | as its mixer; a whole layer with MLP | N | flat |

None of them knows places in a row but `mamba` and the windows: give tokens position embeddings.
"""

from chiasm.layers.attention.cross_memory import CrossMemoryAttentionConfig
from chiasm.layers.attention.dense import DenseAttentionConfig
from chiasm.layers.attention.hierarchical import HierarchicalAttentionConfig
from chiasm.layers.attention.linear import LinearBlockConfig
from chiasm.layers.attention.local_global import LocalGlobalAttentionConfig
from chiasm.layers.attention.mamba import MambaConfig
from chiasm.layers.attention.performer import PerformerAttentionConfig
from chiasm.layers.attention.strided import StridedAttentionConfig

AnyAttentionConfig = (
    DenseAttentionConfig
    | StridedAttentionConfig
    | LocalGlobalAttentionConfig
    | CrossMemoryAttentionConfig
    | PerformerAttentionConfig
    | MambaConfig
    | HierarchicalAttentionConfig
    | LinearBlockConfig
)
"""Every configuration of the table."""

ATTENTION: dict[str, type[AnyAttentionConfig]] = {
    "dense": DenseAttentionConfig,
    "strided": StridedAttentionConfig,
    "local_global": LocalGlobalAttentionConfig,
    "cross_memory": CrossMemoryAttentionConfig,
    "performer": PerformerAttentionConfig,
    "mamba": MambaConfig,
    "hierarchical": HierarchicalAttentionConfig,
    "linear": LinearBlockConfig,
}
"""Name to configuration; `ATTENTION[name](width=, heads=, causal=, ...).build()` is a `Mixer`."""
