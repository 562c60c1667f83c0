"""Captions: every word depends on the states, search keeps its limits, one row or many."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from chiasm.core.batch import IGNORE, Batch, VideoBatch
from chiasm.core.errors import InputError
from chiasm.core.outputs import Outputs
from chiasm.heads.captions import Caption, CaptionHead, CaptionHeadConfig
from chiasm.objectives.captions import CaptionsConfig

WIDTH, INNER, TOKENS, LONGEST, STATES = 5, 14, 11, 13, 7


def build(**changes: int) -> CaptionHead:
    torch.manual_seed(2)
    config = CaptionHeadConfig(
        **{"width": INNER, "heads": 2, "layers": 3, "longest": LONGEST, **changes}
    )
    head = config.build(width=WIDTH, tokens=TOKENS).eval()
    # Weights as large as trained ones: at the start all words are alike.
    for parameter in head.decoder.parameters():
        parameter.data.mul_(6)
    return head


def states(*lengths: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(3))
    return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


CAPTIONS = [ids(3, 7, 7, 2), ids(5), ids()]
PROMPTS = [ids(1, 4), ids(), ids(9, 9, 1)]
ROWS = (7, 3, 5)


def captioned(*captions: Tensor) -> Batch:
    """A batch of videos of which only the captions are of any use."""
    count, none = max(1, len(captions)), torch.zeros(0, dtype=torch.long)
    zeros, unknown = torch.zeros(count, 1, dtype=torch.long), torch.full((count,), IGNORE)
    rows = torch.arange(count)
    videos = VideoBatch(
        frames=(),
        features=(torch.zeros(2, 3),) * count,
        times=(torch.arange(2.0),) * count,
        durations=torch.full((count,), 2.0),
        segments=torch.zeros(0, 2),
        segment_rows=none,
        segment_labels=none,
        segments_known=torch.zeros(count, dtype=torch.bool),
        asked=rows,
        answers=unknown,
        domains=unknown,
        captions=captions,
        captioned=rows[: len(captions)],
    )
    return Batch(zeros, zeros, torch.full_like(zeros, IGNORE), zeros, videos=videos)


def test_targets_are_captions_and_their_ends() -> None:
    head = build()
    logits, targets = head.predict(*states(*ROWS), CAPTIONS, prompts=PROMPTS)
    end = TOKENS + 1
    assert targets.tolist() == [3, 7, 7, 2, end, 5, end, end]
    assert logits.shape == (8, TOKENS + 2)


def test_every_word_depends_on_the_states() -> None:
    """With the true words given, the first and each later one still is scored by what is seen."""
    head = build()
    x, mask = states(*ROWS)
    x.requires_grad_()
    logits, targets = head.predict(x, mask, CAPTIONS, prompts=PROMPTS)
    for place, row in zip(range(len(targets)), (0, 0, 0, 0, 0, 1, 1, 2), strict=True):
        score = logits[place].log_softmax(-1)[targets[place]]
        (slope,) = torch.autograd.grad(score, x, retain_graph=True)
        assert bool((slope[row][mask[row]].abs().sum(-1) > 1e-6).all())
        assert not slope[~mask].any()
        assert not slope[[other for other in range(3) if other != row]].any()
    changed, _ = head.predict(x.flip(-1), mask, CAPTIONS, prompts=PROMPTS)
    assert bool(((changed - logits).abs().amax(-1) > 0.01).all())


def test_no_word_sees_later_ones() -> None:
    head = build()
    x, mask = states(7)
    one, _ = head.predict(x, mask, [ids(3, 7, 2, 4)])
    other, _ = head.predict(x, mask, [ids(3, 7, 9, 10)])
    torch.testing.assert_close(one[:3], other[:3], atol=2e-6, rtol=0)
    assert (one[3] - other[3]).abs().max() > 0.01


def test_a_row_alone_is_scored_as_in_a_batch() -> None:
    head = build()
    x, mask = states(*ROWS)
    together, _ = head.predict(x, mask, CAPTIONS, prompts=PROMPTS)
    alone = [
        head.predict(
            x[[row], :length], mask[[row], :length], [CAPTIONS[row]], prompts=[PROMPTS[row]]
        )[0]
        for row, length in enumerate(ROWS)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_a_merged_state_counts_as_often_as_it_stands_for() -> None:
    head = build()
    x, mask = states(4)
    twice = torch.cat([x, x[:, 1:2], x[:, 1:2]], 1)
    wanted, _ = head.predict(twice, torch.ones(1, 6, dtype=torch.bool), [ids(3, 7)])
    found, _ = head.predict(x, mask, [ids(3, 7)], sizes=torch.tensor([[1, 3, 1, 1]]))
    plain, _ = head.predict(x, mask, [ids(3, 7)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (plain - wanted).abs().max() > 0.01


@torch.no_grad()
def greedy(head: CaptionHead, x: Tensor, mask: Tensor, prompt: Tensor, limit: int) -> Caption:
    """The likeliest word, each time, by whole passes and without a cache."""
    words: list[int] = []
    scores: list[float] = []
    while len(words) <= limit:
        logits, _ = head.predict(x, mask, [ids(*words)], prompts=[prompt])
        logs = logits[-1].log_softmax(-1)
        allowed = logs.clone()
        allowed[[0, head.begin]] = -torch.inf
        word = int(allowed.argmax())
        if word == head.end:
            return Caption(tuple(words), True, (sum(scores) + float(logs[word])) / (len(words) + 1))
        if len(words) == limit:
            break
        words.append(word)
        scores.append(float(logs[word]))
    return Caption(tuple(words), False, sum(scores) / len(scores))


@pytest.mark.parametrize("limit", [1, 5, 10])
def test_greedy_search_takes_the_likeliest_word(limit: int) -> None:
    head = build()
    x, mask = states(*ROWS)
    found = head.write(x, mask, limit=limit, prompts=PROMPTS)
    for row, length in enumerate(ROWS):
        cut = x[[row], :length], mask[[row], :length]
        wanted = greedy(head, *cut, PROMPTS[row], limit)
        assert found[row].tokens == wanted.tokens
        assert found[row].finished == wanted.finished
        assert found[row].score == pytest.approx(wanted.score, abs=1e-5)
        assert len(found[row].tokens) <= limit
    assert limit == 1 or len({caption.tokens for caption in found}) > 1


def test_beams_find_the_best_of_all_captions() -> None:
    """As many beams as there are captions: the best of them all, by summed log probability."""
    torch.manual_seed(5)
    head = CaptionHeadConfig(width=6, heads=2, layers=1, longest=4).build(width=WIDTH, tokens=4)
    head.eval()
    for parameter in head.decoder.parameters():
        parameter.data.mul_(9)
    x, mask = states(3)
    every = [ids(*words) for n in range(3) for words in itertools.product(range(1, 4), repeat=n)]
    sums = []
    for words in every:
        logits, targets = head.predict(x, mask, [words])
        sums.append(logits.detach().log_softmax(-1).gather(1, targets[:, None]).sum().item())
    best = max(range(len(every)), key=sums.__getitem__)
    (found,) = head.write(x, mask, limit=2, beams=40, length_penalty=0.0)
    assert found.finished
    assert found.tokens == tuple(every[best].tolist())
    assert found.score == pytest.approx(sums[best] / (len(every[best]) + 1), abs=1e-5)
    # A high power of the length favours long captions, a negative one short ones.
    short, long = (
        head.write(x, mask, limit=2, beams=40, length_penalty=power)[0] for power in (-9.0, 9.0)
    )
    assert (len(short.tokens), len(long.tokens)) == (0, 2)


def test_beams_of_a_row_alone_and_in_a_batch_agree() -> None:
    head = build()
    x, mask = states(*ROWS)
    together = head.write(x, mask, limit=5, beams=3, prompts=PROMPTS)
    for row, length in enumerate(ROWS):
        (alone,) = head.write(
            x[[row], :length], mask[[row], :length], limit=5, beams=3, prompts=[PROMPTS[row]]
        )
        assert alone.tokens == together[row].tokens


def test_training_tells_videos_apart() -> None:
    """Two videos, two captions with the same start: what follows can only be seen."""
    torch.manual_seed(7)
    head = CaptionHeadConfig(width=INNER, heads=2, layers=1, longest=LONGEST).build(
        width=WIDTH, tokens=TOKENS
    )
    x, mask = states(7, 7)
    captions = [ids(3, 7, 2), ids(3, 7, 5, 6)]
    batch = captioned(*captions)
    objective = CaptionsConfig().build()
    assert objective.count(batch) == {"captions": 9.0}
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(80):
        logits, targets = head.predict(x, mask, captions)
        named = {"captions.logits": logits, "captions.targets": targets}
        loss = objective.score(Outputs(named=named), batch)["captions"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    found = head.write(x, mask, limit=9)
    assert [caption.tokens for caption in found] == [(3, 7, 2), (3, 7, 5, 6)]
    assert all(caption.finished for caption in found)
    assert all(caption.score > math.log(0.9) for caption in found)
    # A caption of exactly the limit is seen to end; a longer one is cut, and says so.
    short = head.write(x, mask, limit=3)
    assert [(caption.tokens, caption.finished) for caption in short] == [
        ((3, 7, 2), True),
        ((3, 7, 5), False),
    ]


def test_wrong_input_is_told() -> None:
    head = build()
    x, mask = states(7, 3)
    with pytest.raises(InputError, match=r"row 1: 14 tokens .* the head reads 13; shorten"):
        head.predict(x, mask, [ids(1), ids(*[1] * 12)], prompts=[ids(), ids(2, 2)])
    head.predict(x, mask, [ids(1), ids(*[1] * 11)], prompts=[ids(), ids(2, 2)])
    with pytest.raises(InputError, match="row 1: 14 tokens"):
        head.write(x, mask, limit=12, prompts=[ids(), ids(2, 2)])
    head.write(x, mask, limit=11, prompts=[ids(), ids(2, 2)])
    with pytest.raises(InputError, match="caption of row 0 holds ids from 3 to 11; allowed: 1 to"):
        head.predict(x, mask, [ids(3, 11), ids(1)])
    with pytest.raises(InputError, match="prompt of row 1 holds ids from 0 to 0"):
        head.write(x, mask, limit=2, prompts=[ids(3), ids(0)])
    with pytest.raises(InputError, match="1 captions for 2 rows"):
        head.predict(x, mask, [ids(3)])
    with pytest.raises(InputError, match="1 prompts for 2 rows"):
        head.write(x, mask, limit=2, prompts=[ids(3)])
    with pytest.raises(InputError, match="row 1 has no state"):
        head.write(x, mask & torch.tensor([[True], [False]]), limit=2)
    with pytest.raises(InputError, match="limit=0, beams=1"):
        head.write(x, mask, limit=0)
    for limit, beams in ((1.5, 1), ("3", 1), (3, 2.0)):
        told = re.escape(f"limit={limit!r}, beams={beams!r}; both must be whole numbers")
        with pytest.raises(InputError, match=told):
            head.write(x, mask, limit=limit, beams=beams)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one entry a state"):
        head.write(x, mask[:, 1:], limit=2)
    with pytest.raises(ValidationError, match="3 heads do not divide the width 14"):
        CaptionHeadConfig(width=14, heads=3)
    batch = captioned(ids(4, 2))
    with pytest.raises(InputError, match="the model gives no captions; it gives nothing"):
        CaptionsConfig().build().score(Outputs(), batch)
    named = {"captions.logits": torch.zeros(2, 5), "captions.targets": ids(0)}
    with pytest.raises(InputError, match="scores of 2 tokens for 3 in"):
        CaptionsConfig().build().score(Outputs(named=named), batch)
    assert CaptionsConfig().build().score(Outputs(), captioned())["captions"] == 0
    with pytest.raises(InputError, match="the batch has no videos"):
        CaptionsConfig().build().count(replace(batch, videos=None))


def test_an_id_that_is_never_to_be_written_is_not() -> None:
    head = build()
    x, mask = states(*ROWS)
    free = [one.tokens for one in head.write(x, mask, limit=5)]
    barred = free[0][0]
    held = [one.tokens for one in head.write(x, mask, limit=5, never=(barred,))]
    assert all(barred not in tokens for tokens in held) and held[0]
