import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from chiasm.core.errors import InputError, UnknownNameError
from chiasm.core.samples import Sample, Turn
from chiasm.evaluation.bootstrap import Bootstrap
from chiasm.evaluation.provenance import fingerprint
from chiasm.evaluation.runner import evaluate, numbers_of
from chiasm.metrics import bleu, cider_d, rouge_l
from chiasm.metrics.normalisation import tokenise_caption
from tests.unit.evaluation.eyes import COLOUR, Eyes, sample


class Script:
    """Says what a table says."""

    def __init__(self, said):
        self.said = said
        self.batches = []

    def describe(self):
        return {"model": "m", "prompt": "p", "dtype": "d", "attention": "a", "pixels": {}}

    def answers(self, samples):
        self.batches.append(len(samples))
        return [self.said[item.identifier] for item in samples]


def asked(identifier, answers, group="", kind=None):
    truth = {"answers": answers} if kind is None else {"answers": answers, "kind": kind}
    turns = (Turn("user", ("q?",)), Turn("assistant", (answers[0],), supervised=True))
    return Sample(identifier=identifier, turns=turns, group=group, truth=truth)


def test_numbers_equal_an_independent_count():
    samples = [sample(number, group=("x", "y")[number % 2]) for number in range(11)]
    report = evaluate(Eyes(blind=True), samples, "answers", batch_size=3)
    # The blind eye says "down" and names colours rightly.
    right = [[not number & 2, True] for number in range(11)]
    assert report.overall.count == 22
    assert report.overall.scores["exact_match"].mean == pytest.approx(np.mean(right))
    assert report.overall.scores["exact_match"].clusters == 11
    for group, rows in (("x", right[0::2]), ("y", right[1::2])):
        found = next(item for item in report.by_group if item.name == group)
        assert found.scores["exact_match"].mean == pytest.approx(np.mean(rows))
        assert found.count == 2 * len(rows)
    assert [item.name for item in report.by_kind] == ["colour", "stripes"]
    assert report.by_kind[0].scores["exact_match"].mean == 1.0
    interval = Bootstrap().mean(
        [float(hit) for row in right for hit in row], np.arange(11).repeat(2).tolist()
    )
    assert report.overall.scores["exact_match"] == interval
    assert report.numbers()["exact_match/x"] == pytest.approx(np.mean(right[0::2]))
    assert numbers_of(Eyes(blind=True), samples, "answers")() == report.numbers()


def test_majority_baseline_of_the_evaluated_answers_by_kind():
    samples = [sample(number) for number in range(11)]
    report = evaluate(Eyes(), samples, "answers")
    stripes = Counter("across" if number & 2 else "down" for number in range(11))
    colours = Counter("red" if number & 1 else "blue" for number in range(11))
    expected = (max(stripes.values()) + max(colours.values())) / 22
    assert report.overall.baseline.score == pytest.approx(expected)
    assert report.overall.baseline.answers == {"colour": "blue", "stripes": "down"}
    assert report.overall.baseline.source == "evaluated answers"
    assert report.by_kind[0].baseline.answers == {"colour": "blue"}


def test_majority_baseline_of_training_answers_and_unseen_kinds():
    train = [asked("a", ["no"], kind="k"), asked("b", ["No."], kind="k"), asked("c", ["yes"])]
    test = [asked("1", ["yes"], kind="k"), asked("2", ["no"], kind="new")]
    report = evaluate(Script({"1": "yes", "2": "yes"}), test, "answers", train_samples=train)
    baseline = report.overall.baseline
    assert baseline.source == "training answers"
    assert baseline.answers == {"k": "no", "new": "no"}
    assert (baseline.score, baseline.unseen) == (0.5, 1)
    with pytest.raises(InputError, match="the training data is empty"):
        evaluate(Script({}), test, "answers", train_samples=[])


def test_true_false_counts_other_answers():
    samples = [asked(str(n), [("true", "false")[n % 2]]) for n in range(4)]
    said = {"0": "True.", "1": "true", "2": "it is true", "3": "FALSE"}
    report = evaluate(Script(said), samples, "true_false")
    assert report.overall.scores["exact_match"].mean == 0.5
    assert report.overall.other_answers == 1
    assert evaluate(Script(said), samples, "answers").overall.other_answers is None


def test_vqa_scores_both_ways():
    samples = [asked("a", ["two"] * 3 + ["red"] * 7)]
    report = evaluate(Script({"a": "2"}), samples, "vqa")
    assert report.overall.scores["vqa_accuracy"].mean == pytest.approx(0.9)
    assert report.overall.scores["exact_match"].mean == 0.0
    assert report.overall.baseline.score == pytest.approx(0.9)
    assert report.predictions[0].correct is False


