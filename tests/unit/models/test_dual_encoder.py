"""The dual encoder as a user and the trainer see it, on tiny hosts and eyes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chiasm.core.batch import IGNORE
from chiasm.core.errors import ConfigError, InputError
from chiasm.core.protocols import Model
from chiasm.core.samples import Sample, Turn
from chiasm.data.collate import Collator
from chiasm.data.prompts import Prompter
from chiasm.fusion import FUSIONS
from chiasm.models.dual_encoder import DualEncoder
from tests.tiny import TINY_HOSTS, picture
from tests.tiny_eyes import tiny_encoder

FAMILIES = sorted(TINY_HOSTS)
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": picture(61, 83, 1)},
            {"type": "text", "text": "What is it?"},
        ],
    }
]


def asked(*answers: str) -> list[Sample]:
    return [
        Sample(
            f"sample {index}",
            (Turn("user", (0, "What?")), Turn("assistant", (answer,), supervised=True)),
            (picture(61 + 12 * index, 83, index),),
        )
        for index, answer in enumerate(answers)
    ]


def dual(family: str = "qwen2_5_vl", *names: str, fusion: str = "gated", **settings: Any) -> Any:
    host = TINY_HOSTS[family]()
    names = names or ("dinov2",)
    encoders = {name: tiny_encoder(name) for name in names}
    torch.manual_seed(7)
    module = FUSIONS[fusion](**{"gated": {"width": 31}}.get(fusion, {}), **settings).build(
        host_width=host.width, encoder_widths={n: e.width for n, e in encoders.items()}
    )
    transforms = {name: encoder.transform for name, encoder in encoders.items()}
    collator = Collator(Prompter(host.tokenizer, host.image_token), host.preparer, transforms)
    return DualEncoder(host=host, encoders=encoders, fusion=module, collator=collator).eval()


def trained(model: Any, seed: int = 0) -> Any:
    """The model with a fusion that speaks, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def test_it_is_a_model_of_disjoint_parts() -> None:
    model = dual("qwen2_5_vl", "dinov2", "siglip")
    assert isinstance(model, Model)
    assert list(model.parts) == [
        "host_vision",
        "host_projector",
        "host_language",
        "encoder.dinov2",
        "encoder.siglip",
        "fusion.projections",
        "fusion.gate",
        "fusion.output",
    ]
    owned = [id(p) for part in model.parts.values() for p in part.parameters()]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    assert model.new_parts == {name for name in model.parts if not name.startswith("host")}


def test_other_fusions_are_one_part() -> None:
    model = dual(fusion="concat")
    assert "fusion" in model.parts
    assert "fusion" in model.new_parts


