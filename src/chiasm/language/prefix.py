"""A picture that is read once and asked many times: the cache of what comes before a phrase.

Attention is causal, so keys and values of a picture and its prompt do not depend on the phrase that
follows. Each further phrase costs its own tokens only.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from chiasm.core.batch import IMAGE_TOKEN
from chiasm.core.errors import InputError
from chiasm.language.attention_rows import Merge
from chiasm.language.splice import Spliced, check_ends_real
from chiasm.language.tap import Rows, tap


class Reader(Protocol):
    """What a prefix needs of `language.host.Host`."""

    model: Any

    def read(self, spliced: Spliced, past: Any = None) -> Tensor:
        """Read what is spliced after what `past` holds, and let `past` grow."""
        ...


@dataclass(frozen=True)
class Asked:
    """What phrases after a prefix gave.

    Attributes:
        rows: Attention rows, and hidden states where they were asked for; see `language.tap`.
        states: float (B', T, width), the last hidden states of the phrases' tokens.
        spliced: The phrases as they were read.
    """

    rows: Rows
    states: Tensor
    spliced: Spliced


@dataclass(frozen=True)
class Prefix:
    """What a host has read and remembers: B rows of P positions. Asking does not change it.

    Attributes:
        host: The host that has read it.
        spliced: What was read.
        states: float (B, P, width), its last hidden states.
        layers: Keys and values by layer, in the library's form.
    """

    host: Reader
    spliced: Spliced
    states: Tensor
    layers: tuple[CacheLayerMixin, ...]

    @classmethod
    def read(cls, host: Reader, spliced: Spliced) -> Prefix:
        """Read what comes before the phrases.

        Gradients are kept as everywhere: where something trains and nobody switched them off.

        Args:
            host: The host.
            spliced: Pictures and text; every row ends in a real token, that is, padding is on the
                left.

        Raises:
            InputError: A row ends in padding, or the host remembers in a form that has no keys.
        """
        check_ends_real(spliced.attention_mask, "a prefix")
        cache = DynamicCache(config=host.model.config)
        states = host.read(spliced, past=cache)
        foreign = [type(y).__name__ for y in cache.layers if not isinstance(y, CacheLayerMixin)]
        if foreign:
            raise InputError(
                f"{type(host.model).__name__} keeps {foreign[0]} in its cache, which cannot be "
                "asked twice; use a host whose layers all attend"
            )
        return cls(host, spliced, states, tuple(cache.layers))

    @property
    def length(self) -> int:
        """How many positions it has, padding included."""
        return self.spliced.input_ids.shape[1]

    @property
    def image_positions(self) -> Tensor:
        """The positions of visual tokens, int64 (B, K), padded by -1 on the right."""
        rows = [(types == IMAGE_TOKEN).nonzero().flatten() for types in self.spliced.token_types]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def ask(
        self,
        input_ids: Tensor,
        *,
        queries: Tensor,
        keys: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prefix_rows: Tensor | None = None,
        groups: Tensor | None = None,
        merge: Merge | None = None,
        hidden: bool = False,
    ) -> Asked:
        """Read phrases after the prefix, all in one batch, and tap their attention.

        Args:
            input_ids: int64 (B', T), the text that follows the prefix.
            queries: int64 (B', Q), positions in `input_ids`, -1 for padding.
            keys: int64 (B', K) or (K,), positions in the prefix or, from P on, in the phrases, -1
                for padding. By default the visual tokens of each phrase's prefix row.
            attention_mask: int64 (B', T), 1 for a real token; phrases are padded on the right.
            prefix_rows: int64 (B',), the row of the prefix each phrase follows. By default phrase
                b follows row b, or the only row.
            groups: See `language.tap.tap`.
            merge: See there.
            hidden: See there.

        Raises:
            InputError: Phrases and prefix rows do not fit, or what `tap` refuses.
        """
        owners = self._owners(input_ids, prefix_rows)
        spliced = _select(self.spliced, owners).following(input_ids, attention_mask)
        columns = self.image_positions[owners] if keys is None else keys
        with tap(
            self.host.model,
            queries=queries,
            keys=columns,
            groups=groups,
            merge=merge,
            hidden=hidden,
        ) as rows:
            states = self.host.read(spliced, past=self._cache(owners))
        return Asked(rows, states, spliced)

    def _owners(self, input_ids: Tensor, prefix_rows: Tensor | None) -> Tensor:
        phrases, rows = input_ids.shape[0], self.spliced.input_ids.shape[0]
        if prefix_rows is not None:
            if prefix_rows.shape != (phrases,) or prefix_rows.dtype != torch.long:
                raise InputError(
                    f"prefix_rows is {prefix_rows.dtype} {tuple(prefix_rows.shape)}; "
                    f"{phrases} phrases need int64 ({phrases},)"
                )
            wrong = [row for row in prefix_rows.tolist() if not 0 <= row < rows]
            if wrong:
                raise InputError(f"prefix row {wrong[0]} does not exist; there are {rows}, from 0")
            return prefix_rows
        if rows not in (1, phrases):
            raise InputError(
                f"{phrases} phrases after a prefix of {rows} rows; tell with prefix_rows which row "
                "each of them follows"
            )
        owners = torch.arange(phrases) if rows == phrases else torch.zeros(phrases).long()
        return owners.to(input_ids.device)

    def _cache(self, owners: Tensor) -> Cache:
        return Cache(layers=[_Remembered(layer, owners) for layer in self.layers])


class _Remembered(CacheLayerMixin):
    """A layer's keys and values for some rows, which grow for the layer that asks and nobody else.

    Nothing is copied before that layer runs, and the copy is gone when it is done.
    """

    def __init__(self, layer: CacheLayerMixin, owners: Tensor) -> None:
        super().__init__()
        self._layer: Any = layer
        self._owners = owners
        self.is_sliding = layer.is_sliding
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to be set up."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what was remembered with the new states behind it."""
        grown = copy.copy(self._layer)
        grown.keys, grown.values = self._take(grown.keys), self._take(grown.values)
        states: tuple[Tensor, Tensor] = grown.update(key_states, value_states, *args, **kwargs)
        return states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and first position of keys when `query_length` more are read."""
        sizes: tuple[int, int] = self._layer.get_mask_sizes(query_length)
        return sizes

    def get_seq_length(self) -> int:
        """Return how many positions were read."""
        return int(self._layer.get_seq_length())

    def get_max_length(self) -> int:
        """Return the bound on positions, -1 for none."""
        return int(self._layer.get_max_length())

    def _take(self, states: Tensor) -> Tensor:
        if states.shape[0] == 1:
            return states.expand(len(self._owners), -1, -1, -1)
        return states[self._owners]


def _select(spliced: Spliced, rows: Tensor) -> Spliced:
    """Return what following text needs of some rows."""
    return replace(
        spliced,
        input_ids=spliced.input_ids[rows],
        attention_mask=spliced.attention_mask[rows],
        labels=spliced.labels[rows],
        token_types=spliced.token_types[rows],
        position_ids=spliced.position_ids[..., rows, :],
        sources=spliced.sources[rows],
        mm_encoder_outputs={},
        host_kwargs={},
    )
