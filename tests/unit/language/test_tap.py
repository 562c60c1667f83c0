"""The tap itself: what it leaves behind, what it refuses, and that taps do not mix."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    BloomModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from chiasm.core.errors import InputError
from chiasm.language import interception
from chiasm.language.tap import tap
from tests.tiny import tiny_llava

TOKENS = 17


def config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        **{
            "hidden_size": 24,
            "intermediate_size": 31,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 53,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": None,
            **more,
        }
    )


def llama(seed: int = 0, **more: Any) -> LlamaModel:
    torch.manual_seed(seed)
    return LlamaModel(config(**more)).eval().requires_grad_(False)


@pytest.fixture
def model() -> LlamaModel:
    return llama()


def ids(rows: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(1, 53, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))


QUERIES = torch.tensor([[9, 10, 14, 16], [3, 5, 6, -1]])
KEYS = torch.tensor([[2, 3, 4, 5, 6], [1, 2, 7, -1, -1]])


def assert_gone(model: Any, name: str = "sdpa") -> None:
    """Nothing of a tap is left on a model."""
    decoder = model.get_decoder()
    assert decoder.config._attn_implementation == name
    assert not interception._listeners
    assert not interception._stand_ins
    assert not decoder._forward_pre_hooks
    assert not decoder._forward_hooks
    assert not any(layer._forward_hooks for layer in decoder.layers)


def test_rows_are_float32_in_the_shapes_that_are_promised(model: LlamaModel) -> None:
    with tap(model, queries=QUERIES, keys=KEYS, hidden=True) as rows:
        output = model(ids())
    assert len(rows) == 3 and rows.layers == (0, 1, 2)
    assert [tuple(layer.shape) for layer in rows] == [(2, 4, 4, 5)] * 3
    assert rows[0].dtype == torch.float32
    assert torch.equal(rows[-1], rows[2]) and not torch.equal(rows[1], rows[2])
    assert torch.equal(rows.channels(), torch.cat([rows[0], rows[1], rows[2]], dim=1))
    assert not rows[0][1, :, 3].any() and not rows[0][1, :, :, 3:].any()
    assert rows[0][0].all() and rows[0][1, :, 2, :2].all()
    assert torch.equal(rows.hidden[-1][0], output.last_hidden_state[0, QUERIES[0]])
    assert not rows.hidden[0][1, 3].any()
    assert_gone(model)


def test_keys_may_be_the_same_for_all_rows(model: LlamaModel) -> None:
    with tap(model, queries=QUERIES, keys=KEYS[0]) as rows:
        model(ids())
    with tap(model, queries=QUERIES, keys=KEYS[:1].expand(2, -1)) as others:
        model(ids())
    assert torch.equal(rows[1], others[1])


GROUPS = torch.tensor([[0, 1, 0, -1], [0, 0, 1, -1]])


@pytest.mark.parametrize("merge", ["mean", "max"])
@pytest.mark.parametrize("form", ["integers", "members"])
def test_groups_merge_their_rows_layer_by_layer(model: LlamaModel, merge: str, form: str) -> None:
    members = torch.stack([GROUPS == 0, GROUPS == 1], dim=1)
    groups = GROUPS if form == "integers" else members
    with tap(model, queries=QUERIES, keys=KEYS) as rows:
        model(ids())
    with tap(model, queries=QUERIES, keys=KEYS, groups=groups, merge=merge) as merged:
        model(ids())
    for layer in range(3):
        assert merged[layer].shape == (2, 4, 2, 5)
        for row in range(2):
            for group in range(2):
                own = rows[layer][row][:, members[row, group]]
                wanted = own.mean(1) if merge == "mean" else own.amax(1)
                torch.testing.assert_close(merged[layer][row, :, group], wanted)


def test_a_token_may_belong_to_several_groups_and_rows_may_have_fewer(model: LlamaModel) -> None:
    members = torch.zeros(2, 3, 4, dtype=torch.bool)
    members[0, 0, :2] = members[0, 1, 1:3] = members[0, 2, 1] = True
    members[1, 0, 0] = True
    with tap(model, queries=QUERIES, keys=KEYS) as rows:
        model(ids())
    with tap(model, queries=QUERIES, keys=KEYS, groups=members, merge="mean") as merged:
        model(ids())
    torch.testing.assert_close(merged[1][0, :, 1], rows[1][0, :, 1:3].mean(1))
    torch.testing.assert_close(merged[1][0, :, 2], rows[1][0, :, 1])
    assert not merged[1][1, :, 1:].any()


def test_the_tower_is_not_tapped_and_keeps_its_attention() -> None:
    host = tiny_llava()
    tower = host.model.model.vision_tower
    before = tower.config._attn_implementation
    names = []
    hook = tower.register_forward_hook(
        lambda module, args, output: names.append(module.config._attn_implementation)
    )
    images = torch.randn(1, 3, 35, 35)
    text = torch.full((1, 51), host.image_token_id)
    text[0, 49:] = 7
    with tap(host.model, queries=torch.tensor([[50]]), keys=torch.arange(49)) as rows:
        host.model(input_ids=text, pixel_values=images)
    hook.remove()
    assert names == [before] == ["sdpa"]
    assert len(rows) == host.model.config.text_config.num_hidden_layers
    assert_gone(host.model)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_nothing_is_left_behind_also_after_an_exception(name: str) -> None:
    model = llama()
    model.set_attn_implementation(name)
    with pytest.raises(ZeroDivisionError), tap(model, queries=QUERIES, keys=KEYS, hidden=True):
        model(ids())
        raise ZeroDivisionError
    assert_gone(model, name)
    broken = model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), tap(model, queries=QUERIES, keys=KEYS, hidden=True):
        model(ids())
    broken.remove()
    assert_gone(model, name)
    with tap(model, queries=QUERIES, keys=KEYS) as rows:
        model(ids())
    assert len(rows) == 3


def test_a_refused_tap_leaves_nothing_behind(model: LlamaModel) -> None:
    with pytest.raises(InputError), tap(model, queries=QUERIES + 90, keys=KEYS):
        model(ids())
    assert_gone(model)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(InputError, match=r"'flex_attention' cannot be tapped.*use 'sdpa'"):
        with tap(model, queries=QUERIES, keys=KEYS):
            pass
    assert_gone(model, "flex_attention")


@pytest.mark.parametrize("decoded", [False, True])
def test_a_pass_that_failed_may_be_tried_again(model: LlamaModel, decoded: bool) -> None:
    """As after running out of memory: what failed was no pass."""
    queries: Any = "decoded" if decoded else QUERIES

    def run() -> None:
        past = model(ids(), use_cache=True).past_key_values
        if decoded:
            model(ids()[:, :1], past_key_values=past)

    with tap(model, queries=queries, keys=KEYS, hidden=True) as whole:
        run()
    with tap(model, queries=queries, keys=KEYS, hidden=True) as again:
        broken = model.layers[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
        broken.remove()
        run()
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(again.hidden, whole.hidden, strict=True))
    message = "the tap saw no pass of its LlamaModel"
    with pytest.raises(InputError, match=message), tap(model, queries=queries, keys=KEYS):
        broken = model.layers[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
        broken.remove()
    assert_gone(model)


def test_nested_taps_each_get_their_own(model: LlamaModel) -> None:
    alone = []
    for queries, keys in ((QUERIES, KEYS), (QUERIES[:, :1], KEYS[0])):
        with tap(model, queries=queries, keys=keys) as rows:
            model(ids())
        alone.append(rows)
    with tap(model, queries=QUERIES, keys=KEYS) as outer:
        with tap(model, queries=QUERIES[:, :1], keys=KEYS[0]) as inner:
            model(ids())
        assert model.config._attn_implementation != "sdpa"
    assert_gone(model)
    for got, wanted in ((outer, alone[0]), (inner, alone[1])):
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def in_threads(*tasks: Callable[[threading.Barrier], Any]) -> list[Any]:
    """Run tasks at the same time; each waits at the barrier for the others."""
    barrier = threading.Barrier(len(tasks), timeout=60)
    results: list[Any] = [None] * len(tasks)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = tasks[index](barrier)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


@pytest.mark.parametrize("models", ["two", "two of one configuration", "one"])
def test_taps_in_two_threads_do_not_mix(models: str) -> None:
    first = llama(seed=0)
    second = first
    if models == "two":
        second = llama(seed=5)
    if models == "two of one configuration":
        torch.manual_seed(5)
        second = LlamaModel(first.config).eval().requires_grad_(False)
        assert second.config is first.config
    # No two readers, so that neither can pass for the other.
    readers = [(first, QUERIES, ids(seed=1)), (second, QUERIES - (QUERIES > 0).long(), ids(seed=2))]

    def alone(index: int) -> list[Tensor]:
        model, queries, text = readers[index]
        with tap(model, queries=queries, keys=KEYS, hidden=True) as rows:
            model(text)
        return [*rows, *rows.hidden]

    wanted = [alone(0), alone(1)]
    assert not torch.equal(wanted[0][0], wanted[1][0])

    def task(index: int) -> Callable[[threading.Barrier], list[Tensor]]:
        def run(barrier: threading.Barrier) -> list[Tensor]:
            model, queries, text = readers[index]
            with tap(model, queries=queries, keys=KEYS, hidden=True) as rows:
                # Both taps are open before either reads; the first to finish leaves the other its.
                barrier.wait()
                if index:
                    barrier.wait()
                model(text)
            if not index:
                barrier.wait()
            return [*rows, *rows.hidden]

        return run

    for got, expected in zip(in_threads(task(0), task(1)), wanted, strict=True):
        assert len(got) == 6
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert_gone(first)
    assert_gone(second)


def test_a_model_that_shares_the_configuration_runs_on_as_before(model: LlamaModel) -> None:
    torch.manual_seed(5)
    other = LlamaModel(model.config).eval().requires_grad_(False)
    plain = other(ids()).last_hidden_state
    with tap(model, queries=QUERIES, keys=KEYS) as rows:
        assert torch.equal(other(ids()).last_hidden_state, plain)
        assert len(rows) == 0
        model(ids())
    assert len(rows) == 3


def test_generation_gives_a_row_for_each_token_it_reads() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config()).eval()
    settings = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0)
    text = {"input_ids": ids(), "attention_mask": torch.ones(2, TOKENS, dtype=torch.long)}
    with tap(model, queries="decoded", keys=KEYS, hidden=True) as rows:
        written = model.generate(**text, generation_config=settings)
    assert written.shape == (2, TOKENS + 5)
    assert rows[0].shape == (2, 4, 4, 5) and rows.hidden[0].shape == (2, 4, 24)
    with torch.no_grad():
        model.set_attn_implementation("eager")
        whole = model(written, output_attentions=True, output_hidden_states=True)
    for step in range(4):
        for row in range(2):
            real = KEYS[row] >= 0
            torch.testing.assert_close(
                rows[1][row, :, step, real],
                whole.attentions[1][row, :, TOKENS + step][:, KEYS[row][real]],
            )
    torch.testing.assert_close(rows.hidden[2], whole.hidden_states[3][:, TOKENS : TOKENS + 4])


def test_one_token_written_is_none_read() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config()).eval()
    text = {"input_ids": ids(), "attention_mask": torch.ones(2, TOKENS, dtype=torch.long)}
    with tap(model, queries="decoded", keys=KEYS) as rows:
        model.generate(
            **text,
            generation_config=GenerationConfig(max_new_tokens=1, do_sample=False, pad_token_id=0),
        )
    assert [tuple(layer.shape) for layer in rows] == [(2, 4, 0, 5)] * 3


WRONG = {
    "query beyond": (
        {"queries": torch.tensor([[9], [17]])},
        r"row 1: query position 17 is outside the 17 positions being read \(1 such\)",
    ),
    "query below": (
        {"queries": torch.tensor([[-2], [3]])},
        "row 0: query position -2 is outside the 17 positions",
    ),
    "key beyond": (
        {"keys": torch.tensor([2, 40, 41])},
        r"row 0: key position 40 is outside the 17 positions of the whole sequence \(4 such\)",
    ),
    "rows of queries": (
        {"queries": torch.tensor([[1], [2], [3]])},
        "3 rows of query positions for a pass of 2 rows",
    ),
    "rows of keys": ({"keys": torch.tensor([[1]])}, "1 rows of key positions for a pass of 2"),
    "kind of queries": (
        {"queries": torch.tensor([[1.0], [2.0]])},
        r"queries is torch.float32 \(2, 1\); it must be an int64 tensor \(batch, count\)",
    ),
    "axes of queries": ({"queries": torch.tensor([3, 4])}, r"queries is torch.int64 \(2,\)"),
    "word": ({"queries": "all"}, "queries is 'all'; it must be a tensor or 'decoded'"),
    "merge": (
        {"groups": GROUPS, "merge": "sum"},
        "merge is 'sum'; it must be 'mean', 'max' or None",
    ),
    "groups alone": ({"groups": GROUPS}, "groups are given and merge is None; the two go together"),
    "merge alone": ({"merge": "max"}, "groups are not given and merge is 'max'"),
    "groups of the unknown": (
        {"queries": "decoded", "groups": GROUPS, "merge": "max"},
        "groups with queries='decoded'",
    ),
    "shape of groups": (
        {"groups": GROUPS[:, :2], "merge": "max"},
        r"groups has shape \(2, 2\), queries \(2, 4\)",
    ),
    "shape of members": (
        {"groups": torch.ones(2, 3, 5, dtype=torch.bool), "merge": "max"},
        r"groups has shape \(2, 3, 5\); bool groups of queries \(2, 4\) have shape \(2, groups, 4",
    ),
    "negative group": (
        {"groups": GROUPS - 3, "merge": "max"},
        "group -4 is negative; -1 means none",
    ),
    "padded member": (
        {"groups": torch.tensor([[0, 1, 0, -1], [0, 0, 1, 1]]), "merge": "max"},
        "row 1: query 3 is padding and belongs to group 1",
    ),
    "empty group": (
        {"groups": torch.tensor([[0, 2, 2, -1], [0, 0, 1, -1]]), "merge": "max"},
        "row 0: group 1 of 3 has no query",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named(model: LlamaModel, name: str) -> None:
    wrong, message = WRONG[name]
    with (
        pytest.raises(InputError, match=message),
        tap(model, **{"queries": QUERIES, "keys": KEYS, **wrong}),
    ):
        model(ids())
    assert_gone(model)


@pytest.mark.parametrize(
    ("side", "queries", "keys", "message"),
    [
        ("left", [[0]], [4], "row 0: query position 0 is padding in the text"),
        ("left", [[9]], [1, 4], "row 0: key position 1 is padding in the text"),
        ("right", [[16]], [4], "row 0: query position 16 is padding in the text"),
    ],
)
def test_padding_of_the_text_is_no_position(
    model: LlamaModel, side: str, queries: Any, keys: Any, message: str
) -> None:
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    mask[0, slice(0, 2) if side == "left" else slice(-2, None)] = 0
    with (
        pytest.raises(InputError, match=message),
        tap(model, queries=torch.tensor(queries), keys=torch.tensor(keys)),
    ):
        model(ids(1), attention_mask=mask)


def test_a_tap_that_saw_nothing_says_so(model: LlamaModel) -> None:
    message = "the tap saw no pass of its LlamaModel; run the tapped model inside the block"
    with pytest.raises(InputError, match=message), tap(model, queries=QUERIES, keys=KEYS) as rows:
        with pytest.raises(InputError, match="no attention rows of layer 0; there are none, as no"):
            rows[0]
    with pytest.raises(InputError, match=message), tap(model, queries=QUERIES, keys=KEYS):
        in_threads(lambda barrier: model(ids()))
    assert_gone(model)


def test_a_layer_that_is_not_there_is_named(model: LlamaModel) -> None:
    with tap(model, queries=QUERIES, keys=KEYS) as rows:
        model(ids())
    for layer in (3, -4):
        with pytest.raises(InputError, match=r"no attention rows of layer .*layers 0 to 2"):
            rows[layer]


def test_a_second_pass_is_refused(model: LlamaModel) -> None:
    with (
        pytest.raises(InputError, match="has read its pass, and the model runs once more"),
        tap(model, queries=QUERIES, keys=KEYS),
    ):
        model(ids())
        model(ids())


def test_models_whose_attention_is_their_own_are_named() -> None:
    bert = BertModel(BertConfig(hidden_size=24, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(InputError, match="BertModel, the decoder of BertModel, has no list of"):
        with tap(bert, queries=QUERIES, keys=KEYS):
            pass
    bloom = BloomModel(BloomConfig(vocab_size=53, hidden_size=24, n_layer=1, n_head=2))
    with pytest.raises(InputError, match=r"BloomModel.* has no list of layers"):
        with tap(bloom, queries=QUERIES, keys=KEYS):
            pass


def test_a_decoder_that_asks_no_interface_is_named(model: LlamaModel) -> None:
    for layer in model.layers:
        layer.self_attn = _Nothing()
    with (
        pytest.raises(InputError, match="no layer of LlamaModel asked the attention interface"),
        tap(model, queries=QUERIES, keys=KEYS),
    ):
        model(ids())


class _Nothing(torch.nn.Module):
    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        return hidden_states, None


def test_recomputed_layers_that_train_are_refused_and_frozen_ones_are_not() -> None:
    model = llama().train()
    with warnings.catch_warnings():
        # The only name that every supported release of transformers 5 knows.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with tap(model, queries=QUERIES, keys=KEYS, hidden=True) as rows:
        model(ids(), use_cache=False)
    assert len(rows) == 3
    model.requires_grad_(True)
    with (
        pytest.raises(InputError, match="LlamaModel recomputes its layers in the backward pass"),
        tap(model, queries=QUERIES, keys=KEYS),
    ):
        model(ids(), use_cache=False)
    model.requires_grad_(False)
    embeds = model.embed_tokens(ids()).requires_grad_()
    with (
        pytest.raises(InputError, match="recomputes its layers"),
        tap(model, queries=QUERIES, keys=KEYS),
    ):
        model(inputs_embeds=embeds, use_cache=False)
    with torch.no_grad(), tap(model.requires_grad_(True), queries=QUERIES, keys=KEYS):
        model(ids(), use_cache=False)
