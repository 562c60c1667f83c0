"""Two routes through a host, one answer: batch and single, cache and no cache."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import DynamicCache

from chiasm.core.batch import Batch
from chiasm.core.tokens import VisualTokens
from chiasm.language.host import Host
from chiasm.language.splice import Spliced
from tests.tiny import TINY_HOSTS, picture, tiny_batch

ATOL = 5e-5
"""Float32 sums in another order. Measured: at most 6.5e-6, at logits of up to 5.7."""


@pytest.fixture(scope="module", params=sorted(TINY_HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    return TINY_HOSTS[request.param]()


def conversations() -> list[list[object]]:
    return [
        ["What is this? ", picture(41, 59, seed=1)],
        [picture(30, 97, seed=2), "and", picture(83, 31, seed=3), "differ how?"],
        ["Only words here."],
    ]


def interleaved(tokens: VisualTokens) -> VisualTokens:
    """Two tokens a cell: the host's, then another made from it."""
    other = tokens.features.roll(1, dims=-1)

    def twice(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(2, dim=1)

    return dataclasses.replace(
        tokens,
        features=torch.stack([tokens.features, other], dim=2).flatten(1, 2),
        cells=twice(tokens.cells),
        sizes=twice(tokens.sizes),
        mask=twice(tokens.mask),
        times=twice(tokens.times),
    )


def spliced(host: Host, batch: Batch, tokens_per_cell: int = 1) -> Spliced:
    if not batch.geometries:
        return host.splice(batch, None)
    seen = host.encode(batch.host_images, batch.geometries)
    tokens = interleaved(seen.tokens) if tokens_per_cell == 2 else seen.tokens
    return host.splice(batch, tokens, seen.extras, tokens_per_cell)


@pytest.mark.parametrize("tokens_per_cell", [1, 2])
@pytest.mark.parametrize("padding", ["right", "left"])
@torch.no_grad()
def test_a_batch_equals_single_rows(host: Host, padding: str, tokens_per_cell: int) -> None:
    batch = spliced(host, tiny_batch(host, conversations(), padding=padding), tokens_per_cell)
    together = host.logits(host.read(batch))
    for row, conversation in enumerate(conversations()):
        alone = host.logits(
            host.read(spliced(host, tiny_batch(host, [conversation]), tokens_per_cell))
        )
        real = batch.attention_mask[row] == 1
        torch.testing.assert_close(together[row, real], alone[0], atol=ATOL, rtol=0)


@pytest.mark.parametrize("tokens_per_cell", [1, 2])
@torch.no_grad()
def test_generating_for_a_batch_equals_single_rows(host: Host, tokens_per_cell: int) -> None:
    batch = tiny_batch(host, conversations(), padding="left")
    together = host.generate(spliced(host, batch, tokens_per_cell), max_new_tokens=11)
    for row, conversation in enumerate(conversations()):
        one = spliced(host, tiny_batch(host, [conversation]), tokens_per_cell)
        assert host.generate(one, max_new_tokens=11) == [together[row]]


@pytest.mark.parametrize("tokens_per_cell", [1, 2])
@torch.no_grad()
def test_generating_equals_reading_everything_again_for_each_token(
    host: Host, tokens_per_cell: int
) -> None:
    whole = spliced(host, tiny_batch(host, conversations()[1:2]), tokens_per_cell)
    generated = host.generate(whole, max_new_tokens=7)[0]
    written: list[int] = []
    while len(written) < 7:
        token = int(host.logits(host.read(whole)[:, -1]).argmax())
        if token in host.eos_ids:
            break
        written.append(token)
        whole = appended(whole, torch.tensor([[token]]))
    assert written == generated
    assert len(written) > 3


def appended(before: Spliced, ids: torch.Tensor) -> Spliced:
    """The same without a cache: text put behind what was spliced."""
    after = before.following(ids)
    kwargs = dict(before.host_kwargs)
    if "mm_token_type_ids" in kwargs:
        kwargs["mm_token_type_ids"] = torch.cat(
            [kwargs["mm_token_type_ids"], torch.zeros_like(ids)], dim=1
        )
    return Spliced(
        input_ids=torch.cat([before.input_ids, ids], dim=1),
        attention_mask=after.attention_mask,
        labels=torch.cat([before.labels, after.labels], dim=1),
        token_types=torch.cat([before.token_types, after.token_types], dim=1),
        position_ids=torch.cat([before.position_ids, after.position_ids], dim=-1),
        sources=torch.cat([before.sources, after.sources], dim=1),
        mm_encoder_outputs=before.mm_encoder_outputs,
        host_kwargs=kwargs,
    )


@pytest.mark.parametrize("tokens_per_cell", [1, 2])
@torch.no_grad()
def test_reading_on_from_a_cache_equals_reading_the_whole(host: Host, tokens_per_cell: int) -> None:
    first = spliced(host, tiny_batch(host, conversations(), padding="left"), tokens_per_cell)
    ids = torch.randint(0, 256, (3, 5), generator=torch.Generator().manual_seed(3))
    whole = host.read(appended(first, ids))
    cache = DynamicCache(config=host.model.config)
    head = host.read(first, past=cache)
    tail = host.read(first.following(ids), past=cache)
    assert cache.get_seq_length() == first.input_ids.shape[1] + 5
    real = first.attention_mask == 1
    torch.testing.assert_close(head[real], whole[:, :-5][real], atol=ATOL, rtol=0)
    torch.testing.assert_close(tail, whole[:, -5:], atol=ATOL, rtol=0)


@torch.no_grad()
def test_supervised_rows_equal_the_whole_logits_shifted(host: Host) -> None:
    batch = tiny_batch(host, conversations(), answers=["a cat", "colour", ""])
    read = spliced(host, batch)
    hidden = host.read(read)
    logits, targets = host.supervised(read, hidden)
    # Each answer ends with its end token; the last answer is that token alone.
    assert len(targets) == batch.supervised_tokens == 6 + 7 + 1
    assert torch.equal(targets, batch.labels[:, 1:][batch.labels[:, 1:] != -100])
    everything = host.logits(hidden)
    expected = [
        everything[row, position - 1] for row, position in (batch.labels != -100).nonzero().tolist()
    ]
    torch.testing.assert_close(logits, torch.stack(expected), atol=ATOL, rtol=0)


@torch.no_grad()
def test_a_batch_that_supervises_nothing_gives_no_rows(host: Host) -> None:
    read = spliced(host, tiny_batch(host, conversations()[:1]))
    logits, targets = host.supervised(read, host.read(read))
    assert logits.shape == (0, 269)
    assert targets.shape == (0,)


@torch.no_grad()
def test_eager_and_sdpa_agree(host: Host) -> None:
    eager = TINY_HOSTS[host.adapter.model_type](attention="eager")
    batch = tiny_batch(host, conversations())
    ours = host.logits(host.read(spliced(host, batch)))
    theirs = eager.logits(eager.read(spliced(eager, batch)))
    real = batch.attention_mask == 1
    torch.testing.assert_close(ours[real], theirs[real], atol=ATOL, rtol=0)
