"""Foreign pickles: plain values come out, and nothing is ever executed."""

from __future__ import annotations

import builtins
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.core.errors import DataError
from chiasm.data.formats.plain_pickle import load_plain_pickle

EXECUTED: list[object] = []


def touch(*arguments: object) -> None:
    """What a malicious pickle would call: it leaves a trace."""
    EXECUTED.append(arguments)


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Plain:
    """An object of a class of one's own."""


def written(path: Path, value: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(value=VALUES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(
    value: Any, protocol: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.getbasetemp() / "plain.p", value, protocol)
    assert load_plain_pickle(path) == value


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'left cup'\np3\nsa.")
    assert load_plain_pickle(tmp_path / "a.p") == [{"sent": "left cup"}]
    (tmp_path / "b.p").write_bytes(b"\x80\x02]q\x00U\x05caf\xe9sa.")
    assert load_plain_pickle(tmp_path / "b.p") == ["caf\xe9s"]


FUNCTIONS = {
    "os.system": (os.system, "touch {}"),
    "builtins.eval": (builtins.eval, "__import__('pathlib').Path({!r}).touch()"),
    "builtins.exec": (builtins.exec, "__import__('pathlib').Path({!r}).touch()"),
    "builtins.getattr": (builtins.getattr, "abc", "upper"),
    "touch": (touch, "hello"),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_executed(name: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    function, *arguments = FUNCTIONS[name]
    filled = [argument.format(str(trace)) for argument in arguments]  # type: ignore[attr-defined]
    hidden = [{"sent": [Calls(function, *filled)]}]
    path = written(tmp_path / "evil.p", hidden, protocol)
    with pytest.raises(
        DataError, match=r"evil\.p: refused, nothing of it was executed: it asks for .*; allowed in"
    ):
        load_plain_pickle(path)
    assert not trace.exists() and not EXECUTED
    # The pickle is a working attack: Python's own reader runs it.
    if name in ("os.system", "builtins.eval") and protocol == 2:
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3),
        np.float64(1.5),
        Plain(),
        Plain,
        {1, 2},
        frozenset([1]),
        bytearray(b"abc"),
        complex(1, 2),
        range(3),
        Path("a"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_only_plain_values_are_allowed(value: Any, protocol: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.p", [{"x": value}], protocol)
    with pytest.raises(DataError, match=r"refused, nothing of it was executed: it (asks|holds)"):
        load_plain_pickle(path)


INSTRUCTIONS = {
    "class of the old kind": b"(S'echo hi'\nios\nsystem\n.",
    "object by class": b"(cos\nsystem\nS'echo hi'\no.",
    "new object": b"\x80\x02cbuiltins\neval\nS'1'\n\x85\x81.",
    "name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x07echo hi\x85R.",
    "dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.exists\x93\x8c\x01a\x85R.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pabc\n.",
    "binary persistent": b"\x80\x02S'abc'\nQ.",
    "state of a list": b"\x80\x02]}S'a'\nK\x01sb.",
    "empty": b"",
    "no stop": b"\x80\x02]q\x00",
    "unknown instruction": b"\xff\xff",
    "cut off": pickle.dumps(["a cup"] * 9)[:-9],
    "text of huge length": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "missing memo": b"\x80\x02h\x07.",
    "foreign protocol": b"\x80\x63].",
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_beyond_plain_values_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.p"
    path.write_bytes(INSTRUCTIONS[name])
    with pytest.raises(DataError, match=r"a\.p: (refused, nothing|cannot be read as a pickle: )"):
        load_plain_pickle(path)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60), start=st.integers(0, 40))
def test_any_bytes_are_plain_or_refused(
    data: bytes, start: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random bytes, and a working attack with a piece of it replaced."""
    attack = pickle.dumps([{"a": 1, "b": Calls(touch, "x")}], 2)
    path = tmp_path_factory.getbasetemp() / "fuzz.p"
    for content in (data, attack[:start] + data + attack[start + len(data) :]):
        path.write_bytes(content)
        try:
            load_plain_pickle(path)
        except DataError:
            continue
        # What was read held no instruction that looks up or calls anything.
        names = {code.name for code, _, _ in pickletools.genops(content)}
        assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "REDUCE"}
    assert not EXECUTED


def test_cycles_end(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    found = load_plain_pickle(written(tmp_path / "a.p", loop))
    assert found[0] is found


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.p: no such file; give a pickle of plain values"):
        load_plain_pickle(tmp_path / "a.p")
