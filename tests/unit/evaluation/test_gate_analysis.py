import json
import math
from dataclasses import replace

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.samples import Sample, Turn
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.gate_analysis import analyse
from chiasm.evaluation.gate_statistics import contribution_shares, normalised_entropy
from chiasm.evaluation.protocols import GateReading
from tests.unit.evaluation.eyes import GEOMETRY, Eyes, sample

COUNT = 13
SAMPLES = [sample(number, group=("x", "y", "z")[number % 3]) for number in range(COUNT)]
# The extra eye's weight follows the strength of the stripes, in steps of 8 bits.
EXTRA = np.array([0.2 + 0.5 * round(250 * (0.4 + 0.6 * (n % 7) / 6)) / 250 for n in range(COUNT)])
ACROSS = np.array([bool(n & 2) for n in range(COUNT)])
RED = np.array([bool(n & 1) for n in range(COUNT)])


@pytest.fixture(scope="module")
def model():
    return Eyes()


@pytest.fixture(scope="module")
def analysis(model):
    return analyse(model, SAMPLES, control=Eyes(blind=True), batch_size=4, data="scenes.jsonl")


def correct(analysis, name):
    return np.array(analysis.setting(name).correct).reshape(COUNT, 2)


def test_accuracy_of_every_setting_equals_what_the_pixels_say(analysis):
    assert [setting.name for setting in analysis.settings] == [
        "learned",
        "host only",
        "dino only",
        "mean gate",
        "shuffled",
        "control",
    ]
    assert correct(analysis, "learned").all()
    assert correct(analysis, "mean gate").all()
    # Without the extra eye all stripes run "down"; without the host all is "blue".
    assert np.array_equal(correct(analysis, "host only"), np.stack([~ACROSS, ACROSS | True], 1))
    assert np.array_equal(correct(analysis, "dino only"), np.stack([ACROSS | True, ~RED], 1))
    assert np.array_equal(correct(analysis, "control"), correct(analysis, "host only"))
    for setting in analysis.settings:
        assert setting.accuracy.mean == pytest.approx(np.mean(setting.correct))
        assert setting.accuracy.clusters == COUNT


def test_differences_are_paired_to_learned_and_clustered_by_sample(analysis):
    clusters = np.arange(COUNT).repeat(2).tolist()
    assert analysis.settings[0].difference is None
    for setting in analysis.settings[1:]:
        values = np.array(setting.correct, float) - np.array(analysis.settings[0].correct, float)
        assert setting.difference == Bootstrap().mean(values.tolist(), clusters)


def test_forced_gates_reach_the_model(model, analysis):
    seen = {force if isinstance(force, str | None) else "shares" for force, _, _ in model.calls}
    assert seen == {None, "host", "dino", "shares"}
    shares = next(force for force, _, _ in model.calls if isinstance(force, tuple))
    assert shares == pytest.approx((1 - EXTRA.mean(), EXTRA.mean()))
    assert analysis.setting("mean gate").shares == dict(zip(("host", "dino"), shares, strict=True))
    assert analysis.setting("host only").shares == {"host": 1.0, "dino": 0.0}


def test_shuffling_never_pairs_a_question_with_its_own_image(model, analysis):
    shuffled = [names for _, shuffle, names in model.calls if shuffle]
    assert sum(len(names) for names in shuffled) == 2 * COUNT
    for names in shuffled:
        sources = [name.split("#")[0] for name in names]
        assert len(names) >= 2
        assert all(a != b for a, b in zip(sources, [*sources[1:], sources[0]], strict=True))
    assert not any("kept features of their own" in note for note in analysis.notes)
    # Answers come back in the order of the questions, not of the shuffled batches: colours,
    # which the host sees, are all right.
    assert correct(analysis, "shuffled")[:, 1].all()


