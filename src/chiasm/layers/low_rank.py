"""Low-rank adapters by name on the linear layers of any module, through PEFT and in its files.

LoRA (arXiv:2106.09685), eq. 3: h = W x + (alpha / rank) B A x, with B zero at the start, so that a
fresh adapter changes nothing. With several adapters and shares w of a row (its domains, a router):
h = W x + sum_d w_d (alpha / rank) B_d A_d x, so rows of several domains share a batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from pydantic import Field, field_validator
from torch import Tensor, nn

from chiasm.core.config import Config
from chiasm.core.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from chiasm.layers.lora import (
    keep_training,
    linear_layers,
    load_lora_weights,
    lora_modules,
    read_lora_settings,
    wrap_lora,
)
from chiasm.layers.routing import Routing

_BASE = "__base__"
"""PEFT's name for a row that goes through no adapter."""


class LowRankConfig(Config):
    """Low-rank adapters on linear layers.

    Attributes:
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank.
        dropout: Share of the adapter's input that is dropped in training.
        targets: Names of the linear layers that get an adapter (the last part of their names);
            empty for all there are.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ()

    @field_validator("targets")
    @classmethod
    def _once(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in targets if targets.count(name) > 1})
        if twice:
            raise ValueError(f"targets given twice: {', '.join(twice)}; name each once")
        return targets

    def build(self, module: nn.Module, names: Sequence[str]) -> LowRankAdapters:
        """Add fresh adapters to a module; see `add_low_rank`."""
        return add_low_rank(module, self, names)


class LowRankAdapters:
    """The adapters on a module: what chooses, saves, merges and removes them.

    Rows go through the adapters that `route` gives them; outside of it through `selected`, or, if
    that is None, through none. Layers that are computed again in the backward pass must find the
    route they were first computed with: call `backward` inside of it.

    Args:
        peft: PEFT's wrapper around the module.
        names: The adapters, in the order in which routings count them.
    """

    def __init__(self, peft: Any, names: Sequence[str]) -> None:
        self._peft = peft
        self.names = tuple(names)
        self._selected: str | None = None
        self._demanding = False
        self._routing: Routing | None = None
        self._layers = [
            layer for layer in peft.get_base_model().modules() if isinstance(layer, LoraLayer)
        ]
        for layer in self._layers:
            layer.register_forward_pre_hook(self._choose, with_kwargs=True)
            layer.register_forward_hook(self._mix)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules that hold the adapters' weights, none of them inside of another."""
        return tuple(lora_modules(self._peft.get_base_model()))

    @property
    def parameters(self) -> Mapping[str, int]:
        """How many numbers each adapter holds."""
        return {name: sum(value.numel() for value in self._weights(name)) for name in self.names}

    @property
    def selected(self) -> str | None:
        """The adapter of all rows that are not routed; None for none."""
        return self._selected

    def select(self, name: str | None) -> None:
        """Send all rows that are not routed through one adapter, or through none.

        Raises:
            UnknownNameError: There is no such adapter.
        """
        if name is not None:
            self._check(name)
        self._selected = name
        self._demanding = False

    def demand_route(self) -> None:
        """From now on, until `select`, rows that nobody routed are an error."""
        self._demanding = True

    @contextmanager
    def route(self, routing: Routing) -> Iterator[None]:
        """Send each row through its own adapters while the block runs.

        Args:
            routing: Shares of the adapters, in the order of `names`, for the rows that the module
                will read.
        """
        before, self._routing = self._routing, routing
        try:
            yield
        finally:
            self._routing = before

    def save(self, directory: Path | str) -> None:
        """Write `NAME/adapter_config.json` and `NAME/adapter_model.safetensors` for each adapter.

        Each folder is a PEFT adapter by itself.
        """
        self._open()
        self._peft.save_pretrained(
            str(directory), safe_serialization=True, save_embedding_layers=False
        )

    def merge(self, name: str) -> None:
        """Add one adapter to the weights it sits on, and remove all of them.

        Raises:
            UnknownNameError: There is no such adapter.
            InputError: The adapters were already merged or removed.
        """
        self._check(name)
        with keep_training(self._open()):
            self._peft.merge_and_unload(safe_merge=True, adapter_names=[name])
        self._layers = []

    def unload(self) -> None:
        """Take the adapters off; the weights below are as they were.

        Raises:
            InputError: The adapters were already merged or removed.
        """
        with keep_training(self._open()):
            self._peft.unload()
        self._layers = []

    def _check(self, name: str) -> None:
        if name not in self.names:
            raise UnknownNameError("adapter", name, self.names)

    def _open(self) -> nn.Module:
        if not self._layers:
            raise InputError("the adapters were already merged or removed; add new ones first")
        module: nn.Module = self._peft.get_base_model()
        return module

    def _weights(self, name: str) -> Iterator[nn.Parameter]:
        for layer in self._layers:
            if name in layer.lora_A:
                yield from layer.lora_A[name].parameters()
                yield from layer.lora_B[name].parameters()

    def _choose(
        self, layer: Any, inputs: tuple[Tensor, ...], options: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Tell PEFT's layer which adapter it computes itself: the selected one, or none."""
        if self._demanding and self._routing is None:
            raise InputError(
                f"rows are read without a route through the adapters {', '.join(self.names)}; "
                "choose their domains first, or select one adapter for all rows"
            )
        name = _BASE if self._routing is not None else self._selected or _BASE
        return inputs, {**options, "adapter_names": [name] * len(inputs[0])}

    def _mix(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add what the routed adapters say to the output of the layer below."""
        if self._routing is None:
            return output
        parts = [partial(_update, layer, name) for name in self.names]
        return self._routing.mix(output, inputs[0], parts)


def add_low_rank(module: nn.Module, config: LowRankConfig, names: Sequence[str]) -> LowRankAdapters:
    """Add fresh adapters to linear layers of a module, in place. They train; nothing else changes.

    Args:
        module: The module; not a linear layer itself.
        config: Their form.
        names: One adapter each.

    Raises:
        ConfigError: A name cannot be an adapter's, or a target is no linear layer of the module.
        InputError: The module already carries adapters, or has no linear layer inside.
    """
    _refuse_names(names)
    places = linear_layers(module, config.targets)
    settings = {
        name: LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            # Whole names: PEFT would take a bare one for every layer whose name ends so.
            target_modules="|".join(re.escape(place) for place in places),
        )
        for name in names
    }
    return _wrap(module, settings, trainable=True)


def load_low_rank(
    module: nn.Module, places: Mapping[str, Path | str], *, trainable: bool = False
) -> LowRankAdapters:
    """Add saved adapters to a module.

    Args:
        module: A module without adapters.
        places: For each adapter its folder: `NAME` in what `LowRankAdapters.save` has written, or
            what PEFT has written.
        trainable: Whether the adapters ask for gradients.

    Raises:
        CheckpointError: A folder holds no LoRA, or one that does not fit this module.
        ConfigError: A name cannot be an adapter's.
        InputError: The module already carries adapters.
    """
    _refuse_names(tuple(places))
    linear_layers(module)
    settings = {name: read_lora_settings(Path(place)) for name, place in places.items()}
    adapters = _wrap(module, settings, trainable=trainable)
    for name, place in places.items():
        try:
            load_lora_weights(adapters._peft, Path(place), name, trainable=trainable)
        except CheckpointError:
            adapters.unload()
            raise
    _set_training(adapters.modules, trainable)
    return adapters


def _wrap(
    module: nn.Module, settings: Mapping[str, LoraConfig], *, trainable: bool
) -> LowRankAdapters:
    peft = wrap_lora(module, settings)
    # PEFT lets the active one train, and no other.
    _set_training(lora_modules(module), trainable)
    return LowRankAdapters(peft, tuple(settings))


def _set_training(modules: Sequence[nn.Module], trainable: bool) -> None:
    for module in modules:
        module.requires_grad_(trainable)


def _update(layer: Any, name: str, x: Tensor) -> Tensor:
    """Return (alpha / rank) B A x of one adapter, as PEFT computes it."""
    if name not in layer.lora_A:
        # Adapters that were trained apart may sit on different layers.
        return x.new_zeros((*x.shape[:-1], layer.out_features))
    down, up = layer.lora_A[name], layer.lora_B[name]
    update: Tensor = up(down(layer.lora_dropout[name](x.to(down.weight.dtype))))
    return update * layer.scaling[name]


def check_adapter_names(names: Sequence[str]) -> list[str]:
    """Return what is wrong with names of adapters, a line each; they become keys and folders."""
    faults = [
        f"{name!r}; allowed: letters, digits, - and _, and not 'default'"
        for name in names
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in ("default", _BASE)
    ]
    faults += [f"{name!r} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    return faults if names else ["none given; give at least one"]


def _refuse_names(names: Sequence[str]) -> None:
    faults = check_adapter_names(names)
    if faults:
        raise ConfigError("names of adapters", faults)
