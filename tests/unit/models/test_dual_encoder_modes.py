"""Modes and flags of the source, and which of them wins."""

from __future__ import annotations

import itertools

import pytest

from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.models.dual_encoder_modes import FREEZE_FLAGS, TRAINING_MODES, parts_to_train

HOST = ["host_vision", "host_projector", "host_language"]
GATED = ["fusion.projections", "fusion.gate", "fusion.output"]
PARTS = [*HOST, "encoder.dinov2", "encoder.siglip", *GATED]
EYE, VOICE, EYES = HOST[:2], HOST[2:], ["encoder.dinov2", "encoder.siglip"]
LAYERS, PROJECTIONS = GATED[1:], GATED[:1]

EXPECTED = {
    "full": PARTS,
    "encoders_only": EYE + EYES + GATED,
    "llm_only": VOICE,
    "fusion_only": GATED,
    "qwen_only": EYE + GATED,
    "dinov2_only": EYES + GATED,
    "host_vision_only": EYE + GATED,
    "extra_encoders_only": EYES + GATED,
}
FROZEN = {
    "freeze_qwen_vision": EYE,
    "freeze_host_vision": EYE,
    "freeze_dinov2": EYES,
    "freeze_encoders": EYES,
    "freeze_llm": VOICE,
    "freeze_fusion_layers": LAYERS,
    "freeze_fusion": LAYERS,
    "freeze_projections": PROJECTIONS,
}


@pytest.mark.parametrize("mode", sorted(TRAINING_MODES))
def test_modes(mode: str) -> None:
    assert parts_to_train(PARTS, mode) == set(EXPECTED[mode])


def test_by_default_only_the_extra_encoders_are_frozen() -> None:
    assert parts_to_train(PARTS) == set(PARTS) - set(EYES)


@pytest.mark.parametrize("flag", sorted(FREEZE_FLAGS))
def test_each_flag_freezes_its_parts(flag: str) -> None:
    for level in ({"flags": {flag: True}}, {"freeze_config": {flag: True}}):
        assert parts_to_train(PARTS, None, **level) == set(PARTS) - set(EYES) - set(FROZEN[flag])
    assert parts_to_train(PARTS, "full", flags={flag: True}) == set(PARTS) - set(FROZEN[flag])


@pytest.mark.parametrize(
    ("flag", "mode", "config"),
    list(
        itertools.product([None, True, False], [None, "full", "fusion_only"], [None, True, False])
    ),
)
@pytest.mark.parametrize(("name", "parts"), [("freeze_dinov2", EYES), ("freeze_llm", VOICE)])
def test_a_flag_beats_a_mode_beats_the_configuration_beats_the_default(
    name: str, parts: list[str], flag: bool | None, mode: str | None, config: bool | None
) -> None:
    trained = parts_to_train(PARTS, mode, {} if config is None else {name: config}, {name: flag})
    if flag is not None:
        expected = not flag
    elif mode is not None:
        expected = mode == "full"
    elif config is not None:
        expected = not config
    else:
        expected = name != "freeze_dinov2"
    assert (set(parts) <= trained) == expected
    assert (trained.isdisjoint(parts)) == (not expected)


def test_the_template_of_the_source() -> None:
    config = {
        "freeze_qwen_vision": False,
        "freeze_dinov2": True,
        "freeze_llm": False,
        "freeze_fusion_layers": False,
        "freeze_projections": False,
    }
    assert parts_to_train(PARTS, None, config) == set(PARTS) - set(EYES)
    assert parts_to_train(PARTS, "full", config) == set(PARTS)
    assert parts_to_train(PARTS, "full", config, {"freeze_dinov2": True}) == set(PARTS) - set(EYES)


def test_a_fusion_of_one_piece_goes_with_the_fusion_layers() -> None:
    parts = [*HOST, "encoder.dinov2", "fusion"]
    assert "fusion" in parts_to_train(parts, "fusion_only")
    assert "fusion" in parts_to_train(parts, None, {"freeze_projections": True})
    assert "fusion" not in parts_to_train(parts, None, {"freeze_fusion_layers": True})


def test_adapters_stand_for_the_language_model() -> None:
    parts = [*PARTS, "host_adapter"]
    assert parts_to_train(parts, "llm_only") == {"host_adapter"}
    assert "host_adapter" not in parts_to_train(parts, "fusion_only")


def test_a_dense_head_goes_with_the_host_eye() -> None:
    assert "head" in parts_to_train([*PARTS, "head"], "qwen_only")
    assert "head" not in parts_to_train([*PARTS, "head"], "llm_only")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"training mode 'fusion_onyl'.*'fusion_only'"):
        parts_to_train(PARTS, "fusion_onyl")
    with pytest.raises(UnknownNameError, match=r"freeze flag 'freeze_lm'.*'freeze_llm'"):
        parts_to_train(PARTS, flags={"freeze_lm": True})
    with pytest.raises(UnknownNameError, match="part of a dual encoder 'tower'"):
        parts_to_train(["tower"])


def test_two_names_of_one_group_must_agree() -> None:
    flags = {"freeze_fusion": True, "freeze_fusion_layers": False}
    with pytest.raises(ConfigError, match="freeze_fusion_layers and freeze_fusion name the same"):
        parts_to_train(PARTS, flags=flags)
    agreeing = {"freeze_fusion": True, "freeze_fusion_layers": None}
    assert parts_to_train(PARTS, "full", flags=agreeing) == set(PARTS) - set(LAYERS)
