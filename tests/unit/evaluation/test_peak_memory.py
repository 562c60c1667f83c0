"""Peak memory: what is held at once counts, what is freed before does not."""

import subprocess
import sys

PROGRAM = """
import sys
from chiasm.evaluation.peak_memory import peak_memory

def held():
    return [bytearray(b"1") * (8 << 20) for _ in range(8)]

def one_by_one():
    for _ in range(8):
        bytearray(b"1") * (8 << 20)

kept = []

def in_pieces():
    pieces = [bytearray(b"1") * (64 << 10) for _ in range(800)]
    # At the end of the heap, so that what is freed before it stays with the process.
    kept.append(bytearray(b"1") * (64 << 10))

def broken():
    raise ValueError

sys.stdout.write(f"{peak_memory(held)} {peak_memory(one_by_one)} {peak_memory(in_pieces)} ")
try:
    peak_memory(broken)
except Exception as error:
    sys.stdout.write(type(error).__name__)
"""


def test_what_is_held_at_once_counts():
    # In a process of its own: a fork of one with threads may not be safe.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    held, one_by_one, in_pieces, error = done.stdout.split()
    assert 60 <= float(held) <= 72
    assert 7 <= float(one_by_one) <= 20
    # What the first run leaves free in the heap hides nothing of the second.
    assert 40 <= float(in_pieces) <= 60
    assert error == "InputError"