def test_shuffled_stripes_are_those_of_the_next_image(analysis):
    order = [*range(COUNT)]
    # Batches of 4 over all first questions run on into the second ones: 0-3, 4-7, 8-11, then 12
    # with the first three colour questions.
    donors = [1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 0]
    expected = [ACROSS[at] == ACROSS[donor] for at, donor in zip(order, donors, strict=True)]
    assert correct(analysis, "shuffled")[:, 0].tolist() == expected


def test_gate_numbers_equal_an_independent_computation(analysis):
    gate = analysis.gate
    assert gate.images == COUNT
    assert gate.weights["dino"].mean == pytest.approx(EXTRA.mean())
    assert gate.weights["host"].mean == pytest.approx(1 - EXTRA.mean())
    assert gate.spread["dino"] == pytest.approx(EXTRA.std())
    share = EXTRA / (EXTRA + 3 * (1 - EXTRA))
    assert gate.contribution_shares["dino"].mean == pytest.approx(share.mean())
    entropy = [-(w * math.log2(w) + (1 - w) * math.log2(1 - w)) for w in EXTRA]
    assert gate.entropy.mean == pytest.approx(np.mean(entropy))
    tokens = EXTRA[:, None] + np.array([-0.2, 0.0, 0.2, -0.1, 0.0, 0.1])
    token_entropy = -(tokens * np.log2(tokens) + (1 - tokens) * np.log2(1 - tokens))
    assert gate.token_entropy.mean == pytest.approx(token_entropy.mean())
    assert gate.token_entropy.mean < gate.entropy.mean


def test_histograms_by_group(analysis):
    histograms = {(item.group, item.stream): item for item in analysis.gate.histograms}
    assert set(histograms) == {
        (group, stream) for group in (None, "x", "y", "z") for stream in ("host", "dino")
    }
    for place, group in enumerate(("x", "y", "z")):
        values = EXTRA[place::3]
        item = histograms[group, "dino"]
        edges = np.linspace(0, 1, 21)
        inside = (values[:, None] >= edges[:-1]) & (values[:, None] < edges[1:])
        assert list(item.counts) == inside.sum(axis=0).tolist()
        assert item.mean == Bootstrap().mean(values.tolist())
    assert sum(histograms[None, "host"].counts) == COUNT


def test_a_lively_gate_raises_no_alarm(analysis):
    assert {alarm.name: alarm.fired for alarm in analysis.gate.alarms} == {
        "dominance": False,
        "contribution": False,
        "spread": False,
    }
    assert [alarm.threshold for alarm in analysis.gate.alarms] == [0.95, 0.95, 0.01]


@pytest.mark.parametrize(
    ("weight", "fired"),
    [
        (0.96, {"dominance": True, "contribution": False, "spread": True}),
        (0.94, {"dominance": False, "contribution": False, "spread": True}),
        (0.99, {"dominance": True, "contribution": True, "spread": True}),
        (0.01, {"dominance": True, "contribution": True, "spread": True}),
    ],
)
def test_a_collapsed_gate_raises_alarms(weight, fired):
    gate = analyse(Eyes(weight=weight), SAMPLES).gate
    assert {alarm.name: alarm.fired for alarm in gate.alarms} == fired
    texts = {alarm.name: alarm.text for alarm in gate.alarms}
    assert "does not choose" in texts["spread"]
    if fired["dominance"]:
        assert f"{max(weight, 1 - weight):.1%} of the weight" in texts["dominance"]
        assert "before concluding so" in texts["dominance"]


def test_one_sample_works_and_says_what_it_cannot_tell():
    found = analyse(Eyes(), SAMPLES[:1])
    assert [setting.name for setting in found.settings] == [
        "learned",
        "host only",
        "dino only",
        "mean gate",
    ]
    assert found.gate.alarms[-1].fired is None
    assert any("Shuffled: not measured" in note for note in found.notes)
    assert any("Only 1 sample(s)" in note for note in found.notes)
    json.dumps(found.to_json(), allow_nan=False)


def test_two_questions_of_one_image_in_a_tail_batch_are_told():
    # Two samples, three questions: the batch of two is joined by the leftover, which then stands
    # beside its own sample.
    few = [sample(2), replace(sample(3, both=False), identifier="other")]
    found = analyse(Eyes(), few, batch_size=2)
    assert any("1 of 3 questions kept features of their own" in note for note in found.notes)


