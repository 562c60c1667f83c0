"""The tap: the only place where attention is captured.

It computes the attention rows of chosen tokens over chosen columns while the model runs with the
implementation it has, and nothing else of the maps. What grounding reads from a frozen host
(F-LMM, arXiv:2406.05821, section 3.2) costs then about as much as the plain forward pass.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.language.attention_rows import (
    Merge,
    Scoring,
    attention_rows,
    merge_rows,
    take_columns,
)
from chiasm.language.interception import intercepted
from chiasm.language.tap_request import Reading, Request, build_request

Decoded = Literal["decoded"]


@dataclass
class Rows:
    """What a tap collected: rows by layer, and hidden states of the same queries.

    Attributes:
        hidden: For each layer float (B, Q, D), the output of the layer at the queries (of the last
            one after the final norm, as `output_hidden_states` gives it); empty unless asked for.
            Zero at padded queries.
    """

    hidden: list[Tensor] = field(default_factory=list)
    _layers: dict[int, Tensor] = field(default_factory=dict)

    def __getitem__(self, layer: int) -> Tensor:
        """Return float32 (B, heads, Q or G, K) of a layer; negative layers count from the end.

        Raises:
            InputError: No rows of that layer were seen.
        """
        known = self.layers
        if known and layer < 0:
            layer += known[-1] + 1
        if layer not in self._layers:
            told = f"layers {known[0]} to {known[-1]}" if known else "none, as no pass was read yet"
            raise InputError(f"no attention rows of layer {layer}; there are {told}")
        return self._layers[layer]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Tensor]:
        return (self._layers[layer] for layer in self.layers)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have rows, ascending: all, unless some layers have no attention."""
        return tuple(sorted(self._layers))

    def channels(self) -> Tensor:
        """Return float32 (B, layers * heads, Q or G, K): all maps, layer by layer."""
        return torch.cat(list(self), dim=1)

    def add(self, rows: dict[int, Tensor]) -> None:
        """Append the rows of one more pass, along the queries."""
        for layer, new in rows.items():
            old = self._layers.get(layer)
            self._layers[layer] = new if old is None else torch.cat([old, new], dim=2)

    def add_hidden(self, states: list[Tensor]) -> None:
        """Append the hidden states of one more pass."""
        olds = self.hidden or [state[:, :0] for state in states]
        self.hidden = [torch.cat([a, b], dim=1) for a, b in zip(olds, states, strict=True)]


@contextmanager
def tap(
    model: Any,
    *,
    queries: Tensor | Decoded,
    keys: Tensor,
    groups: Tensor | None = None,
    merge: Merge | None = None,
    hidden: bool = False,
) -> Iterator[Rows]:
    """Collect attention rows of the text decoder while a model runs.

    The model keeps its attention implementation, and the tower is not touched. One pass of the
    decoder is read, by the thread that opened the tap; with `queries="decoded"` all passes after
    the first are, so that `generate` gives a row for each new token it reads (not for the last,
    which it only writes).

    Args:
        model: A transformers model with a text decoder, or the decoder itself.
        queries: int64 (B, Q), positions in the sequence being read, cached positions not counted;
            -1 is padding. Or `decoded`.
        keys: int64 (B, K), or (K,) for all rows: positions in the whole sequence, what a cache
            holds included; -1 is padding.
        groups: int64 (B, Q), the group of each query, -1 for none; or bool (B, G, Q), where a query
            may belong to several. Groups without a query may only stand at the end of a row.
        merge: `mean` or `max`: the rows of each group become one, layer by layer.
        hidden: Whether to keep the hidden states of the queries, too.

    Yields:
        Rows: filled while the model runs; float32 (B, heads, Q, K) a layer, or (B, heads, G, K)
        when merged. Padded queries, keys and groups are zero. They carry a gradient where the
        model's own attention does.

    Raises:
        InputError: A position or a group is out of range or padding, nothing or too much was read,
            or the model's attention cannot be tapped.
    """
    collector = _Collector(
        _decoder(model), build_request(queries, keys, groups, merge), keep_hidden=hidden
    )
    with collector.listening():
        yield collector.rows
    collector.check_done()