def test_captions_are_tokenised_and_scored_over_the_corpus():
    references = {"a": ["A red box.", "The red box"], "b": ["Two blue cats!", "cats, two"]}
    said = {"a": "a RED box", "b": "two cats"}
    samples = [asked(name, texts, group=name) for name, texts in references.items()]
    report = evaluate(Script(said), samples, "captions")
    hypotheses = [tokenise_caption(text) for text in said.values()]
    prepared = [[tokenise_caption(text) for text in texts] for texts in references.values()]
    assert report.overall.scores["rouge_l"].mean == pytest.approx(rouge_l(hypotheses, prepared))
    assert report.overall.corpus["cider_d"] == pytest.approx(cider_d(hypotheses, prepared))
    for order, score in enumerate(bleu(hypotheses, prepared), 1):
        assert report.overall.corpus[f"bleu_{order}"] == pytest.approx(score)
    assert report.overall.baseline is None
    assert report.predictions[0].correct is None
    # A group of one has no document frequencies.
    assert report.by_group[0].corpus["cider_d"] is None


def test_batches_cover_all_questions_in_order():
    said = {str(n): str(n) for n in range(7)}
    samples = [asked(str(n), [str(n)]) for n in range(7)]
    model = Script(said)
    ticks = []
    report = evaluate(model, samples, "answers", batch_size=3, progress=ticks.append)
    assert model.batches == ticks == [3, 3, 1]
    assert [item.text for item in report.predictions] == list(said)
    assert report.overall.scores["exact_match"].mean == 1.0


def test_batch_size_changes_nothing_but_its_own_entry():
    samples = [sample(number) for number in range(5)]
    one, many = (evaluate(Eyes(), samples, "answers", batch_size=size) for size in (1, 7))
    assert one.predictions == many.predictions
    assert one.overall == many.overall
    different = {key for key in one.context if one.context[key] != many.context[key]}
    assert different == {"batch_size"}


def test_saved_report_and_predictions(tmp_path):
    samples = [sample(number, group="farm") for number in range(3)]
    report = evaluate(Eyes(), samples, "answers", data="farm.jsonl", bootstrap=Bootstrap(seed=9))
    path, predictions = report.save(tmp_path / "deep" / "result.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    context = document["context"]
    names = [f"scene-{n}#{turn}" for n in range(3) for turn in range(2)]
    assert context["identifiers_sha256"] == fingerprint(names)
    assert fingerprint(names) != fingerprint(names[::-1])
    assert context["seed"] == 9
    assert (context["questions"], context["samples"]) == (6, 3)
    for key in ("prompt", "dtype", "attention", "pixels", "versions", "commit", "data"):
        assert key in context
    assert context["versions"]["numpy"] == np.__version__
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    assert predictions.name == "result.predictions.jsonl"
    assert [line["id"] for line in lines] == names
    assert lines[1] == {
        "id": "scene-0#1",
        "text": "blue",
        "answers": ["blue"],
        "group": "farm",
        "kind": "colour",
        "scores": {"exact_match": 1.0},
        "correct": True,
    }


def test_faults():
    samples = [asked("a", ["x"])]
    with pytest.raises(UnknownNameError, match=r"unknown suite 'answer'.*Did you mean 'answers'"):
        evaluate(Script({}), samples, "answer")
    with pytest.raises(InputError, match="no samples"):
        evaluate(Script({}), [], "answers")
    with pytest.raises(InputError, match="batch size 0"):
        evaluate(Script({}), samples, "answers", batch_size=0)

    class Silent(Script):
        def answers(self, samples):
            return []

    with pytest.raises(InputError, match=r"0 answers to 1 questions \(from 'a'\)"):
        evaluate(Silent({}), samples, "answers")

    class Vague(Script):
        def describe(self):
            return {"model": "m", "dtype": "d"}

    with pytest.raises(InputError, match="also needs prompt, attention, pixels"):
        evaluate(Vague({"a": "x"}), samples, "answers")


PROGRAM = """
import json, sys
import torch
torch.set_num_threads(1)
from accelerate import PartialState
state = PartialState(cpu=True)
from chiasm.evaluation.runner import evaluate
from tests.unit.evaluation.eyes import Eyes, sample

model = Eyes()
report = evaluate(model, [sample(n) for n in range(7)], "answers", batch_size=3)
mine = sum(len(call[2]) for call in model.calls)
with open(f"{sys.argv[1]}/{state.process_index}.json", "w") as file:
    json.dump({"report": report.to_json(), "texts": [p.text for p in report.predictions],
               "mine": mine}, file)
state.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree_with_one(tmp_path, project_root):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launch += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run(
        [*launch, str(program), str(tmp_path)],
        cwd=project_root,
        env={
            **os.environ,
            "PYTHONPATH": f"{project_root / 'src'}{os.pathsep}{project_root}",
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [item["mine"] for item in found] == [7, 7]
    assert found[0]["report"] == found[1]["report"]
    alone = evaluate(Eyes(), [sample(n) for n in range(7)], "answers", batch_size=3)
    assert found[0]["texts"] == [item.text for item in alone.predictions]
    expected = json.loads(json.dumps(alone.to_json()))
    assert found[0]["report"]["context"].pop("processes") == 2
    expected["context"].pop("processes")
    assert found[0]["report"] == expected


def test_questions_reach_the_model_one_turn_at_a_time():
    model = Eyes()
    evaluate(model, [sample(1)], "answers")
    assert model.calls[0][2] == ("scene-1#0", "scene-1#1")
    assert sample(1).turns[2].text == COLOUR
