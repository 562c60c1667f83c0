"""LoRA on the language model: identity start, PEFT's files, merge and removal."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from chiasm.core.errors import CheckpointError, ConfigError, InputError
from chiasm.language.adapters import LoraAdapterConfig, add_lora, load_lora
from chiasm.language.host import Host
from tests.tiny import TINY_HOSTS, picture, tiny_batch, tiny_llava, tiny_qwen2_5_vl


@pytest.fixture(params=sorted(TINY_HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    return TINY_HOSTS[request.param]()


def logits(host: Host) -> torch.Tensor:
    batch = tiny_batch(host, [["What is ", picture(41, 59, seed=1), "?"]])
    with torch.no_grad():
        seen = host.encode(batch.host_images, batch.geometries)
        return host.logits(host.read(host.splice(batch, seen.tokens, seen.extras)))


def shake(host: Host) -> None:
    """Move the adapters off their start."""
    torch.manual_seed(5)
    with torch.no_grad():
        for value in host.parts["adapter"].parameters():
            value.add_(0.1 * torch.randn_like(value))


def test_a_fresh_adapter_changes_no_bit(host: Host) -> None:
    before = logits(host)
    add_lora(host, LoraAdapterConfig(rank=3))
    assert torch.equal(logits(host), before)
    shake(host)
    assert not torch.equal(logits(host), before)


def test_adapters_sit_in_the_language_model_only_and_are_a_part_of_their_own(host: Host) -> None:
    without = {name: sum(1 for _ in part.parameters()) for name, part in host.parts.items()}
    host.parts["vision"].requires_grad_(False)
    LoraAdapterConfig(rank=3).build(host)
    parts = host.parts
    assert set(parts) == {"vision", "projector", "language", "adapter"}
    for name, count in without.items():
        assert sum(1 for _ in parts[name].parameters()) == count
    names = [name for name, _ in parts["adapter"].named_parameters()]
    # Seven projections in three layers, A and B each.
    assert len(names) == 7 * 3 * 2
    assert names[0] == "language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert all(value.requires_grad for value in parts["adapter"].parameters())
    # What was frozen stays frozen, and what trained goes on.
    assert not any(value.requires_grad for value in parts["vision"].parameters())
    assert all(value.requires_grad for value in parts["language"].parameters())
    assert all(value.requires_grad for value in parts["projector"].parameters())


def test_rank_8_on_one_layer_of_768_by_768_holds_12288() -> None:
    host = tiny_llava(hidden_size=768, num_hidden_layers=1, num_key_value_heads=3)
    adapter = add_lora(host, LoraAdapterConfig(rank=8, targets=("q_proj",)))
    assert adapter.parameters == 12_288


def test_saved_adapters_load_through_peft_and_through_us(host: Host, tmp_path: Path) -> None:
    family = TINY_HOSTS[host.adapter.model_type]
    adapter = add_lora(host, LoraAdapterConfig(rank=3, alpha=7, targets=("q_proj", "up_proj")))
    shake(host)
    expected = logits(host)
    adapter.save(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert not list(tmp_path.glob("*.bin"))

    through_us = family()
    load_lora(through_us, tmp_path)
    assert torch.equal(logits(through_us), expected)
    assert not any(value.requires_grad for value in through_us.parts["adapter"].parameters())

    through_peft = family()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        PeftModel.from_pretrained(through_peft.model, str(tmp_path))
    assert torch.equal(logits(through_peft), expected)


def test_loaded_adapters_train_on_request(tmp_path: Path) -> None:
    add_lora(tiny_qwen2_5_vl(), LoraAdapterConfig(rank=3)).save(tmp_path)
    host = tiny_qwen2_5_vl()
    load_lora(host, tmp_path, trainable=True)
    assert all(value.requires_grad for value in host.parts["adapter"].parameters())
    assert all(value.requires_grad for value in host.parts["language"].parameters())


def test_merged_weights_answer_as_the_adapters_did(host: Host) -> None:
    keys = set(host.model.state_dict())
    adapter = add_lora(host, LoraAdapterConfig(rank=3))
    shake(host)
    expected = logits(host)
    adapter.merge()
    assert set(host.model.state_dict()) == keys
    assert "adapter" not in host.parts
    # W x + B A x against (W + B A) x. Measured: at most 9.1e-6 at logits of up to 5.6.
    torch.testing.assert_close(logits(host), expected, atol=5e-5, rtol=0)
    with pytest.raises(InputError, match="already merged or removed"):
        adapter.merge()


def test_removed_adapters_leave_no_trace(host: Host) -> None:
    before = logits(host)
    keys = set(host.model.state_dict())
    adapter = add_lora(host, LoraAdapterConfig(rank=3))
    shake(host)
    adapter.remove()
    assert torch.equal(logits(host), before)
    assert set(host.model.state_dict()) == keys
    assert set(host.parts) == {"vision", "projector", "language"}
    assert all(value.requires_grad for value in host.model.parameters())
    add_lora(host, LoraAdapterConfig(rank=2))


def test_generation_runs_with_adapters() -> None:
    host = tiny_qwen2_5_vl()
    batch = tiny_batch(host, [["words"]], padding="left")
    plain = host.generate(host.splice(batch, None), max_new_tokens=5)
    add_lora(host, LoraAdapterConfig(rank=3))
    assert host.generate(host.splice(batch, None), max_new_tokens=5) == plain


def test_a_second_set_is_refused() -> None:
    host = tiny_qwen2_5_vl()
    add_lora(host, LoraAdapterConfig())
    with pytest.raises(InputError, match="already carries adapters; merge or remove them first"):
        add_lora(host, LoraAdapterConfig())


def test_an_unknown_target_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"'query'; known: down_proj, gate_proj, k_proj, o_proj"):
        add_lora(tiny_qwen2_5_vl(), LoraAdapterConfig(targets=("q_proj", "query")))


def test_a_directory_without_an_adapter_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json, adapter_model\.safetensors"):
        load_lora(tiny_qwen2_5_vl(), tmp_path)


def test_another_kind_of_adapter_is_told(tmp_path: Path) -> None:
    add_lora(tiny_qwen2_5_vl(), LoraAdapterConfig()).save(tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "IA3", "base_model_name_or_path": stored["peft_type"]})
    )
    with pytest.raises(CheckpointError, match="only LORA is supported"):
        load_lora(tiny_qwen2_5_vl(), tmp_path)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_an_adapter_that_does_not_fit_is_refused_and_taken_off(tmp_path: Path, change: str) -> None:
    add_lora(tiny_qwen2_5_vl(), LoraAdapterConfig(rank=3, targets=("q_proj",))).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    first = sorted(weights)[0]
    value = weights.pop(first)
    if change == "unexpected":
        weights[first] = value
        weights[first.replace("layers.0", "layers.99")] = value.clone()
    save_file(weights, path, metadata={"format": "pt"})
    host = tiny_qwen2_5_vl()
    before = logits(host)
    with pytest.raises(CheckpointError, match=r"does not fit this model: . keys missing, . unexp"):
        load_lora(host, tmp_path)
    assert torch.equal(logits(host), before)


def test_adapters_learn_under_gradient_checkpointing_on_a_frozen_host() -> None:
    def gradients(*, checkpointing: bool) -> list[torch.Tensor]:
        host = tiny_qwen2_5_vl().train()
        host.requires_grad_(False)
        if checkpointing:
            host.enable_gradient_checkpointing()
        torch.manual_seed(7)
        add_lora(host, LoraAdapterConfig(rank=3))
        shake(host)
        batch = tiny_batch(host, [["a", picture(41, 59)]], answers=["red"])
        seen = host.encode(batch.host_images, batch.geometries)
        assert not seen.tokens.features.requires_grad
        spliced = host.splice(batch, seen.tokens, seen.extras)
        scores, targets = host.supervised(spliced, host.read(spliced))
        torch.nn.functional.cross_entropy(scores, targets).backward()
        return [value.grad for value in host.parts["adapter"].parameters()]

    plain, saving = gradients(checkpointing=False), gradients(checkpointing=True)
    for one, other in zip(plain, saving, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