class _Collector:
    """What listens at a decoder: one pass begins, its layers call, it ends."""

    def __init__(self, decoder: Any, request: Request, *, keep_hidden: bool) -> None:
        self.rows = Rows()
        self._decoder = decoder
        self._request = request
        self._keep_hidden = keep_hidden
        self._thread = threading.get_ident()
        self._passes = 0
        self._reading: Reading | None = None
        self._current = request
        self._pass_rows: dict[int, Tensor] = {}
        self._pass_hidden: dict[int, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen until the end of the block."""
        modules = [module for module in self._decoder.layers.modules() if _is_attention(module)]
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            stack.enter_context(intercepted(self._decoder.config, modules, self._hear))
            yield

    def check_done(self) -> None:
        """Check that something was read."""
        if not self._passes:
            raise InputError(
                f"the tap saw no pass of its {type(self._decoder).__name__}; run the tapped model "
                "inside the block, in the thread that opened it"
            )

    def _hooks(self) -> Iterator[Any]:
        yield self._decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        yield self._decoder.register_forward_hook(self._end)
        if self._keep_hidden:
            for layer, module in enumerate(self._decoder.layers):
                yield module.register_forward_hook(partial(self._keep, layer))

    @property
    def _elsewhere(self) -> bool:
        return threading.get_ident() != self._thread

    def _begin(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._elsewhere:
            return
        given = inspect.signature(decoder.forward).bind(*args, **kwargs).arguments
        reading = _reading(decoder, {**given, **given.get("kwargs", {})})
        decoded = self._request.queries is None
        if self._passes and not decoded:
            raise InputError(
                "the tap has read its pass, and the model runs once more; open one tap a pass, or "
                "give queries='decoded' for the passes that generation makes"
            )
        _check_recomputation(decoder, given)
        if decoded and not self._passes:
            # The prompt is read, nothing is decoded yet; an empty query tells shapes all the same.
            none = torch.zeros((reading.batch, 0), dtype=torch.long)
            self._current = replace(self._request, queries=none).on(reading)
        else:
            self._current = self._request.on(reading)
        self._reading = reading
        self._pass_rows, self._pass_hidden = {}, {}

    def _hear(
        self, module: Any, query: Tensor, key: Tensor, mask: Any, more: dict[str, Any]
    ) -> None:
        reading = self._reading
        if self._elsewhere or reading is None:
            return
        layer = int(module.layer_idx)
        asked, queries = self._current, self._current.queries
        assert queries is not None
        offset = reading.offsets[layer]
        rows = attention_rows(
            query,
            key,
            mask,
            queries=queries.clamp(min=0),
            scoring=_scoring(module, query, more),
            seen=reading.seen,
            offset=offset,
        )
        rows = take_columns(rows, asked.keys, offset)
        rows = rows.masked_fill((queries < 0)[:, None, :, None], 0)
        if asked.members is not None and asked.merge is not None:
            rows = merge_rows(rows, asked.members, asked.merge)
        self._pass_rows[layer] = rows

    def _keep(self, layer: int, module: Any, args: Any, output: Any) -> None:
        if self._elsewhere or self._reading is None:
            return
        self._pass_hidden[layer] = self._at_queries(
            output if isinstance(output, Tensor) else output[0]
        )

    def _at_queries(self, states: Tensor) -> Tensor:
        queries = self._current.queries
        assert queries is not None
        index = queries.clamp(min=0)[..., None].expand(-1, -1, states.shape[-1])
        return states.gather(1, index).masked_fill((queries < 0)[..., None], 0)

    def _end(self, decoder: Any, args: Any, output: Any) -> None:
        if self._elsewhere or self._reading is None:
            return
        self._reading = None
        # A pass that failed on its way is none, and may be tried again.
        self._passes += 1
        if not self._pass_rows:
            raise InputError(
                f"no layer of {type(decoder).__name__} asked the attention interface of "
                "transformers, so its rows cannot be tapped; use a decoder with softmax attention "
                "that supports `attn_implementation`"
            )
        if self._keep_hidden:
            self._pass_hidden[len(decoder.layers) - 1] = self._at_queries(output[0])
            self.rows.add_hidden([self._pass_hidden[i] for i in sorted(self._pass_hidden)])
        self.rows.add(self._pass_rows)


def _decoder(model: Any) -> Any:
    """Return the text decoder of a model.

    Raises:
        InputError: The model has none with layers.
    """
    decoder = model.get_decoder()
    if not isinstance(dict(decoder.named_children()).get("layers"), nn.ModuleList):
        raise InputError(
            f"{type(decoder).__name__}, the decoder of {type(model).__name__}, has no list of "
            "layers; the tap reads decoders such as Llama, Mistral, Qwen and Gemma"
        )
    return decoder


def _is_attention(module: nn.Module) -> bool:
    return "layer_idx" in vars(module)


def _reading(decoder: Any, given: dict[str, Any]) -> Reading:
    embeds, ids = given.get("inputs_embeds"), given.get("input_ids")
    read = embeds if embeds is not None else ids
    if read is None:
        raise InputError("the decoder was called without input_ids and without inputs_embeds")
    batch, length = read.shape[:2]
    past, layers = given.get("past_key_values"), len(decoder.layers)
    seen, offsets = 0, (0,) * layers
    if past is not None:
        seen = int(past.get_seq_length())
        offsets = tuple(int(past.get_mask_sizes(length, layer)[1]) for layer in range(layers))
    mask = given.get("attention_mask")
    real = None
    if isinstance(mask, Tensor) and mask.ndim == 2:
        real = mask[:, : seen + length] != 0
    return Reading(batch, length, seen, real, offsets, read.device)


def _check_recomputation(decoder: Any, given: dict[str, Any]) -> None:
    """Refuse to tap what a backward pass outside the block would compute once more."""
    recomputed = any(layer.gradient_checkpointing for layer in decoder.layers)
    if not (recomputed and decoder.training and torch.is_grad_enabled()):
        return
    inputs = [value for value in given.values() if isinstance(value, Tensor)]
    if any(value.requires_grad for value in (*inputs, *decoder.parameters())):
        raise InputError(
            f"{type(decoder).__name__} recomputes its layers in the backward pass, where the tap "
            "is gone; turn gradient checkpointing off, or freeze the decoder and its inputs"
        )


def _scoring(module: Any, query: Tensor, more: dict[str, Any]) -> Scoring:
    """Return what a layer does to scores, from the arguments it gives its implementation."""
    if more.get("position_bias") is not None:
        raise InputError(
            f"{type(module).__name__} adds a position bias to its scores, which the tap does not "
            "know; use a decoder with rotary positions"
        )
    causal = more.get("is_causal")
    scaling = more.get("scaling")
    return Scoring(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=more.get("softcap"),
        sinks=more.get("s_aux"),
        window=more.get("sliding_window"),
        causal=module.is_causal if causal is None else causal,
    )
