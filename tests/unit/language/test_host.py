"""The host: parts, identity, files, settings, gradients."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, Qwen2VLImageProcessor

from chiasm.core.errors import (
    CheckpointError,
    ChiasmError,
    ConfigError,
    InputError,
    MediaError,
    UnknownNameError,
)
from chiasm.language.host import Host, hash_weights
from chiasm.language.hosts import HOSTS
from chiasm.language.parts import check_cover, keep_only, leave_out
from chiasm.language.splice import Spliced
from tests.tiny import (
    TINY_HOSTS,
    picture,
    tiny_batch,
    tiny_llava,
    tiny_qwen2_5_vl,
    tiny_tokenizer,
)


@pytest.fixture(scope="module", params=sorted(TINY_HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    return TINY_HOSTS[request.param]()


def see(host: Host, padding: str = "left") -> Spliced:
    batch = tiny_batch(host, [["What is ", picture(41, 59, seed=1), "?"]], padding=padding)
    seen = host.encode(batch.host_images, batch.geometries)
    return host.splice(batch, seen.tokens, seen.extras)


class TestParts:
    def test_they_are_disjoint_and_cover_the_model(self, host: Host) -> None:
        parts = host.parts
        assert list(parts) == ["vision", "projector", "language"]
        owned = [id(value) for part in parts.values() for value in part.parameters()]
        assert len(owned) == len(set(owned))
        assert set(owned) == {id(value) for value in host.model.parameters()}
        assert all(any(True for _ in part.parameters()) for part in parts.values())

    def test_names_inside_a_part_are_the_models_own(self, host: Host) -> None:
        whole = {name for name, _ in host.model.named_parameters()}
        for part in host.parts.values():
            for name, _ in part.named_parameters():
                assert any(full.endswith(f".{name}") or full == name for full in whole), name

    def test_the_mergers_of_qwen_are_the_projector(self) -> None:
        for family, mergers in (("qwen2_5_vl", ["merger"]), ("qwen3_vl", ["merger", "deepstack"])):
            parts = TINY_HOSTS[family]().parts
            names = [name for name, _ in parts["projector"].named_parameters()]
            assert {name.split(".")[0].split("_")[0] for name in names} == set(mergers)
            assert not any("merger" in name for name, _ in parts["vision"].named_parameters())

    def test_a_hole_or_an_overlap_is_told(self) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
        with pytest.raises(InputError, match=r"1\.weight lies in no part"):
            check_cover(model, {"a": model[0]})
        with pytest.raises(InputError, match=r"b\.0\.weight also lies in a"):
            check_cover(model, {"a": model[0], "b": model})

    def test_cutting_keeps_names_and_shares_modules(self) -> None:
        model = nn.Sequential(
            nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)), nn.Sequential(nn.Linear(5, 7))
        )
        rest = leave_out(model, [model[0][1], model[1]])
        assert [name for name, _ in rest.named_parameters()] == ["0.0.weight", "0.0.bias"]
        kept = keep_only(model, [model[0][1]])
        assert [name for name, _ in kept.named_parameters()] == ["0.1.weight", "0.1.bias"]
        assert kept["0"]["1"] is model[0][1]
        assert leave_out(model, []) is model

    def test_parameters_of_a_cut_module_stay_with_what_remains(self) -> None:
        class Own(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1))
                self.inner = nn.Linear(2, 3)

        own = nn.Sequential(Own())
        rest, kept = leave_out(own, [own[0].inner]), keep_only(own, [own[0].inner])
        assert [name for name, _ in rest.named_parameters()] == ["0.scale"]
        assert rest["0"].scale is own[0].scale
        assert [name for name, _ in kept.named_parameters()] == ["0.inner.weight", "0.inner.bias"]
        check_cover(own, {"rest": rest, "kept": kept})


class TestIdentity:
    def test_the_hash_follows_values_and_names_not_load_types(self) -> None:
        host = tiny_qwen2_5_vl()
        first = host.identity
        assert first["name"] == "tiny-qwen2_5_vl"
        assert len(first["sha256"]) == 64
        assert tiny_qwen2_5_vl().identity == first
        assert tiny_qwen2_5_vl(seed=1).identity["sha256"] != first["sha256"]
        half = tiny_qwen2_5_vl().model.to(torch.bfloat16)
        assert hash_weights(half) == hash_weights(half.float())

    def test_the_hash_is_the_documented_one(self) -> None:
        model = nn.Linear(2, 3)
        parts = []
        for name in ("bias", "weight"):
            value = model.state_dict()[name]
            head = f"{name} {tuple(value.shape)} torch.float32".encode()
            body = hashlib.sha256(value.numpy().tobytes()).digest()
            parts.append(hashlib.sha256(head + body).digest())
        assert hash_weights(model) == hashlib.sha256(b"".join(parts)).hexdigest()

    def test_it_tells_what_was_built_on_after_training(self) -> None:
        host = tiny_qwen2_5_vl()
        before = host.identity["sha256"]
        with torch.no_grad():
            next(host.model.parameters()).add_(1)
        assert host.identity["sha256"] == before

    def test_weights_that_are_nowhere_have_no_hash(self) -> None:
        assert hash_weights(nn.Linear(2, 3, device="meta")) is None


class TestFiles:
    def test_a_saved_host_comes_back_the_same(self, host: Host, tmp_path: Path) -> None:
        host.save(tmp_path)
        assert not list(tmp_path.glob("*.bin"))
        again = Host.from_pretrained(tmp_path)
        assert again.identity["sha256"] == host.identity["sha256"]
        assert again.eos_ids == host.eos_ids
        assert again.image_token == host.image_token
        with torch.no_grad():
            ours, theirs = see(host), see(again)
            assert torch.equal(ours.input_ids, theirs.input_ids)
            assert torch.equal(host.read(ours), again.read(theirs))

    def test_type_and_attention_are_chosen(self, tmp_path: Path) -> None:
        tiny_qwen2_5_vl().save(tmp_path)
        host = Host.from_pretrained(tmp_path, dtype=torch.bfloat16, attention="eager")
        assert host.dtype == torch.bfloat16
        assert host.model.config.text_config._attn_implementation == "eager"
        assert Host.from_pretrained(tmp_path).model.config._attn_implementation == "sdpa"

    def test_a_missing_directory_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no host checkpoint at .*nowhere"):
            Host.from_pretrained(tmp_path / "nowhere")

    def test_an_unknown_family_lists_the_known(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
        known = ", ".join(sorted(HOSTS))
        with pytest.raises(UnknownNameError, match=f"'qwen2_vl'; known: {known}"):
            Host.from_pretrained(tmp_path)

    def test_remote_code_is_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        (tmp_path / "theirs.py").write_text(f"open({str(marker)!r}, 'w')")
        config = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnknownNameError, match="known: deepseek_vl, "):
            Host.from_pretrained(tmp_path)
        assert not marker.exists()

    def test_pickled_weights_are_not_read(self, tmp_path: Path) -> None:
        host = tiny_qwen2_5_vl()
        host.save(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(host.model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="Only safetensors are read"):
            Host.from_pretrained(tmp_path)

    def test_weights_that_do_not_fit_are_told(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        tiny_qwen2_5_vl().save(tmp_path)
        path = tmp_path / "model.safetensors"
        weights = load_file(path)
        weights["model.stray"] = weights.pop(next(n for n in weights if "layers.1.mlp.up" in n))
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"1 missing keys .*1 unexpected keys"):
            Host.from_pretrained(tmp_path)

    def test_a_template_beside_the_processor_is_found(self, tmp_path: Path) -> None:
        host = tiny_llava()
        host.save(tmp_path)
        (tmp_path / "chat_template.jinja").unlink()
        with pytest.raises(ConfigError, match="it has no chat template; use an instruction-tuned"):
            Host.from_pretrained(tmp_path)
        stored = {"chat_template": host.tokenizer.chat_template}
        (tmp_path / "chat_template.json").write_text(json.dumps(stored))
        again = Host.from_pretrained(tmp_path)
        assert again.tokenizer.chat_template == host.tokenizer.chat_template

    def test_a_missing_piece_is_told(self, tmp_path: Path) -> None:
        tiny_qwen2_5_vl().save(tmp_path)
        (tmp_path / "preprocessor_config.json").unlink()
        with pytest.raises(CheckpointError, match=r"the image processor of .* cannot be read"):
            Host.from_pretrained(tmp_path)

    def test_attention_that_cannot_be_used_is_told(self, tmp_path: Path) -> None:
        tiny_qwen2_5_vl().save(tmp_path)
        with pytest.raises(ConfigError, match="unknown attention 'fast'; known: eager, flash"):
            Host.from_pretrained(tmp_path, attention="fast")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="needs the package flash_attn"):
            Host.from_pretrained(tmp_path, attention="flash_attention_2")


class TestFit:
    def test_a_tokenizer_that_cannot_serve_is_told_with_all_faults(self) -> None:
        host = tiny_qwen2_5_vl()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer()._tokenizer)
        with pytest.raises(ConfigError) as caught:
            Host(model=host.model, tokenizer=tokenizer, image_processor=host.image_processor)
        assert [fault.split(";")[0] for fault in caught.value.faults] == [
            "it has no chat template",
            "it has no padding token",
        ]

    def test_a_larger_vocabulary_is_told(self) -> None:
        host = tiny_qwen2_5_vl()
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens([f"<more-{index}>" for index in range(7)])
        with pytest.raises(ConfigError, match="it has 271 tokens, the model's embedding 269"):
            Host(model=host.model, tokenizer=tokenizer, image_processor=host.image_processor)

    def test_an_image_processor_of_another_checkpoint_is_told(self) -> None:
        host = tiny_qwen2_5_vl()
        with pytest.raises(ConfigError, match="patch size: the image processor has 14, the vision"):
            Host(
                model=host.model,
                tokenizer=host.tokenizer,
                image_processor=Qwen2VLImageProcessor(),
            )

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"crop_size": {"height": 33, "width": 35}}, "crop_size: .*the tower reads 35 x 35"),
            ({"size": {"shortest_edge": 31}}, "size: .* is less than the crop of 35 x 35"),
            ({"do_center_crop": False}, "without a crop, the tower reads 35 x 35"),
            ({"do_resize": False}, "do_resize: off"),
            ({"do_pad": True}, "do_pad: on"),
        ],
    )
    def test_an_image_processor_of_unknown_geometry_is_told(
        self, settings: dict[str, object], message: str
    ) -> None:
        host = tiny_llava()
        known = {"size": {"shortest_edge": 35}, "crop_size": {"height": 35, "width": 35}}
        with pytest.raises(ConfigError, match=message):
            Host(
                model=host.model,
                tokenizer=host.tokenizer,
                image_processor=CLIPImageProcessor(**{**known, **settings}),
            )

    def test_llava_without_a_crop_stretches(self) -> None:
        host = tiny_llava()
        stretched = Host(
            model=host.model,
            tokenizer=host.tokenizer,
            image_processor=CLIPImageProcessor(
                size={"height": 35, "width": 35}, do_center_crop=False
            ),
        )
        geometry = stretched.preparer.prepare([picture(41, 59)]).geometries[0]
        assert geometry.view_box() == pytest.approx((0, 0, 59, 41))

    def test_llava_that_keeps_the_class_token_is_told(self) -> None:
        host = tiny_llava()
        host.model.config.vision_feature_select_strategy = "full"
        with pytest.raises(ConfigError, match="'full' with a clip_vision_model does not give one"):
            Host(model=host.model, tokenizer=host.tokenizer, image_processor=host.image_processor)

    def test_a_model_without_an_adapter_is_told(self) -> None:
        host = tiny_llava()
        host.model.config.host_family = "lava"
        with pytest.raises(UnknownNameError, match="Did you mean 'llava'"):
            Host(model=host.model, tokenizer=host.tokenizer, image_processor=host.image_processor)

    def test_an_image_the_processor_refuses_is_told(self) -> None:
        with pytest.raises(MediaError, match=r"refuses one of the images \(2003 x 7\)"):
            tiny_qwen2_5_vl().preparer.prepare([picture(7, 2003)])

    def test_table_and_adapters_agree(self) -> None:
        composed = {name for name, adapter in HOSTS.items() if adapter.model_type != name}
        assert composed == {"mgm"}
        assert HOSTS["mgm"].model_type == "llava"


class TestGeneration:
    def test_the_checkpoints_settings_play_no_part(self, host: Host) -> None:
        with torch.no_grad():
            spliced = see(host)
        plain = host.generate(spliced, max_new_tokens=9)
        stored = host.model.generation_config
        changed = type(stored)(
            do_sample=True,
            temperature=3.0,
            top_k=5,
            repetition_penalty=7.0,
            max_new_tokens=3,
            eos_token_id=stored.eos_token_id,
        )
        host.model.generation_config = changed
        try:
            assert host.generate(spliced, max_new_tokens=9) == plain
            assert host.model.generation_config is changed
        finally:
            host.model.generation_config = stored

    def test_sampling_follows_the_seed_and_the_settings(self, host: Host) -> None:
        with torch.no_grad():
            spliced = see(host)

        def sample(seed: int, **settings: float) -> list[list[int]]:
            torch.manual_seed(seed)
            return host.generate(spliced, max_new_tokens=9, **settings)

        assert sample(1, temperature=5.0) == sample(1, temperature=5.0)
        assert sample(1, temperature=5.0) != sample(2, temperature=5.0)
        # Next to nothing of the probability: only the likeliest token is left.
        assert sample(1, temperature=1.0, top_p=1e-6) == sample(3)

    def test_a_seed_of_its_own_follows_the_settings_and_leaves_torch_alone(
        self, host: Host
    ) -> None:
        with torch.no_grad():
            spliced = see(host)

        def sample(seed: int | None, **settings: float) -> list[list[int]]:
            return host.generate(spliced, max_new_tokens=9, seed=seed, **settings)

        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        hot = sample(1, temperature=5.0)
        assert torch.equal(torch.rand(3), expected)
        assert hot == sample(1, temperature=5.0) != sample(2, temperature=5.0)
        greedy = sample(None)
        assert sample(1) == greedy != hot
        # Next to nothing of the probability: only the likeliest token is left.
        assert sample(1, temperature=1.0, top_p=1e-6) == greedy
        assert sample(1, temperature=1e-5) == greedy

    def test_a_stop_text_ends_the_row(self, host: Host) -> None:
        # Only ASCII bytes are a text of their own in the tiny vocabulary.
        scores = host.model.get_output_embeddings()
        ascii_only = [i for i in range(256) if host.tokenizer.decode(i).isascii()]
        others = [i for i in range(269) if i not in ascii_only]

        def hide(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            return output.index_fill(-1, torch.tensor(others), -1e4)

        with torch.no_grad():
            spliced = see(host)
        handle = scores.register_forward_hook(hide)
        whole = host.generate(spliced, max_new_tokens=9)[0]
        text = host.tokenizer.decode(whole[2])
        cut = host.generate(spliced, max_new_tokens=9, stop=[text])[0]
        handle.remove()
        assert cut == whole[: whole.index(whole[2]) + 1]

    def test_an_end_token_ends_the_row_and_is_left_out(self, host: Host) -> None:
        with torch.no_grad():
            spliced = see(host)
        whole = host.generate(spliced, max_new_tokens=9)[0]
        stored = host.model.generation_config.eos_token_id
        host.model.generation_config.eos_token_id = [stored, whole[3]]
        try:
            assert host.generate(spliced, max_new_tokens=9)[0] == whole[: whole.index(whole[3])]
        finally:
            host.model.generation_config.eos_token_id = stored

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
            ({"max_new_tokens": 1.5}, r"max_new_tokens is 1\.5; .*, a whole number"),
            ({"max_new_tokens": 1, "temperature": math.inf}, "temperature is inf; .* finite"),
            ({"max_new_tokens": 1, "temperature": math.nan}, "temperature is nan; it must be 0"),
            ({"max_new_tokens": 1, "temperature": "hot"}, "temperature is 'hot'; it must be 0"),
            ({"max_new_tokens": 1, "top_p": None}, "top_p is None; it must lie"),
            ({"max_new_tokens": 1, "temperature": 1.0, "seed": -3}, "seed is -3; it must be a w"),
            ({"max_new_tokens": 1, "temperature": -1.0}, r"temperature is -1\.0; it must be 0"),
            ({"max_new_tokens": 1, "top_p": 0.0}, r"top_p is 0\.0; it must lie in \(0, 1\]"),
        ],
    )
    def test_settings_out_of_range_are_told(
        self, host: Host, settings: dict[str, Any], message: str
    ) -> None:
        with torch.no_grad():
            spliced = see(host)
        with pytest.raises(InputError, match=message):
            host.generate(spliced, **settings)

    def test_padding_on_the_right_is_refused(self, host: Host) -> None:
        batch = tiny_batch(host, [["short"], ["a longer text"]], padding="right")
        with pytest.raises(InputError, match=r"rows \[0\] end in padding, and generation appends"):
            host.generate(host.splice(batch, None), max_new_tokens=3)


class TestGradients:
    def test_frozen_is_not_blind(self, host: Host) -> None:
        """Visual tokens learn through a language model that does not."""
        host.parts["language"].requires_grad_(False)
        batch = tiny_batch(host, [["a", picture(41, 59)]], answers=["red"])
        seen = host.encode(batch.host_images, batch.geometries)
        fused = seen.tokens.features.detach().requires_grad_()
        spliced = host.splice(batch, seen.tokens.with_features(fused), seen.extras)
        logits, targets = host.supervised(spliced, host.read(spliced))
        nn.functional.cross_entropy(logits, targets).backward()
        assert fused.grad is not None
        assert (fused.grad.abs().sum(-1) > 0).all()
        assert all(value.grad is None for value in host.parts["language"].parameters())
        host.parts["language"].requires_grad_(True)

    def test_the_tower_learns_through_encode(self, host: Host) -> None:
        batch = tiny_batch(host, [["a", picture(41, 59)]], answers=["red"])
        seen = host.encode(batch.host_images, batch.geometries)
        spliced = host.splice(batch, seen.tokens, seen.extras)
        logits, targets = host.supervised(spliced, host.read(spliced))
        nn.functional.cross_entropy(logits, targets).backward()
        for name, part in host.parts.items():
            grads = [value.grad for value in part.parameters() if value.grad is not None]
            assert any(grad.abs().max() > 0 for grad in grads), name
        host.model.zero_grad()

    @pytest.mark.parametrize("family", sorted(TINY_HOSTS))
    def test_gradient_checkpointing_gives_the_same_gradients(self, family: str) -> None:
        def gradients(host: Host) -> dict[str, torch.Tensor]:
            host.train()
            batch = tiny_batch(host, [["a", picture(41, 59)]], answers=["red"])
            seen = host.encode(batch.host_images, batch.geometries)
            spliced = host.splice(batch, seen.tokens, seen.extras)
            logits, targets = host.supervised(spliced, host.read(spliced))
            nn.functional.cross_entropy(logits, targets).backward()
            return {n: v.grad for n, v in host.model.named_parameters() if v.grad is not None}

        build = TINY_HOSTS[family]
        plain = gradients(build())
        saving = build()
        calls: list[int] = []
        saving.enable_gradient_checkpointing()
        decoder = saving.model.get_submodule(saving.adapter.decoder_name)
        decoder.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
        recomputed = gradients(saving)
        # Once forward, once again on the way back.
        assert len(calls) == 2
        assert plain.keys() == recomputed.keys()
        for name, value in plain.items():
            torch.testing.assert_close(recomputed[name], value, atol=1e-6, rtol=1e-5)

    def test_gradient_checkpointing_leaves_frozen_parts_without_a_graph(self, host: Host) -> None:
        frozen = TINY_HOSTS[host.adapter.model_type]().train()
        frozen.enable_gradient_checkpointing()
        frozen.requires_grad_(False)
        spliced = see(frozen)
        assert not spliced.mm_encoder_outputs["image"].pooler_output[0].requires_grad
        assert not frozen.read(spliced).requires_grad


def test_every_error_is_one_of_ours() -> None:
    assert issubclass(CheckpointError, ChiasmError)
    assert issubclass(UnknownNameError, ConfigError)


def test_widths_and_placeholders(host: Host) -> None:
    widths = {"llava": 42, "qwen2_5_vl": 44, "qwen3_vl": 47}
    assert host.width == widths[host.adapter.model_type]
    placeholder = "<image>" if host.adapter.model_type == "llava" else "<|image_pad|>"
    assert host.image_token == placeholder
    assert host.image_text(3) == placeholder * 3
    assert host.eos_ids == (258,)
    assert host.pad_id == 256
    assert host.dtype == torch.float32
    assert host.device == torch.device("cpu")