def test_a_fusion_without_gate_is_ablated_all_the_same():
    model = Eyes(gated=False)
    found = analyse(model, SAMPLES)
    assert found.gate is None and found.reading is None
    assert [setting.name for setting in found.settings] == ["learned", "host only", "shuffled"]
    assert found.setting("host only").shares is None
    assert {force for force, _, _ in model.calls} == {None, "host"}
    assert any("has no gate" in note for note in found.notes)
    assert found.to_json()["images"] == []
    assert found.to_json()["gate"] is None


def test_json_holds_every_image_and_question(analysis):
    document = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    assert len(document["images"]) == COUNT
    first = document["images"][0]
    assert first["sample"] == "scene-0"
    assert first["weights"]["dino"] == pytest.approx(EXTRA[0])
    assert first["contributions"]["host"] == pytest.approx(3 * (1 - EXTRA[0]))
    assert np.array(first["map"]["dino"]).shape == (2, 3)
    assert first["map"]["dino"][0][0] == pytest.approx(EXTRA[0] - 0.2, abs=1e-4)
    assert len(document["questions"]) == 2 * COUNT
    third = document["questions"][4]
    assert third["said"]["learned"] == "Across."
    assert third["correct"]["host only"] is False
    assert document["context"]["control"] == "runs/control"
    assert document["majority_baseline"] == pytest.approx(
        (max(ACROSS.sum(), (~ACROSS).sum()) + max(RED.sum(), (~RED).sum())) / (2 * COUNT)
    )
    assert set(document["settings"][0]["by_group"]) == {"x", "y", "z"}


def test_faults():
    blank = Sample(
        identifier="blank",
        turns=(Turn("user", ("q",)), Turn("assistant", ("a",), supervised=True)),
    )
    with pytest.raises(InputError, match="none of 1 samples has an image"):
        analyse(Eyes(), [blank])
    with pytest.raises(InputError, match="no samples"):
        analyse(Eyes(), [])
    with pytest.raises(InputError, match="batch size 1; allowed: 2 or more"):
        analyse(Eyes(), SAMPLES, batch_size=1)
    with pytest.raises(InputError, match="streams host; it needs 'host' first"):
        analyse(Eyes(streams=("host",)), SAMPLES)
    mixed = analyse(Eyes(), [*SAMPLES])
    assert not any("have no image" in note for note in mixed.notes)

    class Forgetful(Eyes):
        def gates(self, samples):
            return super().gates(samples[:-1])

    with pytest.raises(InputError, match="read 12 gates of 13 images"):
        analyse(Forgetful(), SAMPLES)


def test_unsound_readings_are_refused():
    sound = Eyes().gates(SAMPLES[:2])
    with pytest.raises(InputError, match=r"image 1: weights \[0\.5, 0\.6\]"):
        replace(sound, weights=np.array([[0.4, 0.6], [0.5, 0.6]]))
    with pytest.raises(InputError, match=r"image 0: weights \[-0\.1, 1\.1\]"):
        replace(sound, weights=np.array([[-0.1, 1.1], [0.5, 0.5]]))
    with pytest.raises(InputError, match=r"image 0: map of shape \(3, 2, 2\)"):
        replace(sound, maps=(np.zeros((3, 2, 2)), sound.maps[1]))
    with pytest.raises(InputError, match="2 rows of weights, but 2 of contributions, 1 maps"):
        GateReading(sound.weights, sound.contributions, sound.maps[:1], (GEOMETRY,) * 2)


def test_entropy_and_contributions_at_their_ends():
    shares = np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    assert normalised_entropy(shares) == pytest.approx([0, 1, math.log(2) / math.log(3)])
    found = contribution_shares(np.array([[3.0, 1.0], [0.0, 0.0]]))
    assert found.tolist() == [[0.75, 0.25], [0.5, 0.5]]
