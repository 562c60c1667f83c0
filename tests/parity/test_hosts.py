"""Our path through a host against the library's own, in one process, on random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from chiasm.core.batch import Batch
from chiasm.core.tokens import VisualTokens
from chiasm.language.host import Host
from chiasm.language.splice import Spliced
from tests.tiny import TINY_HOSTS, picture, tiny_batch
from tests.tiny_hosts import NEW_HOSTS, build_tiny

QWEN = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=sorted((*TINY_HOSTS, *NEW_HOSTS)))
def host(request: pytest.FixtureRequest) -> Host:
    return build_tiny(request.param)


def spliced(host: Host, batch: Batch) -> Spliced:
    seen = host.encode(batch.host_images, batch.geometries) if batch.geometries else None
    return host.splice(batch, seen and seen.tokens, seen.extras if seen else None)


def library_inputs(host: Host, batch: Batch) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if host.adapter.model_type in QWEN:
        inputs["mm_token_type_ids"] = batch.token_types
    return {**inputs, **batch.host_images}


def conversations() -> list[list[object]]:
    """Rows of different lengths: one image, several, none; a small image is one tile."""
    return [
        ["What is this? ", picture(41, 59, seed=1)],
        [
            picture(30, 97, seed=2),
            "and",
            picture(83, 31, seed=3),
            "or",
            picture(23, 20, seed=3),
            "differ how?",
        ],
        ["Only words here."],
    ]


@pytest.mark.parametrize("padding", ["right", "left"])
@torch.no_grad()
def test_logits_equal_the_librarys_own_forward_bit_for_bit(host: Host, padding: str) -> None:
    batch = tiny_batch(host, conversations(), padding=padding)
    ours = host.logits(host.read(spliced(host, batch)))
    host.model.base_model.rope_deltas = None
    theirs = host.model(**library_inputs(host, batch)).logits
    real = batch.attention_mask == 1
    if host.adapter.model_type not in QWEN and padding == "left":
        # The library counts padding in plain positions outside generate; rotation is relative, so
        # the difference is rounding. Measured: LLaVA 1.2e-5 at logits of up to 5.3, others 3.3e-5.
        most = 5e-5 if host.adapter.model_type == "llava" else 1e-4
        torch.testing.assert_close(ours[real], theirs[real], atol=most, rtol=0)
    else:
        assert torch.equal(ours[real], theirs[real])


@torch.no_grad()
def test_the_images_matter(host: Host) -> None:
    """Guards the parity tests: a host that ignored its images would pass them."""
    one = tiny_batch(host, [["Look: ", picture(41, 59, seed=1)]])
    other = tiny_batch(host, [["Look: ", picture(41, 59, seed=9)]])
    assert torch.equal(one.input_ids, other.input_ids)
    difference = host.read(spliced(host, one)) - host.read(spliced(host, other))
    assert difference[:, -1].abs().max() > 1e-2


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 3)])
def test_greedy_generation_gives_the_librarys_tokens(host: Host, rows: slice) -> None:
    batch = tiny_batch(host, conversations()[rows], padding="left")
    with torch.no_grad():
        ours = host.generate(spliced(host, batch), max_new_tokens=13)
    theirs = host.model.generate(
        **library_inputs(host, batch),
        generation_config=GenerationConfig(
            max_new_tokens=13,
            do_sample=False,
            pad_token_id=host.pad_id,
            eos_token_id=list(host.eos_ids),
        ),
    )[:, batch.input_ids.shape[1] :]
    ends = {host.pad_id, *host.eos_ids}
    for row, expected in zip(ours, theirs.tolist(), strict=True):
        assert row == expected[: len(row)]
        assert len(row) == 13 or expected[len(row)] in ends
    if host.adapter.model_type in TINY_HOSTS:
        assert max(len(row) for row in ours) > 3


@torch.no_grad()
def test_a_batch_gives_what_each_row_gives_alone(host: Host) -> None:
    rows = conversations()
    together = tiny_batch(host, rows)
    whole = host.logits(host.read(spliced(host, together)))
    for index, row in enumerate(rows):
        alone = host.logits(host.read(spliced(host, tiny_batch(host, [row]))))[0]
        # Sums in another order. Measured: 2.1e-5 at logits of up to 5.9.
        torch.testing.assert_close(whole[index, : len(alone)], alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_second_call_does_not_remember_the_first(host: Host) -> None:
    first = tiny_batch(host, conversations()[1:2], padding="left")
    second = tiny_batch(host, conversations()[:1], padding="left")
    fresh = host.generate(spliced(host, second), max_new_tokens=7)
    logits = host.logits(host.read(spliced(host, second)))
    host.generate(spliced(host, first), max_new_tokens=7)
    assert host.generate(spliced(host, second), max_new_tokens=7) == fresh
    assert torch.equal(host.logits(host.read(spliced(host, second))), logits)


@pytest.mark.parametrize("family", QWEN)
@torch.no_grad()
def test_what_the_librarys_model_remembers_is_cleared(family: str) -> None:
    host = TINY_HOSTS[family]()
    batch = tiny_batch(host, conversations()[:1], padding="left")
    for ours in (
        lambda: host.read(spliced(host, batch)),
        lambda: host.generate(spliced(host, batch), max_new_tokens=3),
    ):
        host.model(**library_inputs(host, batch))
        assert host.model.base_model.rope_deltas is not None
        ours()
        assert host.model.base_model.rope_deltas is None


@pytest.mark.parametrize("family", QWEN)
@torch.no_grad()
def test_mrope_positions_equal_those_the_librarys_decoder_receives(family: str) -> None:
    host = TINY_HOSTS[family]()
    batch = tiny_batch(host, conversations())
    received: list[torch.Tensor] = []

    def record(module: torch.nn.Module, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        received.append(kwargs["position_ids"])

    decoder = host.model.get_submodule(host.adapter.decoder_name)
    handle = decoder.register_forward_pre_hook(record, with_kwargs=True)
    host.model(**library_inputs(host, batch))
    host.read(spliced(host, batch))
    handle.remove()
    theirs, ours = received
    assert theirs.shape == ours.shape == (3, *batch.input_ids.shape)
    real = batch.attention_mask == 1
    assert torch.equal(theirs[:, real], ours[:, real])
    # Rows and columns are told apart, else 1-D positions would pass too.
    assert not torch.equal(ours[1], ours[2])


@torch.no_grad()
def test_dropping_token_types_changes_the_librarys_logits() -> None:
    """Why the splice refuses a batch without them: the library would not say a word.

    Qwen3-VL raises by itself, and LLaVA has none.
    """
    host = TINY_HOSTS["qwen2_5_vl"]()
    inputs = library_inputs(host, tiny_batch(host, conversations()[:1]))
    host.model.base_model.rope_deltas = None
    whole = host.model(**inputs).logits
    del inputs["mm_token_type_ids"]
    host.model.base_model.rope_deltas = None
    without = host.model(**inputs).logits
    assert (whole - without).abs().max() > 1e-3


@pytest.mark.parametrize("family", QWEN)
@torch.no_grad()
def test_several_tokens_a_cell_equal_the_librarys_decoder_given_them_directly(family: str) -> None:
    """Two tokens a cell at one position each, built here from embeddings without the splice."""
    host = TINY_HOSTS[family]()
    batch = tiny_batch(host, conversations()[1:2])
    seen = host.encode(batch.host_images, batch.geometries)
    images = seen.tokens.rows()
    pairs = [torch.stack([image, 2 * image], dim=1).flatten(0, 1) for image in images]
    # One column beyond the longest row: padding must not be read.
    longest = max(len(pair) for pair in pairs) + 1
    features = torch.stack(
        [torch.nn.functional.pad(pair, (0, 0, 0, longest - len(pair))) for pair in pairs]
    )
    real = torch.arange(longest) < torch.tensor([[len(pair)] for pair in pairs])
    tokens = VisualTokens(
        features=features,
        cells=torch.zeros(len(pairs), longest, 4),
        sizes=real.long(),
        sources=torch.zeros(len(pairs), longest, dtype=torch.long),
        mask=real,
        times=torch.zeros(len(pairs), longest),
        geometries=batch.geometries,
    )
    ours = host.read(host.splice(batch, tokens, seen.extras, tokens_per_cell=2))

    model = host.model.base_model
    positions, _ = model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=batch.token_types,
        image_grid_thw=batch.host_images["image_grid_thw"],
    )
    waiting = [token for pair in pairs for token in pair]
    embedded, places, visual = [], [], []
    for place, token in enumerate(batch.input_ids[0]):
        is_image = int(token) == host.image_token_id
        for _ in range(2 if is_image else 1):
            embedded.append(waiting.pop(0) if is_image else model.get_input_embeddings()(token))
            places.append(positions[:, :, place])
            visual.append(is_image)
    kwargs = {}
    if family == "qwen3_vl":
        own = torch.cat([torch.tensor([1.0, 0.0]).repeat(len(image)) for image in images])
        kwargs = {
            "visual_pos_masks": torch.tensor([visual]),
            "deepstack_visual_embeds": [
                torch.cat(list(level)).repeat_interleave(2, dim=0) * own[:, None]
                for level in seen.extras["deepstack"]
            ],
        }
    theirs = model.language_model(
        inputs_embeds=torch.stack(embedded)[None],
        attention_mask=torch.ones(1, len(embedded), dtype=torch.long),
        position_ids=torch.stack(places, dim=-1),
        **kwargs,
    ).last_hidden_state
    assert torch.equal(ours, theirs)
