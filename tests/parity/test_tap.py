"""The tap's rows against the library's own `output_attentions` under eager, in one process.

Float32, tolerance 1e-6; the largest difference measured stands beside each test.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.batch import IGNORE, IMAGE_TOKEN, Batch
from chiasm.language.host import Host
from chiasm.language.prefix import Prefix
from chiasm.language.splice import Spliced
from chiasm.language.tap import tap
from tests.tiny import picture, tiny_batch
from tests.tiny_hosts import ALL_HOSTS

TOLERANCE = {"atol": 1e-6, "rtol": 0.0}


@pytest.fixture(scope="module", params=sorted(ALL_HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    return ALL_HOSTS[request.param]()


def conversations() -> list[list[object]]:
    """Rows of different lengths: one image, two images, no image."""
    return [
        ["What is this? ", picture(41, 59, seed=1)],
        [picture(30, 97, seed=2), "and", picture(83, 31, seed=3), "differ how?"],
        ["Only words here."],
    ]


def spliced(host: Host, batch: Batch) -> Spliced:
    seen = host.encode(batch.host_images, batch.geometries) if batch.geometries else None
    return host.splice(batch, seen and seen.tokens, seen.extras if seen else None)


def padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def text_and_images(batch: Spliced) -> tuple[Tensor, Tensor]:
    """The last five real tokens of each row as queries, its visual tokens as keys, ragged."""
    queries, keys = [], []
    for row in range(batch.input_ids.shape[0]):
        real = batch.attention_mask[row].nonzero().flatten()
        queries.append(real[-5 + row :])
        keys.append((batch.token_types[row] == IMAGE_TOKEN).nonzero().flatten())
    return padded(queries), padded(keys)


def reference(host: Host, batch: Spliced) -> Any:
    """The library's own maps and hidden states."""
    before = host.model.get_decoder().config._attn_implementation
    host.model.set_attn_implementation("eager")
    host.adapter.forget(host.model)
    output = host.model.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        mm_encoder_outputs=dict(batch.mm_encoder_outputs),
        use_cache=False,
        output_attentions=True,
        output_hidden_states=True,
        **batch.host_kwargs,
    )
    host.model.set_attn_implementation(before)
    return output


