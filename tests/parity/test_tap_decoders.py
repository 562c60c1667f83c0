"""The tap on decoders of every kind of attention, against `output_attentions` under eager.

Float32, tolerance 1e-6: grouped queries, sliding windows, softcap, sinks, all paddings.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    GenerationConfig,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    StaticCache,
)

from chiasm.language.tap import tap

TOKENS = 23
COMMON = {
    "hidden_size": 44,
    "intermediate_size": 53,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 61,
    "initializer_range": 0.15,
    "max_position_embeddings": 211,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
KINDS = ["full_attention", "sliding_attention", "sliding_attention"]


def _gpt_oss() -> GptOssModel:
    config = GptOssConfig(
        **{**COMMON, "intermediate_size": 52},
        head_dim=22,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=7,
        layer_types=KINDS,
        rope_parameters={"rope_type": "default", "rope_theta": 10007.0},
    )
    model = GptOssModel(config)
    for layer in model.layers:
        layer.self_attn.sinks.data.normal_(std=2)
    return model


DECODERS: dict[str, Any] = {
    "heads of their own": lambda: LlamaModel(LlamaConfig(**{**COMMON, "num_key_value_heads": 2})),
    "grouped queries": lambda: LlamaModel(LlamaConfig(**COMMON)),
    "sliding windows": lambda: MistralModel(MistralConfig(**COMMON, sliding_window=7)),
    "windows in some layers": lambda: Qwen2Model(
        Qwen2Config(**COMMON, use_sliding_window=True, sliding_window=5, layer_types=KINDS)
    ),
    "normalised queries": lambda: Qwen3Model(Qwen3Config(**COMMON, head_dim=22)),
    "windows of Gemma": lambda: Gemma3TextModel(
        Gemma3TextConfig(**COMMON, head_dim=22, sliding_window=7, layer_types=KINDS)
    ),
    "softcap": lambda: Gemma2Model(
        Gemma2Config(
            **COMMON, head_dim=22, sliding_window=7, layer_types=KINDS, attn_logit_softcapping=1.5
        )
    ),
    "sinks": _gpt_oss,
}
EAGER_ONLY = ("softcap", "sinks")
PADDINGS = ("none", "left", "right")


@pytest.fixture(scope="module", params=DECODERS)
def case(request: pytest.FixtureRequest) -> tuple[str, Any]:
    torch.manual_seed(3)
    return request.param, DECODERS[request.param]().eval()


def text(padding: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(1, COMMON["vocab_size"], (3, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    if padding == "left":
        mask[1, :5], mask[2, :1] = 0, 0
    if padding == "right":
        mask[0, -3:], mask[2, -11:] = 0, 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def under(model: Any, name: str, inputs: dict[str, Any], **more: Any) -> Any:
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    output = model(**inputs, **more)
    model.set_attn_implementation(before)
    return output


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", PADDINGS)
@torch.no_grad()
def test_whole_maps_equal_the_librarys(
    case: tuple[str, Any], padding: str, implementation: str
) -> None:
    name, model = case
    if implementation == "sdpa" and name in EAGER_ONLY:
        pytest.skip(f"transformers has no layers of {name} under SDPA, only eager ones")
    inputs = text(padding)
    theirs = under(model, "eager", inputs, output_attentions=True, use_cache=False)
    real = inputs["attention_mask"] == 1
    places = torch.where(real, torch.arange(TOKENS), -1)
    model.set_attn_implementation(implementation)
    with tap(model, queries=places, keys=places) as rows:
        output = model(**inputs)
    plain = model(**inputs)
    assert torch.equal(output.last_hidden_state, plain.last_hidden_state)
    assert model.config._attn_implementation == implementation
    assert len(rows) == 3
    for layer, maps in enumerate(theirs.attentions):
        both = real[:, None, :, None] & real[:, None, None, :]
        torch.testing.assert_close(rows[layer], maps.where(both, 0), atol=1e-6, rtol=0)
        later = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        assert not rows[layer][..., later].any()
        sums = rows[layer].sum(-1).transpose(1, 2)[real]
        if name == "sinks":
            assert sums.max() < 1 - 1e-3
        else:
            torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-6, rtol=0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_rows_behind_a_cache_are_those_of_the_whole(
    case: tuple[str, Any], implementation: str
) -> None:
    """A sliding window drops keys from the cache; positions count on all the same."""
    name, model = case
    if implementation == "sdpa" and name in EAGER_ONLY:
        pytest.skip(f"transformers has no layers of {name} under SDPA, only eager ones")
    inputs = text("left")
    theirs = under(model, "eager", inputs, output_attentions=True, use_cache=False)
    model.set_attn_implementation(implementation)
    cache = DynamicCache(config=model.config)
    cut = 17
    model(
        input_ids=inputs["input_ids"][:, :cut],
        attention_mask=inputs["attention_mask"][:, :cut],
        past_key_values=cache,
    )
    queries, keys = torch.tensor([[0, 3], [5, 1], [4, -1]]), torch.tensor([22, 6, 8, 16, 19, -1])
    with tap(model, queries=queries, keys=keys) as rows:
        model(
            input_ids=inputs["input_ids"][:, cut:],
            attention_mask=inputs["attention_mask"],
            past_key_values=cache,
        )
    for layer, maps in enumerate(theirs.attentions):
        for row in range(3):
            for at, query in enumerate(queries[row].tolist()):
                wanted = maps[row, :, query + cut][:, keys.clamp(min=0)] * (keys >= 0)
                wanted = wanted if query >= 0 else torch.zeros_like(wanted)
                torch.testing.assert_close(rows[layer][row, :, at], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("static", [False, True])
@torch.no_grad()
def test_rows_while_generating_behind_a_window(static: bool) -> None:
    torch.manual_seed(3)
    model = MistralForCausalLM(MistralConfig(**COMMON, sliding_window=7)).eval()
    inputs = text("left")
    more = {"past_key_values": StaticCache(config=model.config, max_cache_len=41)} if static else {}
    with tap(model, queries="decoded", keys=torch.arange(18, TOKENS)) as rows:
        written = model.generate(
            **inputs,
            **more,
            generation_config=GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0),
            disable_compile=True,
        )
    whole = {
        "input_ids": written,
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(3, 6).long()], dim=1),
    }
    theirs = under(model, "eager", whole, output_attentions=True, use_cache=False)
    for layer, maps in enumerate(theirs.attentions):
        torch.testing.assert_close(
            rows[layer], maps[:, :, TOKENS : TOKENS + 5, 18:TOKENS], atol=1e-5, rtol=0
        )
    # Five tokens further on, the window has left the first of these columns behind.
    assert not rows[0][:, :, 4, 0].any() and rows[0][:, :, 0, 0].any()


def test_gradients_reach_queries_and_keys_as_under_eager() -> None:
    torch.manual_seed(3)
    model = LlamaModel(LlamaConfig(**COMMON)).eval()
    inputs = text("right")
    queries, keys = torch.tensor([[9, 7], [20, 21], [5, -1]]), torch.arange(4)
    weights = torch.randn(3, 2, 2, 4, generator=torch.Generator().manual_seed(5))
    weights[2, :, 1] = 0

    theirs = under(model, "eager", inputs, output_attentions=True)
    maps = torch.stack([theirs.attentions[1][r, :, queries[r]][..., :4] for r in range(3)])
    (maps * weights).sum().backward()
    wanted = {
        name: value.grad.clone()
        for name, value in model.named_parameters()
        if value.grad is not None and value.grad.abs().max() > 0
    }
    model.zero_grad()
    with tap(model, queries=queries, keys=keys) as rows:
        model(**inputs)
    (rows[1] * weights).sum().backward()
    assert "layers.1.self_attn.k_proj.weight" in wanted and "layers.0.mlp.up_proj.weight" in wanted
    assert "layers.1.self_attn.v_proj.weight" not in wanted
    for name, value in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(value.grad, wanted[name], atol=1e-6, rtol=1e-3)
        else:
            assert value.grad is None or not value.grad.any()


def test_nothing_is_kept_for_a_gradient_when_all_is_frozen() -> None:
    model = LlamaModel(LlamaConfig(**COMMON)).eval().requires_grad_(False)
    with tap(model, queries=torch.tensor([[9]] * 3), keys=torch.arange(4), hidden=True) as rows:
        model(**text("none"))
    assert not any(layer.requires_grad for layer in (*rows, *rows.hidden))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_types_give_rows_as_exact_as_their_inputs(dtype: torch.dtype) -> None:
    """Scores are kept in float32: rows of a half model lie nearer the truth than eager's."""
    torch.manual_seed(3)
    model = LlamaModel(LlamaConfig(**COMMON)).eval()
    inputs = text("none")
    places = torch.arange(TOKENS).expand(3, -1)
    truth = under(model, "eager", inputs, output_attentions=True).attentions[0]
    model = model.to(dtype)
    with tap(model, queries=places, keys=places) as rows:
        model(**inputs)
    eager = under(model, "eager", inputs, output_attentions=True).attentions[0].float()
    assert rows[0].dtype == torch.float32
    assert (rows[0] - truth).norm() < (eager - truth).norm()
    torch.testing.assert_close(rows[0], truth, atol=0.05, rtol=0)
