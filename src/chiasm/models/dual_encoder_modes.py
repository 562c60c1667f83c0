"""Which parts of a dual encoder train: named modes, freeze flags, and which of them wins."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from chiasm.core.config import lookup
from chiasm.core.errors import ConfigError

HOST_VISION, HOST_LANGUAGE = "host vision", "host language"
ENCODERS, FUSION, PROJECTIONS = "encoders", "fusion", "projections"

GROUPS = (HOST_VISION, ENCODERS, HOST_LANGUAGE, FUSION, PROJECTIONS)
"""What a freeze flag addresses."""

TRAINING_MODES: dict[str, tuple[str, ...]] = {
    "full": GROUPS,
    "encoders_only": (HOST_VISION, ENCODERS, FUSION, PROJECTIONS),
    "llm_only": (HOST_LANGUAGE,),
    "fusion_only": (FUSION, PROJECTIONS),
    "qwen_only": (HOST_VISION, FUSION, PROJECTIONS),
    "dinov2_only": (ENCODERS, FUSION, PROJECTIONS),
    "host_vision_only": (HOST_VISION, FUSION, PROJECTIONS),
    "extra_encoders_only": (ENCODERS, FUSION, PROJECTIONS),
}
"""Mode to the groups that train. `qwen_only` and `dinov2_only` are the names of a Qwen host with
one DINOv2; `host_vision_only` and `extra_encoders_only` are the same for any host and encoders."""

FREEZE_FLAGS: dict[str, str] = {
    "freeze_qwen_vision": HOST_VISION,
    "freeze_host_vision": HOST_VISION,
    "freeze_dinov2": ENCODERS,
    "freeze_encoders": ENCODERS,
    "freeze_llm": HOST_LANGUAGE,
    "freeze_fusion_layers": FUSION,
    "freeze_fusion": FUSION,
    "freeze_projections": PROJECTIONS,
}
"""Flag to the group it freezes. Two names of one group are for two ways to call it."""

DRAWING = frozenset({"host_tokenizer", "host_generation"})
"""What draws pictures, in a host that can; an answer never runs it."""

FROZEN_BY_DEFAULT = frozenset({ENCODERS})
"""What stays frozen when nobody says anything."""


def parts_to_train(
    part_names: Collection[str],
    mode: str | None = None,
    freeze_config: Mapping[str, bool] | None = None,
    flags: Mapping[str, bool | None] | None = None,
) -> frozenset[str]:
    """Return the names of the parts that train.

    Group by group, the first of these that says something decides: an explicit flag, the training
    mode, the freeze configuration, the default (extra encoders frozen, all else trained).

    Where the host has low-rank adapters, they stand for its language model: `host_adapter` trains
    when the language model is to train, and `host_language` itself never does.

    Args:
        part_names: The model's parts: `host_vision`, `host_projector`, `host_language`,
            `host_tokenizer` and `host_generation` (which never train), `host_adapter`,
            `encoder.<name>`, `head`, and `fusion.projections`, `fusion.gate`, `fusion.output`, or
            `fusion` where a fusion is one piece.
        mode: Key of `TRAINING_MODES`, or None.
        freeze_config: By key of `FREEZE_FLAGS`, True to freeze. The stored default of a run.
        flags: The same, as given for this run; None where nothing was given.

    Raises:
        UnknownNameError: A mode, flag or part is unknown.
        ConfigError: Two names of one group contradict each other.
    """
    explicit = _by_group("flags", flags or {})
    configured = _by_group("freeze_config", freeze_config or {})
    trained = None if mode is None else lookup(TRAINING_MODES, mode, "training mode")
    frozen: set[str] = set()
    for group in GROUPS:
        if group in explicit:
            freeze = explicit[group]
        elif trained is not None:
            freeze = group not in trained
        else:
            freeze = configured.get(group, group in FROZEN_BY_DEFAULT)
        if freeze:
            frozen.add(group)
    # What draws pictures is in no group: nothing here runs it, so that it could learn nothing.
    train = {n for n in part_names if n not in DRAWING and _group(n) not in frozen}
    return frozenset(train - {"host_language"} if "host_adapter" in part_names else train)


def _by_group(where: str, values: Mapping[str, bool | None]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for flag, freeze in values.items():
        group = lookup(FREEZE_FLAGS, flag, "freeze flag")
        if freeze is None:
            continue
        if found.get(group, freeze) != freeze:
            names = [name for name, of in FREEZE_FLAGS.items() if of == group]
            raise ConfigError(
                f"{where}: {' and '.join(names)} name the same parts and contradict each other; "
                "give one of them"
            )
        found[group] = freeze
    return found


def _group(part: str) -> str:
    if part.startswith("encoder."):
        return ENCODERS
    return lookup(_PARTS, part, "part of a dual encoder")


_PARTS = {
    "host_vision": HOST_VISION,
    # The projector belongs to the host's eye: in Qwen's own module it is one piece with the tower.
    "host_projector": HOST_VISION,
    "host_language": HOST_LANGUAGE,
    "host_adapter": HOST_LANGUAGE,
    # Dense scores supervise the host's tower and are of no use without it.
    "head": HOST_VISION,
    "fusion.projections": PROJECTIONS,
    "fusion.gate": FUSION,
    "fusion.output": FUSION,
    "fusion": FUSION,
}
