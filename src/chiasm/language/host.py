"""The host: an open vision-language model, with everything needed to feed and to read it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiasm.core.batch import IGNORE, Batch
from chiasm.core.config import lookup
from chiasm.core.errors import ConfigError
from chiasm.core.grid import ImageGeometry
from chiasm.core.protocols import ImagePreparer
from chiasm.core.tokens import VisualTokens
from chiasm.language import generation
from chiasm.language.hosts import HOSTS, family_of
from chiasm.language.hosts.protocol import Extras, HostAdapter, HostTokens
from chiasm.language.loading import Attention, load_image_processor, load_model, load_tokenizer
from chiasm.language.parts import check_cover, keep_only, leave_out
from chiasm.language.splice import Spliced, splice


class Host(nn.Module):
    """A transformers model with its tokenizer, image preparer and family adapter.

    The steps of one forward pass: `encode` the images, fuse outside, `splice` the tokens into the
    text, `read` the whole, then `supervised` or `logits`; or `generate` from what was spliced.

    Args:
        model: A vision-language model of transformers with its output layer.
        tokenizer: Its tokenizer, with a chat template and a padding token.
        image_processor: Its image processor.
        adapter: The family; by default that of the model's `model_type`.
        name: Where the weights came from, for `identity`.
        revision: The revision that was asked for.

    Raises:
        ConfigError: Tokenizer, image processor and model do not fit each other.
        UnknownNameError: The model is of a family that has no adapter.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        adapter: HostAdapter | None = None,
        name: str = "",
        revision: str | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        config = model.config
        self.adapter = adapter or lookup(HOSTS, family_of(config.to_dict()), "host model type")
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_token_id = self.adapter.image_token_id(config)
        _check_tokenizer(tokenizer, self.image_token_id, self.model, self.adapter)
        self.preparer: ImagePreparer = self.adapter.preparer(config, image_processor)
        self._lora: list[nn.Module] = []
        check_cover(self.model, self.parts)
        # Taken now: training moves the weights, and identity tells what was built on.
        self._identity = {"name": name, "revision": revision, "sha256": hash_weights(self.model)}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        attention: Attention = "sdpa",
        known_as: str | None = None,
    ) -> Host:
        """Load a host from a directory or by its name on the hub; remote code is never run.

        Args:
            name: Directory or hub name.
            dtype: Type of the weights in memory.
            revision: Branch, tag or commit on the hub.
            attention: `sdpa`, `eager`, or `flash_attention_2` where it is installed.
            known_as: What `identity` calls it in place of `name`, so that a shipped host is the
                same on every machine.

        Raises:
            CheckpointError: The checkpoint is missing, incomplete or not in safetensors.
            ConfigError: Its pieces do not fit, or the attention cannot be used.
            UnknownNameError: The family has no adapter; the known ones are listed.
        """
        source = str(name)
        return cls(
            model=load_model(source, dtype=dtype, revision=revision, attention=attention),
            tokenizer=load_tokenizer(source, revision=revision),
            image_processor=load_image_processor(source, revision=revision),
            name=known_as or source,
            revision=revision,
        )

    def known_again(self, name: str, *, fresh: Sequence[nn.Module] = ()) -> Host:
        """Take the identity anew, after weights were written into the model; return the host.

        Args:
            name: What the identity calls the host.
            fresh: Modules inside that begin with random numbers. These tell nothing of what was
                loaded, and are others on another processor, so they are no part of the identity.
        """
        hashed = hash_weights(self.model, without=fresh)
        self._identity = {"name": name, "revision": None, "sha256": hashed}
        return self

    def set_pixels(self, least: int, most: int) -> None:
        """Change how many pixels a resized picture has, at a host that reads pictures of any size.

        Raises:
            ConfigError: The host reads one size only, or the range is none.
        """
        size = dict(self.image_processor.size)
        if "longest_edge" not in size or "shortest_edge" not in size or not 0 < least <= most:
            raise ConfigError(
                f"pixels {least} to {most} cannot be set; the image processor has the size {size}. "
                "Give 0 < least <= most, and only to a host whose processor has a pixel budget"
            )
        self.image_processor.size = {"shortest_edge": least, "longest_edge": most}

    def save(self, directory: Path | str) -> None:
        """Write model (safetensors), tokenizer and image processor, for `from_pretrained`."""
        for piece in (self.model, self.tokenizer, self.image_processor):
            piece.save_pretrained(str(directory))

    @property
    def width(self) -> int:
        """Width of a token in the language model."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def token_width(self) -> int:
        """Width of the tokens that `encode` gives and a fusion reads and writes.

        That of the language model, but for a host whose projector comes after the fusion (MGM).
        """
        return self.adapter.token_width(self.model.config)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the language model's weights."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the language model's embeddings lie."""
        return self.model.get_input_embeddings().weight.device

    @property
    def pad_id(self) -> int:
        """The token that fills rows."""
        return int(self.tokenizer.pad_token_id)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: the tokenizer's, and those the checkpoint names."""
        stored = self.model.generation_config.eos_token_id
        named = stored if isinstance(stored, list) else [stored]
        return tuple(sorted({i for i in (*named, self.tokenizer.eos_token_id) if i is not None}))

    @property
    def image_token(self) -> str:
        """The text of the placeholder."""
        return str(self.tokenizer.convert_ids_to_tokens(self.image_token_id))

    @property
    def image_text(self) -> Callable[[int], str]:
        """What the template's one placeholder becomes for an image of so many tokens.

        It holds nothing of the model, so that a prompter can carry it to other processes.
        """
        return partial(self.adapter.image_text, self.image_token)

    @property
    def identity(self) -> Mapping[str, Any]:
        """`name`, `revision` and `sha256` of the weights as they were when the host was built."""
        return dict(self._identity)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The model's parts: `vision`, `projector`, `language`, and `adapter` where one was added.

        They share the model's modules; each parameter lies in exactly one.
        """
        parts = self.adapter.parts(self.model)
        if self._lora:
            language = parts["language"]
            parts["language"] = leave_out(language, self._lora)
            parts["adapter"] = keep_only(language, self._lora)
        return parts

    def set_lora_modules(self, modules: Sequence[nn.Module]) -> None:
        """Tell which modules inside the language model are adapters; see `language.adapters`."""
        self._lora = list(modules)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute layers in the backward pass; takes effect in training mode."""
        with warnings.catch_warnings():
            # The only name that every supported release of transformers 5 knows.
            warnings.filterwarnings("ignore", "`gradient_checkpointing_enable`", FutureWarning)
            self.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        # The library makes embeddings ask for gradients, which only the reentrant form needs; a
        # frozen tower would then keep every activation.
        self.model.disable_input_require_grads()

    def encode(
        self, host_images: Mapping[str, Tensor], geometries: Sequence[ImageGeometry]
    ) -> HostTokens:
        """Run the host's own tower and projector.

        Args:
            host_images: `Batch.host_images`.
            geometries: `Batch.geometries`.

        Returns:
            One token a cell, float (I, N, token_width), and what the family adds. Gradients flow
            wherever a part asks for them.
        """
        return self.adapter.encode(self.model, host_images, geometries)

    def splice(
        self,
        batch: Batch,
        tokens: VisualTokens | None,
        extras: Extras | None = None,
        tokens_per_cell: int = 1,
    ) -> Spliced:
        """Write visual tokens over their placeholders; see `language.splice.splice`.

        Raises:
            PlaceholderError: Placeholders and tokens of an image disagree.
        """
        if tokens is not None:
            tokens = tokens.with_features(self.adapter.project(self.model, tokens.features))
        return splice(
            batch,
            tokens,
            extras or {},
            adapter=self.adapter,
            model=self.model,
            image_token_id=self.image_token_id,
            pad_id=self.pad_id,
            tokens_per_cell=tokens_per_cell,
        )

    def read(self, spliced: Spliced, past: Any = None) -> Tensor:
        """Run the language model.

        Args:
            spliced: What to read.
            past: A cache of transformers; it is filled, and what it holds comes before `spliced`.

        Returns:
            The last hidden states, float (B, S, width).
        """
        self.adapter.forget(self.model)
        output = self.model.base_model(
            input_ids=spliced.input_ids,
            attention_mask=spliced.attention_mask,
            position_ids=spliced.position_ids,
            mm_encoder_outputs=dict(spliced.mm_encoder_outputs),
            past_key_values=past,
            use_cache=past is not None,
            return_dict=True,
            **spliced.host_kwargs,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token, float (..., V), for hidden states (..., width)."""
        return self.model.get_output_embeddings()(hidden)

    def supervised(self, spliced: Spliced, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits where a label follows, and only there.

        Returns:
            Logits float (P, V) and targets int64 (P,), row by row: the label at position t + 1
            belongs to the hidden state at t.
        """
        targets = spliced.labels[:, 1:]
        wanted = targets != IGNORE
        return self.logits(hidden[:, :-1][wanted]), targets[wanted]

    def generate(
        self,
        spliced: Spliced,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        min_new_tokens: int = 0,
        on_tokens: Callable[[list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Write what follows each row; see `language.generation.generate`.

        Raises:
            InputError: A row ends in padding, or a setting is out of range.
        """
        self.adapter.forget(self.model)
        new = generation.generate(
            self.model,
            spliced,
            tokenizer=self.tokenizer,
            eos_ids=self.eos_ids,
            pad_id=self.pad_id,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            min_new_tokens=min_new_tokens,
            on_tokens=on_tokens,
        )
        self.adapter.forget(self.model)
        return new


def hash_weights(model: nn.Module, *, without: Sequence[nn.Module] = ()) -> str | None:
    """Return the SHA-256 of a model's state, or None where it has none (on the meta device).

    Names, shapes and values count, in the order of names; floating values as float32, so that the
    same bfloat16 checkpoint has one hash however it was loaded. What the modules `without` hold
    does not count.
    """
    left_out = tuple(f"{name}." for name, part in model.named_modules() if part in without)
    state = {n: value for n, value in model.state_dict().items() if not n.startswith(left_out)}
    if any(value.is_meta for value in state.values()):
        return None

    def digest(name: str) -> bytes:
        value = state[name].detach()
        if value.is_floating_point():
            value = value.float()
        head = f"{name} {tuple(value.shape)} {value.dtype}".encode()
        body = value.cpu().contiguous().flatten().view(torch.uint8).numpy()
        return hashlib.sha256(head + hashlib.sha256(body).digest()).digest()

    # Few at a time: each holds a float32 copy of its tensor.
    with ThreadPoolExecutor(max_workers=4) as pool:
        return hashlib.sha256(b"".join(pool.map(digest, sorted(state)))).hexdigest()


def _check_tokenizer(tokenizer: Any, image_token_id: int, model: Any, adapter: HostAdapter) -> None:
    faults: list[str] = []
    if tokenizer.chat_template is None:
        faults.append(
            "it has no chat template; use an instruction-tuned checkpoint, or set chat_template"
        )
    if tokenizer.pad_token_id is None:
        faults.append("it has no padding token; set pad_token")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        faults.append(f"it has {len(tokenizer)} tokens, the model's embedding {rows}")
    if image_token_id >= len(tokenizer):
        faults.append(
            f"it has {len(tokenizer)} tokens, and the model's image placeholder is token "
            f"{image_token_id}"
        )
    else:
        text = adapter.image_text(str(tokenizer.convert_ids_to_tokens(image_token_id)), 1)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if unknown := [i for i in ids if i not in tokenizer.added_tokens_decoder]:
            pieces = tokenizer.convert_ids_to_tokens(unknown)
            faults.append(
                f"an image is written as {text!r}, of which it does not know "
                f"{''.join(pieces)!r} as special tokens"
            )
    if faults:
        raise ConfigError("the tokenizer cannot serve this host", faults)
