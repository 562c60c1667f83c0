"""What is read once and asked often; `tests/parity/test_tap.py` has its rows beside the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from chiasm.core.errors import InputError
from chiasm.language.host import Host
from chiasm.language.prefix import Prefix
from chiasm.language.splice import Spliced
from tests.tiny import picture, tiny_batch, tiny_llava


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_llava().requires_grad_(False)


def spliced(host: Host, rows: int = 2, padding: str = "left") -> Spliced:
    conversations = [["What? ", picture(41, 59)], [picture(83, 31, seed=2), "and", picture(9, 9)]]
    batch = tiny_batch(host, conversations[:rows], padding=padding)
    seen = host.encode(batch.host_images, batch.geometries)
    return host.splice(batch, seen.tokens, seen.extras)


@pytest.fixture(scope="module")
def prefix(host: Host) -> Prefix:
    return Prefix.read(host, spliced(host))


PHRASES = torch.tensor([[5, 7, 11], [13, 17, 19]])
QUERIES = torch.tensor([[0, 2], [1, -1]])


def test_it_knows_its_length_its_pictures_and_its_states(host: Host, prefix: Prefix) -> None:
    assert prefix.length == prefix.spliced.input_ids.shape[1]
    assert prefix.image_positions.shape == (2, 98)
    assert (prefix.image_positions[0, 49:] == -1).all() and (prefix.image_positions[1] >= 0).all()
    kinds = prefix.spliced.input_ids.gather(1, prefix.image_positions.clamp(min=0))
    assert (kinds[prefix.image_positions >= 0] == host.image_token_id).all()
    assert torch.equal(prefix.states, host.read(prefix.spliced))


def test_asking_looks_at_the_pictures_unless_told_otherwise(prefix: Prefix) -> None:
    asked = prefix.ask(PHRASES, queries=QUERIES)
    told = prefix.ask(PHRASES, queries=QUERIES, keys=prefix.image_positions)
    assert asked.rows[0].shape == (2, 3, 2, 98)
    assert torch.equal(asked.rows[0], told.rows[0])
    own = prefix.ask(PHRASES, queries=QUERIES, keys=torch.arange(3) + prefix.length)
    # Of the phrase itself: the first token sees itself and nothing later.
    assert own.rows[0][0, :, 0, 0].all() and not own.rows[0][0, :, 0, 1:].any()
    assert asked.states.shape == (2, 3, 42) and asked.spliced.input_ids.shape == (2, 3)


def keys_of(prefix: Prefix) -> list[Tensor]:
    return [state for layer in prefix.layers for state in (layer.keys, layer.values)]


def test_asking_changes_nothing_and_copies_no_cache(prefix: Prefix) -> None:
    before = keys_of(prefix)
    values = [state.clone() for state in before]
    prefix.ask(PHRASES, queries=QUERIES)
    for state, old, value in zip(keys_of(prefix), before, values, strict=True):
        assert state is old
        assert torch.equal(state, value)


def test_phrases_of_one_row_share_it(host: Host) -> None:
    """With one row nothing is spread before a layer needs it: the rows are views of one memory."""
    prefix = Prefix.read(host, spliced(host, rows=1))
    cache = prefix._cache(torch.zeros(5, dtype=torch.long))
    spread = cache.layers[0]._take(prefix.layers[0].keys)
    assert spread.shape[0] == 5
    assert spread.data_ptr() == prefix.layers[0].keys.data_ptr() and spread.stride(0) == 0
    many = prefix.ask(PHRASES, queries=QUERIES)
    one = prefix.ask(PHRASES[1:], queries=QUERIES[1:])
    torch.testing.assert_close(many.rows[2][1], one.rows[2][0], atol=1e-6, rtol=0)


def test_rows_that_do_not_fit_are_named(prefix: Prefix) -> None:
    three = PHRASES[[0, 1, 0]]
    queries = QUERIES[[0, 1, 0]]
    with pytest.raises(InputError, match="3 phrases after a prefix of 2 rows; tell with prefix_ro"):
        prefix.ask(three, queries=queries)
    with pytest.raises(InputError, match="prefix row 2 does not exist; there are 2, from 0"):
        prefix.ask(three, queries=queries, prefix_rows=torch.tensor([0, 2, 1]))
    with pytest.raises(InputError, match=r"prefix_rows is torch.int64 \(2,\); 3 phrases need int6"):
        prefix.ask(three, queries=queries, prefix_rows=torch.tensor([0, 1]))


def test_phrases_are_padded_on_the_right_and_never_empty(prefix: Prefix) -> None:
    for mask in ([[0, 1, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 1]]):
        with pytest.raises(InputError, match=r"rows \[0\] of the text that follows have padding"):
            prefix.ask(PHRASES, queries=QUERIES, attention_mask=torch.tensor(mask))
    with pytest.raises(InputError, match=r"an attention mask \(1, 3\) for tokens \(2, 3\)"):
        prefix.ask(PHRASES, queries=QUERIES, attention_mask=torch.ones(1, 3).long())
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    with pytest.raises(InputError, match="row 1: query position 1 is padding in the text"):
        prefix.ask(PHRASES, queries=QUERIES, attention_mask=mask)


def test_a_prefix_ends_in_real_tokens(host: Host) -> None:
    with pytest.raises(InputError, match=r"rows \[0\] end in padding, and a prefix appends"):
        Prefix.read(host, spliced(host, padding="right"))


class _Forgetful:
    """A host whose cache has no keys, as layers of linear attention leave it."""

    def __init__(self, host: Host) -> None:
        self.model = host.model

    def read(self, spliced: Spliced, past: object = None) -> Tensor:
        past.layers[1] = LinearAttentionLayer()  # type: ignore[attr-defined]
        return spliced.input_ids[..., None].float()


def test_a_cache_without_keys_is_named(host: Host) -> None:
    with pytest.raises(InputError, match="keeps LinearAttentionLayer in its cache"):
        Prefix.read(_Forgetful(host), spliced(host))


def test_nothing_of_the_padding_counts_on(host: Host, prefix: Prefix) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    after = prefix.spliced.following(PHRASES, mask)
    assert after.attention_mask[:, -3:].tolist() == mask.tolist()
    assert after.sources[1, 1:].tolist() == [-1, -1] and after.position_ids[1, 1:].tolist() == [
        0,
        0,
    ]
    assert int(after.sources[1, 0]) == int(prefix.spliced.sources[1, -1]) + 1
    whole = prefix.spliced.following(PHRASES)
    assert torch.equal(whole.position_ids, prefix.spliced.following(PHRASES, mask | 1).position_ids)
