"""Phrases asked after a picture that was read: what each of them attends to in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from chiasm.language.attention_rows import Merge
from chiasm.language.host import Host
from chiasm.language.hosts.protocol import CellGrid
from chiasm.language.phrase_maps import PhraseReading, phrase_maps, phrase_states
from chiasm.language.prefix import Prefix


def ask_phrases(
    host: Host,
    prefix: Prefix,
    said: Sequence[tuple[Tensor, Tensor]],
    grids: tuple[CellGrid, ...],
    *,
    merge: Merge,
    hidden: bool = False,
) -> PhraseReading:
    """Read phrases, each after the same prefix, and keep what they attend to.

    Args:
        host: The host that has read the prefix.
        prefix: One row with one picture.
        said: For each phrase its text, int64 (T,), and the places in it of the phrase's tokens,
            int64 (its tokens,).
        grids: Of the picture.
        merge: How the rows of a phrase's tokens become one.
        hidden: Whether to keep hidden states, too.
    """
    queries = pad_sequence([places for _, places in said], True, -1).to(host.device)
    groups = (queries >= 0)[:, None]
    asked = prefix.ask(
        pad_sequence([ids for ids, _ in said], True, host.pad_id).to(host.device),
        queries=queries,
        attention_mask=pad_sequence([torch.ones_like(ids) for ids, _ in said], True, 0).to(
            host.device
        ),
        groups=groups,
        merge=merge,
        hidden=hidden,
    )
    each = torch.arange(len(said), device=host.device)
    places = torch.stack([each, torch.zeros_like(each)], dim=1)
    # Every phrase means the one picture of its row.
    only = torch.zeros_like(each)
    maps = phrase_maps(
        asked.rows.channels(),
        places,
        only,
        only[:1],
        prefix.spliced.image_lengths,
        [grids],
        host.adapter.most_grids,
    )
    states = phrase_states(asked.rows.hidden, groups, places) if hidden else []
    embeddings = host.model.get_input_embeddings()
    words = [embeddings(ids[places].to(host.device)) for ids, places in said]
    return PhraseReading(maps, states, words)
