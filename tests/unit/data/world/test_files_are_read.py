"""What the world writes is what the readers read."""

from chiasm.data.check import check
from chiasm.data.dataset import load_dataset
from chiasm.data.world import write
from chiasm.data.world.worlds import WorldDataset


def test_a_made_world_is_read_back_as_the_same_samples(tmp_path):
    write.make("shapes_and_grain", tmp_path / "world", 7, seed=3, questions_per_image=3)
    read = load_dataset(tmp_path / "world" / "train.jsonl")
    drawn = WorldDataset(world="shapes_and_grain", seed=3, count=7, questions_per_image=3)
    assert len(read) == len(drawn)
    for index in range(len(read)):
        assert [turn.text for turn in read[index].turns] == [t.text for t in drawn[index].turns]
        assert read[index].truth["kinds"] == drawn[index].truth["kinds"]
        assert read[index].truth["answers"] == drawn[index].truth["answers"]


def test_a_made_world_has_no_fault(tmp_path):
    write.make("grain", tmp_path / "world", 5, seed=2)
    for name in ("train.jsonl", "test.jsonl", "train.captions.json"):
        report = check(tmp_path / "world" / name)
        assert report.faults == ()
        assert report.records > 0


def test_kinds_that_do_not_fit_the_turns_are_a_fault(tmp_path):
    write.make("grain", tmp_path / "world", 2, seed=2)
    file = tmp_path / "world" / "train.jsonl"
    file.write_text(file.read_text().replace('"kinds": ["grain"]', '"kinds": ["grain", "x"]'))
    report = check(file)
    assert any("2 kinds for 1 assistant turns" in fault.value for fault in report.faults)