def sliced(maps: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Take queries and keys, one by one, out of whole maps (B, heads, N, N)."""
    out = maps.new_zeros(maps.shape[0], maps.shape[1], queries.shape[1], keys.shape[1])
    for row in range(maps.shape[0]):
        for i, query in enumerate(queries[row].tolist()):
            for j, key in enumerate(keys[row].tolist()):
                if query >= 0 and key >= 0:
                    out[row, :, i, j] = maps[row, :, query, key]
    return out


@pytest.mark.parametrize("padding", ["right", "left"])
@torch.no_grad()
def test_rows_and_hidden_states_equal_the_librarys(host: Host, padding: str) -> None:
    batch = spliced(host, tiny_batch(host, conversations(), padding=padding))
    queries, keys = text_and_images(batch)
    with tap(host.model, queries=queries, keys=keys, hidden=True) as rows:
        host.read(batch)
    theirs = reference(host, batch)
    assert len(rows) == len(rows.hidden) == len(theirs.attentions)
    for layer, maps in enumerate(theirs.attentions):
        torch.testing.assert_close(rows[layer], sliced(maps, queries, keys), **TOLERANCE)
        for row in range(len(queries)):
            real = queries[row] >= 0
            state = theirs.hidden_states[layer + 1][row, queries[row][real]]
            torch.testing.assert_close(rows.hidden[layer][row, real], state, atol=1e-5, rtol=0)
            assert not rows.hidden[layer][row, ~real].any()


@pytest.mark.parametrize("merge", [None, "mean"])
@torch.no_grad()
def test_phrases_after_a_prefix_give_the_rows_of_the_whole(host: Host, merge: Any) -> None:
    before = spliced(host, tiny_batch(host, conversations()[:2], padding="left"))
    prefix = Prefix.read(host, before)
    phrases = [[5, 7, 11, 13, 17], [19, 23], [29, 31, 37]]
    owners = torch.tensor([1, 0, 1])
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(p) for p in phrases], batch_first=True, padding_value=host.pad_id
    )
    mask = torch.tensor([[1] * len(p) + [0] * (5 - len(p)) for p in phrases])
    queries = torch.tensor([[1, 3, 4], [0, 1, -1], [2, -1, -1]])
    groups = None if merge is None else torch.tensor([[0, 0, 1], [0, 0, -1], [0, -1, -1]])
    first = prefix.ask(ids[:1], queries=queries[:1], prefix_rows=owners[:1])
    asked = prefix.ask(
        ids,
        attention_mask=mask,
        queries=queries,
        prefix_rows=owners,
        groups=groups,
        merge=merge,
        hidden=True,
    )
    again = prefix.ask(ids[:1], queries=queries[:1], prefix_rows=owners[:1])
    for layer in range(len(first.rows)):
        assert torch.equal(first.rows[layer], again.rows[layer])
    for index, phrase in enumerate(phrases):
        row = int(owners[index])
        whole = whole_of(host, row, phrase)
        start = whole.input_ids.shape[1] - len(phrase)
        keys = (whole.token_types[0] == IMAGE_TOKEN).nonzero().flatten()
        own = queries[index : index + 1]
        with tap(
            host.model,
            queries=torch.where(own < 0, -1, own + start),
            keys=keys,
            groups=None if groups is None else groups[index : index + 1],
            merge=merge,
            hidden=True,
        ) as rows:
            states = host.read(whole)
        for layer in range(len(rows)):
            count, columns = rows[layer].shape[2:]
            got = asked.rows[layer][index, :, :count, :columns]
            torch.testing.assert_close(got, rows[layer][0], atol=1e-5, rtol=0)
            assert rows[layer].max() > 0.01
            torch.testing.assert_close(
                asked.rows.hidden[layer][index], rows.hidden[layer][0], atol=1e-5, rtol=1e-5
            )
        torch.testing.assert_close(
            asked.states[index, : len(phrase)], states[0, start:], atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_rows_while_generating_equal_the_librarys(host: Host) -> None:
    batch = spliced(host, tiny_batch(host, conversations(), padding="left"))
    _, keys = text_and_images(batch)
    with tap(host.model, queries="decoded", keys=keys, hidden=True) as rows:
        written = host.generate(batch, max_new_tokens=6, min_new_tokens=6)
    text = torch.tensor(written)
    assert text.shape == (3, 6)
    # Read what was written as one text: token t has its row at its own position.
    states, maps = reread(host, batch, text)
    places = batch.input_ids.shape[1] + torch.arange(5).expand(3, -1)
    for layer in range(len(rows)):
        assert rows[layer].shape[2] == 5
        torch.testing.assert_close(
            rows[layer], sliced(maps[layer], places, keys), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            rows.hidden[layer], states[layer + 1][:, -6:-1], atol=1e-4, rtol=1e-4
        )


def reread(host: Host, batch: Spliced, text: Tensor) -> tuple[Any, Any]:
    """Hidden states and maps of a batch with text behind it."""
    after = batch.following(text)
    whole = replace(
        batch,
        input_ids=torch.cat([batch.input_ids, text], dim=1),
        attention_mask=after.attention_mask,
        token_types=torch.cat([batch.token_types, after.token_types], dim=1),
        position_ids=torch.cat([batch.position_ids, after.position_ids], dim=-1),
        host_kwargs={
            name: torch.cat([value, after.token_types], dim=1)
            if name == "mm_token_type_ids"
            else value
            for name, value in batch.host_kwargs.items()
        },
    )
    output = reference(host, whole)
    return output.hidden_states, output.attentions


def whole_of(host: Host, row: int, phrase: list[int]) -> Spliced:
    """One conversation and the phrase after it, as one text without a cache."""
    batch = tiny_batch(host, [conversations()[row]])
    more = torch.tensor([phrase])
    whole = replace(
        batch,
        input_ids=torch.cat([batch.input_ids, more], dim=1),
        attention_mask=torch.cat([batch.attention_mask, torch.ones_like(more)], dim=1),
        labels=torch.cat([batch.labels, torch.full_like(more, IGNORE)], dim=1),
        token_types=torch.cat([batch.token_types, torch.zeros_like(more)], dim=1),
    )
    return spliced(host, whole)
