"""`chiasm predict` over real files and tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from chiasm.cli.main import app
from chiasm.inference.session import Session
from tests.tiny import picture
from tests.unit.inference.duals import build_dual, build_host_alone, conversation

QUESTION = "What is it?"
SHORT = ["--max-new-tokens", "7"]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        "dual": build_dual("qwen2_5_vl", "dinov2", "siglip"),
        "host": build_host_alone(),
        "limited": build_dual(max_length=79),
    }


@pytest.fixture
def run(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("chiasm.recipes.loading.load_run", models.__getitem__)

    def invoke(*arguments: Any) -> Any:
        words = ["predict", *map(str, arguments), "--device", "cpu"]
        return CliRunner().invoke(app, words, catch_exceptions=False)

    return invoke


@pytest.fixture
def image(tmp_path: Path) -> Path:
    picture(61, 83, 1).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_one_question(run: Any, image: Path, models: dict[str, Any]) -> None:
    done = run("dual", "--image", image, "--ask", QUESTION, *SHORT)
    assert done.exit_code == 0, done.output
    text = models["dual"].chat(conversation(QUESTION, image), max_new_tokens=7)
    assert text in done.stdout
    assert "gate: host 0." in done.stdout
    assert "cut off after 7 tokens; raise --max-new-tokens" in done.stderr


def test_one_question_as_json(run: Any, image: Path, models: dict[str, Any]) -> None:
    done = run("dual", "--image", image, "--question", QUESTION, "--json", *SHORT)
    document = json.loads(done.stdout)
    session = Session(models["dual"])
    session.set(image=image)
    answer = session.ask(QUESTION, max_new_tokens=7)
    expected = {"model": "dual", "question": QUESTION, **answer.document()}
    assert document == json.loads(json.dumps(expected))
    assert sorted(document["gate"]) == ["dinov2", "host", "siglip"]


def test_text_alone(run: Any, models: dict[str, Any]) -> None:
    done = run("host", "--ask", "Hello", "--json", *SHORT)
    document = json.loads(done.stdout)
    messages = [{"role": "user", "content": "Hello"}]
    assert document["text"] == models["host"].chat(messages, max_new_tokens=7)
    assert document["gate"] is None


def test_sampling_repeats_with_its_seed(run: Any, image: Path) -> None:
    def text(seed: int) -> str:
        options = ["--temperature", 1.5, "--seed", seed, "--json", *SHORT]
        return json.loads(run("dual", "--image", image, "--ask", QUESTION, *options).stdout)["text"]

    assert text(3) == text(3)
    assert len({text(seed) for seed in range(4)}) > 1


def test_output_of_one_question(run: Any, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "answers"
    done = run("dual", "--image", image, "--ask", QUESTION, "--output", output, "--json", *SHORT)
    document = json.loads(done.stdout)
    names = ["predictions.jsonl", "gate-host.png", "gate-dinov2.png", "gate-siglip.png"]
    assert document["files"] == [str(output / name) for name in names]
    (line,) = (output / names[0]).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["id"] == "scene.png"
    assert json.loads(line)["text"] == document["text"]
    with Image.open(output / names[2]) as drawn:
        assert drawn.size == (83, 61)


@pytest.mark.parametrize("flag", ["--compare-encoders", "--compare_encoders"])
def test_compare_encoders(run: Any, image: Path, models: dict[str, Any], flag: str) -> None:
    done = run("dual", "--image", image, "--ask", QUESTION, flag, "--json", *SHORT)
    settings = json.loads(done.stdout)["settings"]
    texts = models["dual"].compare(conversation(QUESTION, image), max_new_tokens=7)
    assert {name: setting["text"] for name, setting in settings.items()} == texts
    assert list(settings) == ["learned", "host", "dinov2", "siglip"]
    assert settings["host"]["gate"] == {"host": 1.0, "dinov2": 0.0, "siglip": 0.0}
    shown = run("dual", "--image", image, "--ask", QUESTION, flag, *SHORT).stdout
    assert "learned" in shown and "dinov2 alone" in shown and "1.000" in shown


def test_benchmark(run: Any, image: Path) -> None:
    options = ["--benchmark", "--repeats", 1]
    document = json.loads(run("dual", "--image", image, *options, "--json").stdout)
    assert document["repeats"] == 1
    assert document["milliseconds"]["encode siglip"]["median"] > 0
    shown = run("dual", "--image", image, *options).stdout
    assert "prefill" in shown and "tokens/s" in shown and "peak memory" in shown


FLAGS = [
    (["--phrase", "a cup"], "point", "grounding"),
    (["--reconstruction", "IMAGE", "--ask", "What?"], "reconstruction", "occlusion"),
    (["--reconstruction", "IMAGE"], "reconstruction", "occlusion"),
]


@pytest.mark.parametrize(("flags", "sense", "family"), FLAGS)
def test_flags_of_senses_that_the_run_lacks(
    run: Any, image: Path, flags: list[str], sense: str, family: str
) -> None:
    words = [str(image) if word == "IMAGE" else word for word in flags]
    done = run("dual", "--image", image, *words)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert f"this model has no '{sense}'; it has ask, image." in done.stderr
    assert f"of the family {family}" in done.stderr


WRONG = [
    ([], "give --ask TEXT (with --image FILE), --phrase TEXT with --image FILE, --video FILE, or"),
    (["--image", "a.png"], "give --ask TEXT"),
    (["--input", "a.jsonl", "--ask", "What?"], "leave out --ask"),
    (["--benchmark"], "needs --image FILE"),
    (["--compare-encoders", "--ask", "What?"], "needs --image FILE"),
    (["--benchmark", "--compare-encoders", "--image", "a.png"], "leave out --benchmark"),
    (["--benchmark", "--image", "a.png", "--video", "a.mp4"], "leave out --image"),
    (["--compare-encoders", "--video", "a.mp4"], "leave out --video"),
    (["--image", "a.png", "--video", "a.mp4"], "goes with --ask and --output; leave out --image"),
    (["--video", "a.mp4", "--phrase", "a cup"], "leave out --phrase"),
    (["--ask", "What?", "--score", "0.5"], "goes with --video"),
    (["--benchmark", "--image", "a.png", "--output", "out"], "leave out --output"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_usage_is_code_2(run: Any, words: list[str], message: str) -> None:
    done = run("dual", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_faults_of_inputs_are_code_1(run: Any, image: Path, tmp_path: Path) -> None:
    gone = run("dual", "--image", tmp_path / "gone.png", "--ask", QUESTION)
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert "gone.png: does not exist" in gone.stderr
    nothing = run("host", "--image", image, "--ask", QUESTION, "--compare-encoders")
    assert nothing.exit_code == 1
    assert "no extra encoders to compare" in nothing.stderr
    image.with_name("taken").write_text("x", encoding="utf-8")
    taken = run("dual", "--image", image, "--ask", QUESTION, "--output", tmp_path / "taken")
    assert taken.exit_code == 1
    assert "cannot be made a folder" in taken.stderr


def test_an_unknown_device(models: dict[str, Any]) -> None:
    words = ["predict", "dual", "--ask", "Hello", "--device", "abacus"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "device 'abacus' cannot be used" in done.stderr


def record(identifier: str, question: str, name: str = "scene.png", *more: Any) -> dict[str, Any]:
    content = [{"type": "image", "image": name}, {"type": "text", "text": question}]
    return {"id": identifier, "messages": [{"role": "user", "content": content}, *more]}


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n", encoding="utf-8")
    return path


def test_a_file_of_questions(run: Any, image: Path, tmp_path: Path, models: dict[str, Any]) -> None:
    picture(97, 43, 2).save(tmp_path / "other.png")
    answered = [
        {"role": "assistant", "content": "A cup."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Never read."},
    ]
    records = [
        record("a", QUESTION),
        record("b", "How many?", "other.png"),
        record("c", QUESTION, "scene.png", *answered),
    ]
    file = write(tmp_path / "questions.jsonl", records)
    output = tmp_path / "answers"
    batched = [file, "--output", output, "--batch-size", 2]
    done = run("dual", "--input", *batched, "--json", *SHORT)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == {
        "count": 3,
        "faulty": 0,
        "files": [str(output / "predictions.jsonl")],
    }
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = {line["id"]: line for line in map(json.loads, lines)}
    assert list(found) == ["a", "b", "c"]
    model = models["dual"]
    expected = {
        "a": conversation(QUESTION, image),
        "b": conversation("How many?", tmp_path / "other.png"),
        "c": [*conversation(QUESTION, image), *answered[:2]],
    }
    for name, messages in expected.items():
        assert found[name]["text"] == model.chat(messages, max_new_tokens=7)
        assert found[name]["gate"] == pytest.approx(
            dict(model.gate_report(messages).weights), abs=1e-3
        )
    assert "answering: 3 of 3 questions" in done.stderr
    assert [path.name for path in output.iterdir()] == ["predictions.jsonl"]


def test_other_forms_and_standard_output(run: Any, image: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": QUESTION}]
    file = write(tmp_path / "vqa.jsonl", [{"image_path": "scene.png", "conversations": turns}])
    done = run("dual", "--input", file, *SHORT)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["id"] == "vqa.jsonl:1"
    llava = [{"from": "human", "value": f"<image>\n{QUESTION}"}]
    file = write(tmp_path / "llava.jsonl", [{"image": "scene.png", "conversations": llava}])
    again = run("dual", "--input", file, "--json", *SHORT)
    (prediction,) = json.loads(again.stdout)["predictions"]
    assert prediction["text"] == json.loads(line)["text"]


def faulty_file(tmp_path: Path) -> Path:
    picture(61, 83, 1).save(tmp_path / "scene.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "scene.png").read_bytes()[:300])
    special = record("special", "What is <|image_pad|>?")
    records = [
        record("sound", QUESTION),
        record("gone", QUESTION, "gone.png"),
        record("cut", QUESTION, "cut.png"),
        special,
        {"id": "empty", "messages": []},
        record("also sound", "Where?"),
    ]
    return write(tmp_path / "questions.jsonl", records)


def test_faults_are_told_at_once_before_any_answer(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("a question was answered")

    monkeypatch.setattr("chiasm.inference.responding.respond_to", never)
    file = faulty_file(tmp_path)
    output = tmp_path / "answers"
    done = run("dual", "--input", file, "--output", output, "--json")
    assert done.exit_code == 1
    assert done.stdout == ""
    for line, words in ((2, "gone.png"), (3, "truncated"), (4, "special token"), (5, "messages")):
        assert f"questions.jsonl:{line}: " in done.stderr
        assert words in done.stderr
    assert "questions.jsonl:1" not in done.stderr
    assert "nothing was answered (see --skip-faulty)" in done.stderr
    assert not output.exists()


def test_faulty_records_are_skipped_on_request(run: Any, tmp_path: Path) -> None:
    done = run("dual", "--input", faulty_file(tmp_path), "--skip-faulty", "--json", *SHORT)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [found["id"] for found in document["predictions"]] == ["sound", "also sound"]
    assert (document["count"], document["faulty"]) == (2, 4)
    assert done.stderr.count("skipped: ") >= 4
    assert (
        "4 faulty" in run("dual", "--input", tmp_path / "questions.jsonl", "--skip-faulty").stderr
    )


def test_nothing_left_is_a_fault(run: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "questions.jsonl", [record("gone", QUESTION, "gone.png")])
    done = run("dual", "--input", file, "--skip-faulty")
    assert done.exit_code == 1
    assert "no record can be answered" in done.stderr


def test_over_long_questions_are_faults(run: Any, image: Path, tmp_path: Path) -> None:
    long = record("long", "What is " + "very " * 30 + "large?")
    file = write(tmp_path / "questions.jsonl", [record("short", "Who?"), long])
    done = run("limited", "--input", file)
    assert done.exit_code == 1
    assert "questions.jsonl:2: length:" in done.stderr
    assert "at most 79" in done.stderr


def test_media_root(run: Any, image: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    file = write(tmp_path / "files" / "questions.jsonl", [record("a", QUESTION)])
    assert run("dual", "--input", file, *SHORT).exit_code == 1
    assert run("dual", "--input", file, "--media-root", tmp_path, *SHORT).exit_code == 0
    wrong = run("dual", "--input", file, "--media-root", tmp_path / "none")
    assert "is not a folder" in wrong.stderr


def test_a_write_that_fails_leaves_the_old_file(
    run: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "questions.jsonl", [record("a", QUESTION)])
    output = tmp_path / "answers"
    assert run("dual", "--input", file, "--output", output, *SHORT).exit_code == 0
    before = (output / "predictions.jsonl").read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("chiasm.training.durable.sync", full)
    done = run("dual", "--input", file, "--output", output, "--max-new-tokens", 3)
    assert done.exit_code == 1 and "no space left" in done.stderr
    assert (output / "predictions.jsonl").read_bytes() == before
