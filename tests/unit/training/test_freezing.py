import pytest
import torch
from torch import nn

from chiasm.core.errors import ConfigError, UnknownNameError
from chiasm.training.freezing import (
    change_parts,
    check_ownership,
    freeze_all_but,
    match_parts,
    part_rate,
    parts_lines,
    parts_table,
    render_parts,
)
from tests.unit.training.small import SmallModel

NAMES = ("host", "encoder.left", "encoder.right", "fusion.gate", "fusion.output", "head")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("host", {"host"}),
        ("fusion", {"fusion.gate", "fusion.output"}),
        ("fusion.*", {"fusion.gate", "fusion.output"}),
        ("encoder.left", {"encoder.left"}),
        ("*.??t*", {"fusion.gate", "fusion.output"}),
        ("*", set(NAMES)),
    ],
)
def test_patterns(pattern: str, found: set[str]) -> None:
    assert match_parts([pattern], NAMES) == found


def test_unknown_part_lists_the_parts() -> None:
    with pytest.raises(UnknownNameError) as caught:
        match_parts(["host", "fusoin"], NAMES)
    message = str(caught.value)
    assert "unknown part 'fusoin'" in message
    assert "encoder.left, encoder.right, fusion.gate" in message


def test_the_most_particular_rate_wins() -> None:
    rates = {"*": 1.0, "encoder": 2.0, "encoder.left": 3.0}
    assert part_rate("encoder.left", 9.0, rates) == 3.0
    assert part_rate("encoder.right", 9.0, rates) == 2.0
    assert part_rate("head", 9.0, rates) == 1.0
    assert part_rate("head", 9.0, {"fusion": 1.0}) == 9.0


def test_changes_by_flag_and_by_list() -> None:
    assert change_parts({"head"}, {"fusion": True, "head": False}, NAMES) == {
        "fusion.gate",
        "fusion.output",
    }
    assert change_parts({"head"}, ["host"], NAMES) == {"host"}
    with pytest.raises(
        ConfigError, match=r"nothing would train; the parts are host, encoder\.left"
    ):
        change_parts({"head"}, {"head": False}, NAMES)


def test_freezing_keeps_nothing_of_the_frozen() -> None:
    model = SmallModel()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    freeze_all_but(model, {"fusion.gate", "encoder.left"})
    assert all(p.requires_grad for p in model.left.parameters())
    assert not any(p.requires_grad for p in model.right.parameters())
    assert all(p.grad is None for p in model.head.parameters())
    assert all(p.grad is not None for p in model.gate.parameters())
    # Dropout of a frozen part rests.
    assert model.left[2].training and not model.right[2].training


def test_whole_numbers_cannot_train() -> None:
    model = SmallModel()
    model.gate.weight = nn.Parameter(torch.zeros(1, 22, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match=r"part 'fusion\.gate': weight has type torch\.int8"):
        freeze_all_but(model, {"fusion.gate"})
    freeze_all_but(model, {"head"})


def test_the_table_counts_truly() -> None:
    model = SmallModel()
    model.gate.half()
    rows = {row.name: row for row in parts_table(model, {"head"}, {"head": 0.01})}
    assert rows["host"].total == 13 * 7 and rows["host"].trainable == 0
    assert rows["head"].total == rows["head"].trainable == 2 * 7 + 13 * 7 + 13
    assert rows["head"].learning_rate == 0.01 and rows["host"].learning_rate is None
    assert rows["fusion.gate"].dtype == "float16"
    assert sum(row.total for row in rows.values()) == sum(p.numel() for p in model.parameters())


def test_the_table_in_words() -> None:
    lines = parts_lines(parts_table(SmallModel(), {"head"}))
    assert lines[0] == "host          :            91 total,             0 trainable FROZEN"
    assert lines[-1] == "head          :           118 total,           118 trainable TRAINABLE"
    assert render_parts(parts_table(SmallModel(), {"head"})).row_count == 6


def test_a_model_that_is_none() -> None:
    with pytest.raises(ConfigError, match="Linear is no Model: it needs parts"):
        check_ownership(nn.Linear(3, 5))


class Overlapping(SmallModel):
    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"left": self.left, "both": nn.ModuleList([self.left, self.gate])}


def test_parameters_in_two_parts_or_none_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        check_ownership(Overlapping())
    message = str(caught.value)
    assert "both/0.0.weight is also left/0.weight" in message
    assert "head.1.bias lies in no part; the parts are left, both" in message
