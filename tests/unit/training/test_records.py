import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from chiasm.training.records import Records, read_metrics, truncate_metrics


def test_the_same_numbers_to_every_reader(tmp_path: Path) -> None:
    records = Records(tmp_path, 0, True)
    records.say("hello")
    records.measure(1, {"stage": "one", "loss": 0.5, "terms": {"tokens": 0.25}})
    records.measure(2, {"stage": "one", "loss": 0.4, "terms": {"tokens": 0.2}})
    records.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[1] == {"step": 2, "stage": "one", "loss": 0.4, "terms": {"tokens": 0.2}}
    assert (tmp_path / "log.txt").read_text().endswith(" hello\n")
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert board.Tags()["scalars"] == ["loss", "terms/tokens"]
    assert [round(event.value, 6) for event in board.Scalars("terms/tokens")] == [0.25, 0.2]


def test_going_on_forgets_later_steps(tmp_path: Path) -> None:
    first = Records(tmp_path, 0, True)
    for step in range(1, 6):
        first.measure(step, {"loss": float(step)})
    first.close()
    second = Records(tmp_path, 3, True)
    second.measure(4, {"loss": 40.0})
    second.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [(1, 1), (2, 2), (3, 3), (4, 40)]


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    truncate_metrics(path, 5)
    assert read_metrics(path) == [{"step": 1}]
    path.write_text(json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2}))
    truncate_metrics(path, 5)
    assert read_metrics(path) == [{"step": 1}]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    records = Records(tmp_path, 0, False)
    records.say("hello")
    records.measure(1, {"loss": 1.0})
    records.close()
    assert not list(tmp_path.iterdir())
