"""Pickles are read as data: the same plain values, and nothing that they name runs."""

from __future__ import annotations

import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.checkpoints import average
from ensembles.checkpoints.formats.pytorch_files import unpickler
from ensembles.checkpoints.formats.pytorch_files.objects import (
    Global,
    Malformed,
)
from ensembles.checkpoints.formats.pytorch_files.tensors import KNOWN
from ensembles.checkpoints.formats.pytorch_files.unpickler import (
    OPCODES,
    Unpickler,
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda values: (
        st.lists(values)
        | st.tuples(values)
        | st.tuples(values, values, values, values)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.text()), values)
    ),
)


def read(data: bytes) -> Any:
    return Unpickler(data, KNOWN).load()


@given(value=plain, protocol=st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_those_of_pickle(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert read(data) == pickle.loads(data) == value
    optimized = pickletools.optimize(data)
    assert read(optimized) == value


text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(value=text, protocol=st.integers(0, 1))
def test_values_of_the_first_protocols_are_those_of_pickle(
    value: Any, protocol: int
) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_every_opcode_of_python_is_known() -> None:
    known = {ord(opcode.code) for opcode in pickletools.opcodes}
    # Buffers outside of the pickle, which no file has.
    assert known - OPCODES.keys() == {ord(pickle.NEXT_BUFFER.decode("latin-1"))}


def test_strings_of_python_2_are_text() -> None:
    assert read(b"U\x03abc.") == "abc"
    assert read(b"S'a\\nb'\np0\n.") == "a\nb"
    assert read(b"T\x02\x00\x00\x00\xc3\xa9.") == "é"


def test_containers_may_contain_themselves() -> None:
    value: list[Any] = []
    value.append(value)
    result = read(pickle.dumps(value))
    assert result[0] is result


def test_shared_objects_stay_shared() -> None:
    shared = [1]
    result = read(pickle.dumps({"a": shared, "b": shared}))
    assert result["a"] is result["b"]


def test_an_object_keeps_its_type_arguments_and_state() -> None:
    import argparse
    import datetime
    import pathlib

    result = read(
        pickle.dumps(argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")))
    )
    assert result.type == Global("argparse", "Namespace")
    assert result.attributes["lr"] == 0.1
    assert result.attributes["path"].args == ("a",)
    moment = read(pickle.dumps(datetime.date(2020, 1, 2)))
    assert moment.type == Global("datetime", "date")


def test_elements_and_entries_of_subclasses_are_kept() -> None:
    import collections

    counter = read(pickle.dumps(collections.Counter("aab")))
    assert counter.args == ({"a": 2, "b": 1},)
    queue = read(pickle.dumps(collections.deque([1, 2])))
    assert queue.elements == [1, 2]
    assert read(pickle.dumps({3}, 4)).elements == [3]


# Hostile pickles: each way to call a function, with the function and one argument.


def _global(function: str) -> bytes:
    module, name = function.rsplit(".", 1)
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _stack_global(function: str) -> bytes:
    module, name = function.rsplit(".", 1)
    return _text(module) + _text(name) + b"\x93"


def _instance(function: str, argument: str) -> bytes:
    module, name = function.rsplit(".", 1)
    return b"(" + _text(argument) + b"i" + f"{module}\n{name}\n".encode()


CALLS: dict[str, Callable[[str, str], bytes]] = {
    "REDUCE": lambda f, a: _global(f) + _text(a) + b"\x85R",
    "REDUCE of STACK_GLOBAL": lambda f, a: _stack_global(f) + _text(a) + b"\x85R",
    "NEWOBJ": lambda f, a: _global(f) + _text(a) + b"\x85\x81",
    "NEWOBJ_EX": lambda f, a: _global(f) + _text(a) + b"\x85}\x92",
    "INST": _instance,
    "OBJ": lambda f, a: b"(" + _global(f) + _text(a) + b"o",
    "REDUCE of getattr": lambda f, a: (
        _global("builtins.getattr")
        + _global(f.rsplit(".", 1)[0] + ".__loader__")
        + _text(f.rsplit(".", 1)[1])
        + b"\x86R"
        + _text(a)
        + b"\x85R"
    ),
    "BUILD": lambda f, a: (
        _global("argparse.Namespace")
        + b")R}"
        + _text("__setstate__")
        + _global(f)
        + b"sb"
        + _text(a)
        + b"b"
    ),
    "EXT1": lambda f, a: b"\x82\x01" + _text(a) + b"\x85R",
}
FUNCTIONS = ("os.mkdir", "posix.mkdir", "builtins.eval", "os.system", "builtins.exec")
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
    b"FloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01"
    b"\x85\x89ccollections\nOrderedDict\n)RtR"
)
STATE = b"}" + _text("w") + TENSOR + b"s"
TORCH = b"ctorch._utils\n"
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "the root": lambda call: call + b".",
    "a value": lambda call: STATE + _text("x") + call + b"s.",
    "a key": lambda call: STATE + call + b"Ns.",
    "a list": lambda call: STATE + _text("x") + b"]" + call + b"as.",
    "dropped": lambda call: call + b"0" + STATE + b".",
    "in the memo": lambda call: call + b"q\x000" + STATE + b".",
    "tensor": lambda call: TORCH + b"_rebuild_tensor_v2\n(" + call + b"tR.",
    "a persistent id": lambda call: call + b"Q.",
    "the state of a dict": lambda call: b"ccollections\nOrderedDict\n)R" + call + b"b.",
    "a parameter": lambda call: TORCH + b"_rebuild_parameter\n(" + call + b"\x89NtR.",
    "a subclass": lambda call: (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + call + call + b")}tR."
    ),
}


def hostile(canary: Path) -> Iterator[tuple[str, bytes]]:
    arguments = dict.fromkeys(("os.mkdir", "posix.mkdir"), str(canary)) | {
        "builtins.eval": f"__import__('os').mkdir({str(canary)!r})",
        "builtins.exec": f"import os; os.mkdir({str(canary)!r})",
        "os.system": f"mkdir '{canary}'",
    }
    for way, call in CALLS.items():
        for function in FUNCTIONS if way != "EXT1" else FUNCTIONS[:1]:
            code = call(function, arguments[function])
            for place, put in PLACES.items():
                yield f"{way} of {function} as {place}", b"\x80\x02" + put(code)


def zipped(path: Path, pickled: bytes) -> Path:
    """A PyTorch file with any pickle, and one storage of two numbers."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", struct.pack("<2f", 1.0, 2.0))
    return path


def outcome(path: Path) -> str:
    """Name of the tensor that is read, or the error message without the path."""
    try:
        return ",".join(average([path]))
    except ValueError as error:
        return str(error).removeprefix(str(path))


def test_no_hostile_pickle_runs_or_fails_without_a_clear_error(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    outcomes = set()
    n_files = 0
    for _, pickled in hostile(canary):
        n_files += 1
        outcomes.add(outcome(zipped(tmp_path / "a.pt", pickled)))
        assert not canary.exists()
    assert n_files > 400
    assert "w" in outcomes
    errors = outcomes - {"w"}
    assert all(error[0] in " :" and "\n" not in error for error in errors)


@pytest.mark.parametrize(
    "way", ["REDUCE", "REDUCE of STACK_GLOBAL", "INST", "OBJ", "BUILD"]
)
def test_the_hostile_pickles_are_live_ones(tmp_path: Path, way: str) -> None:
    canary = tmp_path / "canary"
    pickle.loads(b"\x80\x04" + CALLS[way]("os.mkdir", str(canary)) + b".")
    assert canary.exists()


N = 60_000
ALLOWED = 1 << 20  # bytes, in place of 160 MiB
BOMBS = {
    "lists": b"]" * N,
    "marks": b"(" * N,
    "sets": b"\x8f" * N,
    "dicts": b"}" * N,
    "copies": b"N" + b"2" * N,
    "memo": b"]" + b"\x94" * N,
    "names": b"cA\n\n" * (N // 4),
    "objects": b"cA\n\n)R" * (N // 6),
    "far memo": b"]"
    + b"".join(b"r" + (i << 8).to_bytes(4, "little") for i in range(N // 5)),
    "long text": b"\x8d" + b"\xff" * 7 + b"\x00",
    "long bytes": b"\x96" + b"\xff" * 7 + b"\x00",
    "long integer": b"\x8b" + b"\xff" * 3 + b"\x7f",
    "frame": b"\x95" + b"\xff" * 7 + b"\x00",
    "nested tuples": b"N" + b"\x85" * (N // 2) + b"q\x00}" + b"h\x00Ns.",
    "tuples of tuples as a key": b"N" + b"2\x86" * 300 + b"q\x00}h\x00Ns.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_within_the_memory_limit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpickler, "SPARE", ALLOWED)
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            read(BOMBS[kind])
        assert tracemalloc.get_traced_memory()[1] < 1.25 * ALLOWED + len(BOMBS[kind])
    finally:
        tracemalloc.stop()


def test_deeply_nested_values_are_read() -> None:
    depth = 100_000
    value = read(b"]" * (depth + 1) + b"a" * depth + b".")
    for _ in range(depth):
        (value,) = value
    assert value == []
