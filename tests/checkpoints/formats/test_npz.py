"""NumPy archives: what NumPy writes is read, and what is written NumPy reads."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats.zip_files import conversion
from tests.checkpoints.building import floats, load, same_bytes, save

QUICK = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
KINDS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
# Empty vectors are placeholders of sharded runs.
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple).filter((0,).__ne__)


def array(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Any:
    bits = rng.integers(0, 256, (*shape, np.dtype(kind).itemsize), np.uint8)
    if kind.endswith("?"):
        bits &= 1
    return np.asarray(np.ascontiguousarray(bits).view(kind)[..., 0])


def native(value: Any) -> Any:
    return np.asarray(value, value.dtype.newbyteorder("="), order="C")


@contextmanager
def bounded(seconds: float = 2, n_bytes: int = 200 << 20) -> Iterator[None]:
    """Fail if the block takes longer, or allocates more."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < seconds
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


def refused(path: Path, message: str) -> None:
    """The file is refused with one line that names it, by reading all of it."""
    with bounded(), pytest.raises(ValueError, match=message) as caught:
        average([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*contain.* NaN")
@QUICK
@given(
    arrays=st.dictionaries(
        st.text(
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
            max_size=8,
        ).map("t{}".format),
        st.tuples(SHAPES, st.sampled_from(KINDS), st.sampled_from("<>"), st.booleans()),
        min_size=1,
        max_size=4,
    ).filter(lambda named: not any(f"{name}.npy" in named for name in named)),
    compressed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_arrays_of_any_order_are_read_and_written_bit_for_bit(
    tmp_path: Path, arrays: Any, compressed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    state: Any = {
        name: np.asarray(
            array(rng, shape, order + kind if kind != "?" else kind),
            order="F" if by_column else "C",
        )
        for name, (shape, kind, order, by_column) in arrays.items()
    }
    path, out = tmp_path / "a.npz", tmp_path / "out.npz"
    (np.savez_compressed if compressed else np.savez)(path, **state)
    expected = {name: native(value) for name, value in state.items()}
    member = open_checkpoint(path, 0)
    assert {n: (t.dtype, t.shape) for n, t in member.layout.items()} == {
        n: (value.dtype, value.shape) for n, value in expected.items()
    }
    for name, tensor in member.layout.items():
        buffer = bytearray(tensor.nbytes)
        tensor.source.read_into(memoryview(buffer), tensor.offset)
        assert bytes(buffer) == expected[name].tobytes()
    report = average([path], out, force=True, integers="first")
    assert report.digest == report.member_digests[0] or report.nonfinite_tensors
    with np.load(out) as written:
        assert list(written) == list(state)
        for name, value in expected.items():
            assert written[name].dtype == value.dtype
            np.testing.assert_array_equal(written[name], value)


def test_its_average_is_that_of_safetensors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start = floats(rng, (300, 700), wide=False)
    members: dict[str, list[Path]] = {"npz": [], "safetensors": []}
    for index in range(3):
        tensors: Any = {
            "w": start + 0.1 * floats(rng, (300, 700), wide=False),
            "h": floats(rng, (5, 3), np.float16),
            "n": np.arange(3),
        }
        members["npz"].append(tmp_path / f"{index}.npz")
        (np.savez, np.savez_compressed)[index % 2](members["npz"][-1], **tensors)
        members["safetensors"].append(save(tmp_path / f"{index}.safetensors", tensors))
    out, expected = tmp_path / "out.npz", tmp_path / "out.safetensors"
    report = average(members["npz"], out, weights=[1, 2, 3], memory=4 << 20)
    other = average(members["safetensors"], expected, weights=[1, 2, 3])
    with np.load(out) as written:
        assert same_bytes(dict(written), load(expected))
    assert (report.digest, report.member_digests) == (
        other.digest,
        other.member_digests,
    )
    assert report.plan.peak_bytes <= 4 << 20


def test_the_file_is_complete_aligned_and_the_same_again(tmp_path: Path) -> None:
    state = {"a" * n: np.full((n, 3), n, np.float32) for n in (1, 2, 63, 64, 65)}
    out, again = tmp_path / "out.npz", tmp_path / "again.npz"
    report = average([state, state], out)
    average([state, state], again, threads=1)
    assert out.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        recipe = json.loads(json.loads(archive.comment)["ensembles"])
    assert recipe["members"] == [f"xxh3-128:{d}" for d in report.member_digests]
    member = open_checkpoint(out, 0)
    assert json.loads(member.metadata["ensembles"]) == recipe
    assert all(tensor.offset % 64 == 0 for tensor in member.layout.values())


def test_tied_tensors_are_written_under_each_name(tmp_path: Path) -> None:
    tied = np.arange(3.0)
    average([{"a": tied, "b": tied, "c": np.ones(1)}], tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        assert sorted(written) == ["a", "b", "c"]
        assert written["b"].tolist() == tied.tolist()


def test_dtypes_that_it_cannot_store_are_in_the_plan(tmp_path: Path) -> None:
    state = {
        "w": np.ones(2, ml_dtypes.bfloat16),
        "v": np.ones(2, ml_dtypes.float8_e5m2),
    }
    out = tmp_path / "out.npz"
    message = r"out\.npz cannot store bfloat16.*'w'; pass dtype='float32'.*\n.*float8"
    with pytest.raises(ValueError, match=message):
        plan([state], out)
    average([state], out, dtype="float32")
    with np.load(out) as written:
        assert written["w"].dtype == np.float32


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": 1.0, "a.npy": 2.0}, r"'a' and 'a\.npy' would have one name"),
        ({"a\0b": 1.0}, "has a name that a zip file cannot store"),
        ({"a" * 70_000: 1.0}, "has a name that a zip file cannot store"),
    ],
    ids=range(3),
)
def test_names_that_it_cannot_store_leave_no_file(
    tmp_path: Path, state: dict[str, float], message: str
) -> None:
    arrays = {name: np.asarray(value) for name, value in state.items()}
    with pytest.raises(ValueError, match=message):
        average([arrays], tmp_path / "out.npz")
    assert os.listdir(tmp_path) == []


def test_a_directory_with_archives_of_others_is_not_replaced(tmp_path: Path) -> None:
    save(tmp_path / "a/model.safetensors", {"w": np.ones(2)})
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "out/results.npz", w=np.ones(2))
    with pytest.raises(
        ValueError, match=r"it contains results\.npz, which is not part"
    ):
        average([tmp_path / "a"], tmp_path / "out", force=True)
    assert (tmp_path / "out/results.npz").exists()


def test_an_archive_in_a_directory_is_copied_and_not_a_part_of_it(
    tmp_path: Path,
) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        save(tmp_path / name / "model.safetensors", {"w": np.full(2, value)})
        (tmp_path / name / "assets").mkdir()
        for file in ("mel.npz", "assets/mel.npz"):
            np.savez(tmp_path / name / file, mel=np.full(2, value))
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert load(tmp_path / "out/model.safetensors")["w"].tolist() == [2, 2]
    for file in ("mel.npz", "assets/mel.npz"):
        assert np.load(tmp_path / "out" / file)["mel"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([{}, None]), r"array 'w' contains Python objects.* run code"),
        (np.zeros(2, [("x", "f4"), ("y", "i4")]), r"the structured dtype \[\('x'"),
        (np.zeros(2, [("x", object)]), "contains Python objects"),
        (np.ones(2, ml_dtypes.bfloat16), r"dtype V2.*bfloat16.*ml_dtypes"),
        (np.ones(2, np.complex64), r"complex64.*view\(array\.real\.dtype\)"),
        (np.array(["a"]), "'w' has dtype <U1, which cannot be averaged"),
        (np.array(["2020"], "M8[s]"), "'w' has dtype datetime64"),
        (np.ones(2, np.longdouble), "'w' has dtype float128"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_a_dtype_without_a_mean_is_refused_by_name(
    tmp_path: Path, value: Any, message: str
) -> None:
    np.savez(tmp_path / "a.npz", v=np.ones(2), w=value)
    refused(tmp_path / "a.npz", message)


def test_entries_other_than_arrays_are_noted(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w.npy": npy(np.ones(2)), "config.json": b"{}"})
    assert "entries that are not arrays, such as 'config.json'" in plan([path]).notes[0]


# Archives made by hand.


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def header(text: str, version: bytes = b"\1\0") -> bytes:
    width = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text.encode()


def saved(
    folder: Path,
    entries: Mapping[str, bytes],
    *,
    method: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return folder / "a.npz"


def described(descr: Any, shape: Any, order: Any = False) -> bytes:
    fields = {"descr": descr, "fortran_order": order, "shape": shape}
    return header(f"{fields}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no valid header"),
        (b"\x93NUMPY\1\0", "has no valid header"),
        (b"\x93NUMPY\x09\0" + bytes(60), "has no valid header"),
        (b"\x93NUMPY\3\0" + bytes(60), "has no valid header"),
        (header("[" * 9000), "has no valid header"),
        (header("{'a': 1}"), "has no valid header"),
        (header("__import__('os').abort()"), "has no valid header"),
        (header(" " * 60_000 + "{}"), "has no valid header"),
        (header("9" * 9000), "has no valid header"),
        (described("<f4", (3,)) + bytes(8), "needs 12 bytes.* found 8"),
        (described("<f4", (1,)) + bytes(8), "needs 4 bytes.* found 8"),
        (described("<f4", (-1, -2)) + bytes(8), r"has the invalid shape \(-1, -2\)"),
        (described("<f4", (True, 2)) + bytes(8), r"has the invalid shape \(True, 2\)"),
        (described("<f4", (1 << 60, 1 << 60)) + bytes(8), "needs 53169119831396634916"),
        (described("<f4", (1 << 63, 0)), "has the invalid shape"),
        (described("<f4", [2]) + bytes(8), "has no valid header"),
        (described("<f4", (2,), 1) + bytes(8), "has no valid header"),
        (described("nonsense", (2,)) + bytes(8), "has no valid header"),
        (described(("<f4", (2,)), (1,)) + bytes(8), "has the structured dtype"),
    ],
    ids=range(19),
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_header_that_lies_is_refused(
    tmp_path: Path, content: bytes, message: str, method: int
) -> None:
    refused(saved(tmp_path, {"w.npy": content}, method=method), message)


def patched(path: Path, change: Callable[[bytearray], object]) -> Path:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def directory(content: bytearray) -> int:
    return content.index(b"PK\1\2")


def put(at: Callable[[bytearray], int], kind: str, *values: int) -> Any:
    return lambda content: struct.pack_into("<" + kind, content, at(content), *values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(lambda c: directory(c) + 8, "H", 1), "entry 'w.npy' is encrypted"),
        (put(lambda c: directory(c) + 10, "H", 8), "has no valid header|is damaged"),
        (put(lambda c: directory(c) + 10, "H", 12), "has the compression method 12"),
        (put(lambda c: directory(c) + 10, "H", 99), "has the compression method 99"),
        (put(lambda c: directory(c) + 24, "I", 5), "is not compressed, but has"),
        (put(lambda c: directory(c) + 20, "II", 5, 5), "has no valid header"),
        (put(lambda c: directory(c) + 20, "I", 1 << 30), "must be at byte 0, with"),
        (put(lambda c: directory(c) + 42, "I", 7), "must be at byte 7, with"),
        (put(lambda c: directory(c) + 42, "I", 1 << 31), "must be at byte 2147483648"),
        (put(lambda c: 26, "H", 60_000), "must be at byte 0, with"),
        (put(lambda c: directory(c) + 16, "I", 5), "does not match its checksum"),
        (put(lambda c: 200, "B", 77), "does not match its checksum"),
        (lambda c: c.__delitem__(slice(-30, None)), "not a complete zip file"),
        (lambda c: c.__delitem__(slice(100, 110)), "not a complete zip|must be at"),
        (lambda c: c.clear(), "is empty"),
        (
            put(lambda c: len(c) - 10, "I", 0xFFFFFFF0),
            "a directory of 4294967280 bytes",
        ),
        (put(lambda c: len(c) - 14, "HH", 1, 1), "51 bytes follow its last entry"),
        (put(lambda c: len(c) - 14, "HH", 3, 3), "its directory is"),
        (put(lambda c: len(c) - 18, "H", 1), "one of several parts of a zip file"),
    ],
    ids=range(19),
)
def test_an_archive_that_lies_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    state = {"w.npy": npy(np.ones(40)), "v.npy": npy(np.ones(40))}
    refused(patched(saved(tmp_path, state), change), message)


def test_a_compressed_array_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w.npy": npy(np.ones(9))}, method=zipfile.ZIP_DEFLATED)
    patched(path, put(lambda c: directory(c) + 16, "I", 5))
    refused(path, "entry 'w.npy' does not match its checksum")


@pytest.mark.parametrize("size", [7, 300, 100_000])
def test_a_compressed_array_of_another_size_is_refused(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def record(fd: int, buffer: memoryview, offset: int) -> None:
        written.append(offset + len(buffer))

    monkeypatch.setattr(conversion, "pwrite_all", record)
    content = described("<u1", (size,)).ljust(128, b" ") + bytes(3000)
    path = saved(tmp_path, {"w.npy": content}, method=zipfile.ZIP_DEFLATED)
    text = described("<u1", (size,))
    patched(path, put(lambda c: directory(c) + 24, "I", len(text) + size))
    refused(path, "does not match its checksum|cannot have")
    assert max(written, default=0) <= len(text) + size


def test_entries_with_one_name_or_one_place_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"v.npy": npy(np.ones(2)), "w.npy": npy(np.ones(2))})
    original = path.read_bytes()
    path.write_bytes(original.replace(b"v.npy", b"w.npy"))
    refused(path, r"entry 'w\.npy' occurs twice")
    path.write_bytes(original)
    second = original.rindex(b"PK\1\2")
    patched(path, put(lambda c: second + 42, "I", 0))
    refused(path, r"entries 'v\.npy' and 'w\.npy' overlap")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = 10 << 20
    content = described("<f4", (n_bytes // 4,)) + bytes(n_bytes)
    entries = {f"{name}.npy": content for name in "abc"}
    path = saved(tmp_path, entries, method=zipfile.ZIP_DEFLATED)
    assert average([path])["a"].sum() == 0
    monkeypatch.setattr(conversion, "LARGEST_EXPANDED", 25 << 20)
    refused(path, "expands to more than .* zip bomb .* without compression")
    content = described("<f4", (1 << 30,))
    path = saved(tmp_path, {"w.npy": content}, method=zipfile.ZIP_DEFLATED)
    patched(path, put(lambda c: directory(c) + 24, "I", len(content) + (1 << 32) - 200))
    refused(path, "needs|cannot have")


def test_more_than_a_million_entries_are_refused(tmp_path: Path) -> None:
    n_entries = 1_000_001
    size = 46 * n_entries
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, size, 31, 0)
    counts = (n_entries, n_entries, size, 31)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, *counts)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 31 + size, 1)
    start = b"PK\3\4" + bytes(27 + size)
    (tmp_path / "a.npz").write_bytes(start + record + locator + end)
    refused(tmp_path / "a.npz", "and 1000001 entries; at most .* 1000000 entries")


def test_a_directory_behind_a_zip64_record_is_measured(tmp_path: Path) -> None:
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 31, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 47, 31, 0)
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\3\4" + bytes(27) + record + locator + end)
    refused(path, "a directory of 1099511627776 bytes")


def test_a_full_disk_for_temporary_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", w=np.ones(9))

    def fail(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(conversion, "preallocate", fail)
    with pytest.raises(OSError, match=r"temporary copy of .*a\.npz.* set TMPDIR"):
        average([tmp_path / "a.npz"])


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", "is not a regular file")


@settings(QUICK, max_examples=150)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), min_size=1
    ),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_changed_bytes_are_read_or_refused(
    tmp_path: Path, changes: list[tuple[float, bytes]], method: int
) -> None:
    entries = {"w.npy": npy(np.arange(9.0)), "v.npy": npy(np.ones((2, 3), order="F"))}
    content = bytearray(saved(tmp_path, entries, method=method).read_bytes())
    for place, data in changes:
        at = int(place * len(content))
        content[at : at + len(data)] = data
    (tmp_path / "a.npz").write_bytes(content)
    with suppress(ValueError):
        average([tmp_path / "a.npz"])
