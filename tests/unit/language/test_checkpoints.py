"""Published names of MGM and HPT: every tensor finds its place, and nothing is passed over."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import CheckpointError, UnknownNameError
from chiasm.core.tokens import VisualTokens
from chiasm.encoders import ENCODERS
from chiasm.fusion import FUSIONS
from chiasm.language.checkpoints import load_renamed, rename_hpt, rename_mgm, resize_positions
from chiasm.language.host import Host
from tests.tiny import picture, tiny_batch
from tests.tiny_eyes import stretched
from tests.tiny_hosts import build_tiny

KINDS = ("weight", "bias")
CONVNEXT: dict[str, Any] = {
    "hidden_sizes": [5, 7, 11],
    "depths": [1, 2, 1],
    "num_stages": 3,
    "patch_size": 2,
}


def mgm(seed: int) -> dict[str, nn.Module]:
    host = build_tiny("mgm", seed=seed)
    torch.manual_seed(seed)
    encoder = ENCODERS["convnext"](architecture=CONVNEXT, oversample=4).build().eval()
    fusion = FUSIONS["mining"](side=4).build(
        host_width=host.token_width, encoder_widths={"convnext": encoder.width}
    )
    with torch.no_grad():
        for module in (encoder, fusion):
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return {"host": host, "fusion": fusion, "encoder": encoder}


def targets(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    host = modules["host"]
    assert isinstance(host, Host)
    return {**modules, "host": host.model}


TO_MGM = {
    "host": [
        (r"model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
        (r"model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
        (r"model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
        (r"model\.language_model\.", "model."),
    ],
    "fusion": [
        (r"query\.", "model.vlm_uni_query_projector."),
        (r"keys\.convnext\.", "model.vlm_uni_aux_projector."),
        (r"values\.convnext\.", "model.vlm_uni_val_projector."),
    ],
    "encoder": [
        (r"model\.embeddings\.patch_embeddings\.", "model.vision_tower_aux.vision_stem.0."),
        (r"model\.embeddings\.layernorm\.", "model.vision_tower_aux.vision_stem.1."),
        (r"model\.encoder\.stages\.", "model.vision_tower_aux.vision_stages."),
        (r"downsampling_layer", "downsample"),
        (r"\.layers\.", ".blocks."),
        (r"dwconv", "conv_dw"),
        (r"(?<=\d\.)layernorm", "norm"),
        (r"pwconv1", "mlp.fc1"),
        (r"pwconv2", "mlp.fc2"),
        (r"layer_scale_parameter", "gamma"),
    ],
}
"""The way back, written apart from the map under test."""


def published_mgm(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    published: dict[str, Tensor] = {}
    for module, part in targets(modules).items():
        for name, tensor in part.state_dict().items():
            theirs = name
            for pattern, replacement in TO_MGM[module]:
                theirs = re.sub(
                    ("^" if replacement.startswith("model.") else "") + pattern, replacement, theirs
                )
            assert theirs not in published
            published[theirs] = tensor.clone()
    for layer, width in ((0, sum(CONVNEXT["hidden_sizes"])), (1, 34)):
        published[f"model.vlm_uni_aux_projector.{layer}.bias"] = torch.randn(width)
    return published


NAMES = """
model.embed_tokens.weight
model.layers.2.self_attn.q_proj.weight
model.norm.weight
lm_head.weight
model.mm_projector.0.weight
model.mm_projector.2.bias
model.vlm_uni_query_projector.0.weight
model.vlm_uni_query_projector.1.bias
model.vlm_uni_aux_projector.0.bias
model.vlm_uni_aux_projector.1.weight
model.vlm_uni_val_projector.1.weight
model.vision_tower.vision_tower.vision_model.embeddings.class_embedding
model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight
model.vision_tower_aux.vision_stem.0.weight
model.vision_tower_aux.vision_stem.1.bias
model.vision_tower_aux.vision_stages.0.blocks.0.gamma
model.vision_tower_aux.vision_stages.1.downsample.0.weight
model.vision_tower_aux.vision_stages.1.downsample.1.weight
model.vision_tower_aux.vision_stages.1.blocks.1.conv_dw.weight
model.vision_tower_aux.vision_stages.1.blocks.1.norm.weight
model.vision_tower_aux.vision_stages.2.blocks.0.mlp.fc1.bias
model.vision_tower_aux.vision_stages.2.blocks.0.mlp.fc2.bias
""".split()
"""Names as they are published, each kind once."""


def logits(modules: dict[str, nn.Module]) -> Tensor:
    host, encoder, fusion = modules["host"], modules["encoder"], modules["fusion"]
    assert isinstance(host, Host)
    images = [picture(41, 59, 1), picture(83, 31, 2)]
    batch = tiny_batch(host, [["What ", images[0]], [images[1], "is it?"]])
    with torch.no_grad():
        seen = host.encode(batch.host_images, batch.geometries)
        prepared = [
            encoder.transform(image, geometry)  # type: ignore[operator]
            for image, geometry in zip(images, batch.geometries, strict=True)
        ]
        fine = encoder.encode(prepared, batch.geometries)  # type: ignore[operator]
        fused = fusion.fuse(seen.tokens, {"convnext": fine})  # type: ignore[operator]
        return host.logits(host.read(host.splice(batch, fused.tokens, seen.extras)))


def test_a_published_mgm_gives_the_same_logits() -> None:
    source, other = mgm(seed=1), mgm(seed=2)
    published = published_mgm(source)
    assert set(NAMES) <= set(published)
    assert not torch.allclose(logits(source), logits(other), atol=0.1)
    renamed = rename_mgm(published)
    assert renamed.unknown == ()
    # That they are without effect is shown below.
    assert renamed.without_effect == tuple(
        f"model.vlm_uni_aux_projector.{layer}.bias" for layer in (0, 1)
    )
    load_renamed(renamed, targets(other))
    assert torch.equal(logits(source), logits(other))


def test_mining_under_published_names_equals_the_published_arithmetic() -> None:
    """Equations 1 to 3 of the paper on the published tensors, biases of the keys included."""
    source = mgm(seed=1)
    published = published_mgm(source)

    def mapped(x: Tensor, name: str) -> Tensor:
        weights = [published[f"model.vlm_uni_{name}_projector.0.{kind}"] for kind in KINDS]
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], *weights)
        weights = [published[f"model.vlm_uni_{name}_projector.1.{kind}"] for kind in KINDS]
        return torch.nn.functional.linear(x, *weights)

    grid = stretched(50, 50, 3, 5)
    tower = torch.randn(1, 15, 34)
    fine = torch.randn(1, 15, 16, 23)
    scores = mapped(tower, "query")[:, :, None] @ mapped(fine, "aux").transpose(-1, -2) / 34**0.5
    expected = tower + (scores.softmax(-1) @ mapped(fine, "val"))[:, :, 0]
    fused = source["fusion"].fuse(  # type: ignore[operator]
        VisualTokens.from_images(list(tower), [grid]),
        {"convnext": VisualTokens.from_images(list(fine.flatten(2)), [grid])},
    )
    # Measured: 3e-6 at values of up to 9.
    torch.testing.assert_close(fused.tokens.features, expected, atol=5e-5, rtol=0)


def test_what_does_not_fit_is_told_and_nothing_is_loaded() -> None:
    source, other = mgm(seed=1), mgm(seed=2)
    published = published_mgm(source)
    del published["model.norm.weight"]
    published["model.pixel_head.weight"] = torch.zeros(2)
    published["model.vision_tower_aux.vision_stages.9.blocks.0.gamma"] = torch.zeros(2)
    published["model.mm_projector.0.bias"] = torch.zeros(3)
    before = logits(other)
    with pytest.raises(CheckpointError) as caught:
        load_renamed(rename_mgm(published), targets(other))
    for told in (
        "1 published names that no rule knows (model.pixel_head.weight)",
        "1 missing from host (model.language_model.norm.weight)",
        "1 unknown to encoder (model.encoder.stages.9.layers.0.layer_scale_parameter)",
        "1 of another shape in host (model.multi_modal_projector.linear_1.bias (3,) for (42,))",
        "nothing was loaded",
    ):
        assert told in str(caught.value)
    assert torch.equal(logits(other), before)


def test_a_tower_that_was_never_tuned_may_come_from_elsewhere() -> None:
    source, other = mgm(seed=1), mgm(seed=2)
    published = {
        name: tensor
        for name, tensor in published_mgm(source).items()
        if not name.startswith("model.vision_tower.")
    }
    with pytest.raises(CheckpointError, match=r"missing from host \(model.vision_tower"):
        load_renamed(rename_mgm(published), targets(other))
    load_renamed(rename_mgm(published), targets(other), ["host/model.vision_tower."])
    ours, theirs = targets(other)["host"], targets(source)["host"]
    assert torch.equal(ours.lm_head.weight, theirs.lm_head.weight)  # type: ignore[union-attr, arg-type]
    with pytest.raises(UnknownNameError, match="known: host"):
        load_renamed(rename_mgm(published), {"host": ours})


def test_published_hpt_gives_the_same_logits() -> None:
    source, other = build_tiny("hpt", seed=1), build_tiny("hpt", seed=2)
    state = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}

    def folder(before: str, after: str) -> dict[str, Tensor]:
        return {
            after + name.removeprefix(before): tensor
            for name, tensor in state.items()
            if name.startswith(before)
        }

    llm = folder("model.language_model.", "model.") | {"lm_head.weight": state["lm_head.weight"]}
    tower = folder("model.vision_tower.", "vision_model.")
    projector = folder("model.multi_modal_projector.linear_1", "model.0")
    projector |= folder("model.multi_modal_projector.linear_2", "model.2")
    assert "vision_model.embeddings.position_embedding.weight" in tower
    assert set(projector) == {f"model.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    batch = tiny_batch(source, [["What ", picture(41, 59, 1)]])

    def read(host: Host) -> Tensor:
        with torch.no_grad():
            seen = host.encode(batch.host_images, batch.geometries)
            return host.read(host.splice(batch, seen.tokens, seen.extras))

    assert not torch.allclose(read(source), read(other), atol=0.1)
    load_renamed(rename_hpt(llm, tower, projector, side=7), {"host": other.model})
    assert torch.equal(read(source), read(other))
    # A tower published for another size keeps everything but its positions.
    key = "vision_model.embeddings.position_embedding.weight"
    small = {**tower, key: resize_positions(tower[key], 5)}
    assert small[key].shape == (25, 34)
    renamed = rename_hpt(llm, small, projector, side=7)
    load_renamed(renamed, {"host": other.model})
    assert (read(source) - read(other)).abs().max() > 1e-4


def test_positions_are_resized_in_place() -> None:
    """A slope along the columns stays one, and rows are not taken for columns."""
    grid = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij"), -1)
    resized = resize_positions(grid.reshape(25, 2), 7).reshape(7, 7, 2)
    middle = (torch.arange(7) + 0.5) * 5 / 7 - 0.5
    # The library's kernel bends a slope a little between its points. Measured: 0.044.
    torch.testing.assert_close(resized[3, 2:5, 1], middle[2:5], atol=0.05, rtol=0)
    torch.testing.assert_close(resized[2:5, 3, 0], middle[2:5], atol=0.05, rtol=0)
    torch.testing.assert_close(resized[1, :, 0], resized[1, :1, 0].expand(7), atol=1e-5, rtol=0)
    whole = torch.randn(49, 3, dtype=torch.float64)
    assert resize_positions(whole, 5).dtype == torch.float64
    torch.testing.assert_close(resize_positions(whole, 7), whole, atol=1e-6, rtol=0)
    with pytest.raises(CheckpointError, match="26 position embeddings are no square"):
        resize_positions(torch.zeros(26, 2), 7)