def test_pretrained_encoders_are_not_new(tmp_path: Any) -> None:
    from chiasm.encoders import ENCODERS

    tiny_encoder("dinov2").save(tmp_path)
    model = dual()
    model.encoders["dinov2"] = ENCODERS["dinov2"](path=str(tmp_path)).build()
    assert "encoder.dinov2" not in model.new_parts
    assert "path" not in model.identity["encoders"]["dinov2"]
    assert model.identity["host"]["sha256"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_single_samples(family: str) -> None:
    model = trained(dual(family, "dinov2", "clip"))
    samples = asked("a cat", "no", "left of it")
    with torch.no_grad():
        together = model(model.collator(samples))
        apart = [model(model.collator([sample])) for sample in samples]
    assert together.logits.shape[0] == model.collator(samples).supervised_tokens
    # Measured: 7e-6 of logits around 5, sums over other lengths.
    torch.testing.assert_close(
        together.logits, torch.cat([single.logits for single in apart]), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(together.targets, torch.cat([single.targets for single in apart]))
    torch.testing.assert_close(
        together.named["gate"], torch.cat([single.named["gate"] for single in apart])
    )


def test_logits_are_those_of_supervised_positions() -> None:
    model = trained(dual())
    batch = model.collator(asked("a cat", "no"))
    outputs = model(batch)
    labels = batch.labels[:, 1:]
    assert torch.equal(outputs.targets, labels[labels != IGNORE])


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_in_a_batch_equals_single_answers(family: str) -> None:
    model = trained(dual(family))
    samples = asked("", "", "")
    samples = [Sample(s.identifier, s.turns[:1], s.images) for s in samples]
    together = model.generate(model.collator.collate(samples, generation=True), max_new_tokens=5)
    for sample, answer in zip(samples, together, strict=True):
        single = model.collator.collate([sample], generation=True)
        assert model.generate(single, max_new_tokens=5) == [answer]


def test_generation_writes_what_forward_finds_likeliest() -> None:
    model = trained(dual())
    batch = model.collator.collate(asked("x"), generation=True)
    spliced, _ = model._look(batch)
    first = model.host.generate(spliced, max_new_tokens=1)[0][0]
    supervised = model(model.collator(asked("x"))).logits
    assert first == supervised[0].argmax()


def test_chat_answers_with_the_fused_eye() -> None:
    model = dual()
    base = model.chat(MESSAGES, max_new_tokens=7)
    assert base == dual().chat(MESSAGES, max_new_tokens=7)
    assert trained(model).chat(MESSAGES, max_new_tokens=7) != base


def test_text_alone_needs_no_eye() -> None:
    model = trained(dual())
    messages = [{"role": "user", "content": "Hello"}]
    assert isinstance(model.chat(messages, max_new_tokens=3), str)
    with pytest.raises(InputError, match="has no image"):
        model.gate_report(messages)


def test_a_batch_without_images_trains() -> None:
    model = dual()
    sample = Sample("t", (Turn("user", ("Hi",)), Turn("assistant", ("hi",), supervised=True)))
    outputs = model(model.collator([sample]))
    assert outputs.logits is not None
    assert outputs.named == {}


def test_the_gate_report_tells_the_gate_of_the_forward_pass() -> None:
    model = trained(dual("qwen2_5_vl", "dinov2", "siglip"))
    report = model.gate_report(MESSAGES)
    sample = Sample("s", (Turn("user", (0, "What is it?")),), (picture(61, 83, 1),))
    batch = model.collator.collate([sample], generation=True)
    gate = model.look(batch).named["gate"][0]
    assert list(report.weights) == ["host", "dinov2", "siglip"]
    assert list(report.weights.values()) == pytest.approx(gate.tolist())
    geometry = batch.geometries[0]
    assert len(report.images[0].maps["host"]) == geometry.rows
    assert len(report.images[0].maps["host"][0]) == geometry.columns


def test_reports_do_not_depend_on_the_mode_and_leave_it() -> None:
    model = trained(dual())
    still = model.gate_report(MESSAGES)
    model.train()
    assert model.gate_report(MESSAGES) == still
    assert model.training
    assert model.fusion.training


def test_compare_forces_each_stream() -> None:
    model = trained(dual("qwen2_5_vl", "dinov2", "siglip"))
    answers = model.compare(MESSAGES, max_new_tokens=7)
    assert list(answers) == ["learned", "host", "dinov2", "siglip"]
    assert answers["learned"] == model.chat(MESSAGES, max_new_tokens=7)
    assert len(set(answers.values())) >= 3
    with model.fusion.forced({"siglip": 1.0}):
        assert model.chat(MESSAGES, max_new_tokens=7) == answers["siglip"]


def test_without_a_gate_there_is_nothing_to_report() -> None:
    model = dual(fusion="concat")
    for ask in (model.gate_report, model.compare):
        with pytest.raises(InputError, match="ConcatFusion, which has no gate"):
            ask(MESSAGES)


def test_the_probe_is_fixed_and_sees_every_part() -> None:
    model = trained(dual()).train()
    first, second = model.probe(), model.probe()
    assert sorted(first) == ["checker", "gradient"]
    assert model.training
    for name, logits in first.items():
        assert logits.dtype == torch.float32
        assert logits.ndim == 1
        assert not logits.requires_grad
        assert torch.equal(logits, second[name])
    assert not torch.equal(first["checker"], first["gradient"])
    for name, part in model.parts.items():
        parameters = [p for p in part.parameters() if p.ndim > 1]
        parameter = parameters[-1]
        with torch.no_grad():
            saved = parameter.clone()
            parameter.add_(torch.randn(parameter.shape))
        changed = model.probe()
        assert not torch.equal(changed["checker"], first["checker"]), name
        with torch.no_grad():
            parameter.copy_(saved)


def test_encoders_and_fusion_come_together() -> None:
    model = dual()
    with pytest.raises(ConfigError, match="1 extra encoders with fusion NoneType"):
        DualEncoder(
            host=model.host,
            encoders={"dinov2": tiny_encoder("dinov2")},
            fusion=None,
            collator=model.collator,
        )
    with pytest.raises(ConfigError, match=r"collator prepares images for \['dinov2'\]"):
        DualEncoder(
            host=model.host,
            encoders={"clip": tiny_encoder("clip")},
            fusion=model.fusion,
            collator=model.collator,
        )


def test_an_encoder_must_be_a_module() -> None:
    class Plain:
        pass

    from chiasm.encoders.protocol import as_modules

    with pytest.raises(ConfigError, match=r"'mine' is a Plain and no torch.nn.Module"):
        as_modules({"mine": Plain()})  # type: ignore[dict-item]


def test_several_images_in_a_conversation() -> None:
    model = trained(dual())
    sample = Sample(
        "two",
        (Turn("user", (0, "or", 1)), Turn("assistant", ("b",), supervised=True)),
        (picture(61, 83, 1), picture(97, 43, 2)),
    )
    outputs = model(model.collator([sample]))
    assert outputs.named["gate"].shape == (2, 2)
