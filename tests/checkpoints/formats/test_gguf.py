"""GGUF files: tensors read and written, metadata kept, headers that lie refused."""

from __future__ import annotations

import json
import math
import struct
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.checkpoints import average, convert, inspect, plan, verify
from ensembles.checkpoints.directories.open import open_checkpoint
from tests.checkpoints.building import floats, load, same_bytes, save

QUICK = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Numbers of the types, from the documentation of ggml.
TYPES = {
    np.dtype(np.float32): 0,
    np.dtype(np.float16): 1,
    np.dtype(np.int8): 24,
    np.dtype(np.int16): 25,
    np.dtype(np.int32): 26,
    np.dtype(np.int64): 27,
    np.dtype(np.float64): 28,
    np.dtype(ml_dtypes.bfloat16): 30,
}
W = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def pair(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def u32(name: str, value: int) -> bytes:
    return pair(name, 4, struct.pack("<I", value))


def texts(*values: str) -> bytes:
    return struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))


METADATA = (
    pair("general.architecture", 8, text("llama")),
    pair("general.name", 8, text("naïve")),
    u32("llama.block_count", 2),
    pair("tokenizer.ggml.tokens", 9, texts("a", "ß", "")),
    pair("tokenizer.ggml.scores", 9, struct.pack("<IQ3f", 6, 3, 1, 2, 3)),
    pair("x.flag", 7, b"\1"),
    pair("x.double", 12, struct.pack("<d", 0.5)),
)


def info(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    fields = (len(shape), *shape[::-1], kind, offset)
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", *fields)


def raw(
    path: Path,
    pairs: Sequence[bytes],
    infos: Sequence[bytes],
    data: bytes,
    *,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
) -> Path:
    n_infos, n_pairs = counts or (len(infos), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, n_infos, n_pairs)
    header += b"".join([*pairs, *infos])
    path.write_bytes(header + bytes(-len(header) % alignment) + data)
    return path


def write(
    path: Path,
    tensors: Mapping[str, Any],
    pairs: Sequence[bytes] = METADATA,
    *,
    alignment: int = 32,
    version: int = 3,
) -> Path:
    """Write a GGUF file without the library."""
    infos, data = [], b""
    for name, value in tensors.items():
        array = np.asarray(value)
        infos.append(info(name, array.shape, TYPES[array.dtype], len(data)))
        data += array.tobytes()
        data += bytes(-len(data) % alignment)
    return raw(path, pairs, infos, data, version=version, alignment=alignment)


def tensors_of(path: Path) -> dict[str, Any]:
    """Tensors of a GGUF file whose metadata are `METADATA` and two strings."""
    content = path.read_bytes()
    _, n_tensors, n_pairs = struct.unpack_from("<IQQ", content, 4)
    at = 24 + len(b"".join(METADATA))
    assert content[24:at] == b"".join(METADATA)
    assert n_pairs == len(METADATA) + 2
    for _ in range(2):
        (n_key,) = struct.unpack_from("<Q", content, at)
        at += 8 + n_key + 4
        at += 8 + struct.unpack_from("<Q", content, at)[0]
    entries = {}
    for _ in range(n_tensors):
        (n_name,) = struct.unpack_from("<Q", content, at)
        name = content[at + 8 : at + 8 + n_name].decode()
        at += 8 + n_name
        (n_dims,) = struct.unpack_from("<I", content, at)
        fields = struct.unpack_from(f"<{n_dims}QIQ", content, at + 4)
        at += 4 + 8 * n_dims + 12
        entries[name] = fields[:-2][::-1], fields[-2], fields[-1]
    at += -at % 32
    dtypes = {kind: dtype for dtype, kind in TYPES.items()}
    return {
        name: np.frombuffer(
            content, dtypes[kind], math.prod(shape), at + offset
        ).reshape(shape)
        for name, (shape, kind, offset) in entries.items()
    }


@pytest.mark.filterwarnings("ignore:.*contain.* NaN")
@QUICK
@given(
    tensors=st.dictionaries(
        st.text(max_size=8).filter(str.isprintable).map("t{}".format),
        st.tuples(
            # Empty vectors are placeholders of sharded runs.
            st.lists(st.integers(0, 4), max_size=4).map(tuple).filter((0,).__ne__),
            st.sampled_from(sorted(TYPES, key=str)),
        ),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 99),
)
def test_tensors_of_every_type_are_read_and_written(
    tmp_path: Path, tensors: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    state = {
        name: floats(rng, shape, dtype)
        if dtype.kind in "fV"
        else rng.integers(-9, 9, shape).astype(dtype)
        for name, (shape, dtype) in tensors.items()
    }
    path = write(tmp_path / "a.gguf", state)
    layout = open_checkpoint(path, 0).layout
    assert {n: (t.dtype, t.shape) for n, t in layout.items()} == {
        n: (value.dtype, value.shape) for n, value in state.items()
    }
    out = tmp_path / "out.gguf"
    average([path], out, force=True)
    written = tensors_of(out)
    assert list(written) == list(state)
    assert same_bytes(written, state)


def test_its_average_is_that_of_safetensors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start = floats(rng, (100, 70), wide=False)
    members: dict[str, list[Path]] = {"gguf": [], "safetensors": []}
    for index in range(3):
        w = start + 0.1 * floats(rng, (100, 70), wide=False)
        tensors = {"w": w, "b": w[0].astype(ml_dtypes.bfloat16), "n": np.arange(3)}
        members["gguf"].append(write(tmp_path / f"{index}.gguf", tensors))
        members["safetensors"].append(save(tmp_path / f"{index}.safetensors", tensors))
    out, expected = tmp_path / "out.gguf", tmp_path / "out.safetensors"
    report = average(members["gguf"], out, weights=[1, 2, 3])
    other = average(members["safetensors"], expected, weights=[1, 2, 3])
    assert same_bytes(tensors_of(out), load(expected))
    assert (report.digest, report.member_digests) == (
        other.digest,
        other.member_digests,
    )
    provenance = json.loads(open_checkpoint(out, 0).metadata["ensembles"])
    assert len(provenance["members"]) == 3


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_alignment_and_version_are_those_of_the_first_member(
    tmp_path: Path, alignment: int, version: int
) -> None:
    pairs = [*METADATA, u32("general.alignment", alignment)]
    state = {**W, "v": np.ones(3, np.float16), "u": np.ones(5, np.float32)}
    path = write(
        tmp_path / "a.gguf", state, pairs, alignment=alignment, version=version
    )
    average([path], tmp_path / "out.gguf")
    content = (tmp_path / "out.gguf").read_bytes()
    assert content[4] == version
    layout = open_checkpoint(tmp_path / "out.gguf", 0).layout
    assert {tensor.offset % alignment for tensor in layout.values()} == {0}
    assert same_bytes(average([tmp_path / "out.gguf"]), state)


def test_an_average_of_averages_has_one_provenance(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", W)
    average([tmp_path / "a.gguf"], tmp_path / "b.gguf")
    average([tmp_path / "b.gguf", tmp_path / "a.gguf"], tmp_path / "c.gguf")
    assert tensors_of(tmp_path / "c.gguf").keys() == W.keys()
    assert (tmp_path / "c.gguf").read_bytes().count(b"ensembles") == 2


def test_a_dtype_may_change_and_metadata_stay(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", W)
    average([tmp_path / "a.gguf"], tmp_path / "out.gguf", dtype="bfloat16")
    assert tensors_of(tmp_path / "out.gguf")["w"].dtype == ml_dtypes.bfloat16


def test_metadata_that_differ_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "a.gguf", W)
    others = [u32("llama.block_count", 3), *METADATA[:2], *METADATA[3:]]
    others[3] = pair("tokenizer.ggml.tokens", 9, texts("a", "b", "c"))
    write(tmp_path / "b.gguf", W, others)
    notes = "\n".join(plan([tmp_path / "a.gguf", tmp_path / "b.gguf"]).notes)
    assert "metadata of" in notes
    assert "llama.block_count" in notes
    assert "tokenizer.ggml.tokens" in notes
    assert "general.name" not in notes


def test_the_first_member_must_be_a_gguf_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", W)
    message = r"out\.gguf must have a first member of the format 'gguf'.* directory"
    with pytest.raises(ValueError, match=message):
        plan([W, path], tmp_path / "out.gguf")
    average([path, W], tmp_path / "out.gguf")
    assert same_bytes(tensors_of(tmp_path / "out.gguf"), W)


@pytest.mark.parametrize("dtype", ["float8_e5m2", np.bool_, np.uint8])
def test_dtypes_that_it_cannot_store_are_in_the_plan(
    tmp_path: Path, dtype: Any
) -> None:
    path = write(tmp_path / "a.gguf", W)
    state = {**W, "v": np.ones(2).astype(dtype)}
    with pytest.raises(ValueError, match=r"must have a first .*\n.*cannot store"):
        plan([state], tmp_path / "out.gguf")
    if dtype == "float8_e5m2":
        with pytest.raises(ValueError, match="cannot store float8_e5m2"):
            plan([path], tmp_path / "out.gguf", dtype=dtype)


def test_files_beside_the_weights_of_a_directory_are_copies(tmp_path: Path) -> None:
    save(tmp_path / "a/model.safetensors", W)
    write(tmp_path / "a/my-model-F32.gguf", W)
    planned = plan([tmp_path / "a"], tmp_path / "out")
    assert "left out further copies or variants: my-model-F32.gguf" in planned.notes[0]
    assert [target.name for target in planned.targets] == ["w"]


# Files that lie.


def refused(path: Path, message: str) -> None:
    """The file is refused with one line that names it, in bounded time and memory."""
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        average([path])
    assert time.process_time() - start < 5
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + (200 << 20)
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(2, "Q4_0"), (8, "Q8_0"), (12, "Q4_K"), (30 + 9, "MXFP4"), (22, "IQ2_S")],
)
def test_a_quantized_tensor_is_refused_by_its_type(
    tmp_path: Path, kind: int, name: str
) -> None:
    infos = [info("blk.0.attn_q.weight", (32,), kind, 0)]
    path = raw(tmp_path / "a.gguf", METADATA, infos, bytes(64))
    refused(
        path, rf"tensor 'blk\.0\.attn_q\.weight' has type {name}: quantized .*F16 or"
    )


def test_quantized_tensors_are_listed(tmp_path: Path) -> None:
    infos = [info("q", (32,), 8, 32), info("w", (2, 3), 0, 0), info("z", (0,), 99, 66)]
    path = raw(tmp_path / "a.gguf", METADATA, infos, bytes(66))
    found = inspect(path)
    assert [(t.name, t.dtype, t.shape, t.nbytes) for t in found.tensors] == [
        ("q", "Q8_0", (32,), 34),
        ("w", "float32", (2, 3), 24),
        ("z", "type 99", (0,), 0),
    ]
    assert found.values["general.architecture"] == "'llama'"
    assert found.values["tokenizer.ggml.tokens"].startswith("'array xxh3:")
    assert "cannot be averaged" in found.refusals[0]
    huge = [info("w", (HUGE, HUGE), 8, 0)]
    path = raw(tmp_path / "b.gguf", METADATA, huge, bytes(64))
    with pytest.raises(ValueError, match="'w' has type Q8_0"):
        inspect(path)


@pytest.mark.parametrize("make", [average, convert])
def test_a_result_is_verified_with_its_members(tmp_path: Path, make: Any) -> None:
    members = [write(tmp_path / "a.gguf", W)]
    out = tmp_path / "out.gguf"
    make(members if make is average else members[0], out)
    found = verify(out, members)
    assert found.is_intact
    assert found.unverified == []
    assert len(found.verified) == 3
    tensor = open_checkpoint(out, 0).layout["w"]
    content = bytearray(out.read_bytes())
    content[tensor.offset] ^= 1
    out.write_bytes(content)
    assert verify(out).differing_tensors == ["w"]


def test_entries_of_other_programs_with_a_similar_name_are_kept(tmp_path: Path) -> None:
    pairs = [*METADATA, pair("ensembles_of.others", 8, text("x"))]
    write(tmp_path / "a.gguf", W, pairs)
    average([tmp_path / "a.gguf"], tmp_path / "out.gguf")
    assert b"".join(pairs) in (tmp_path / "out.gguf").read_bytes()


F32 = info("w", (2, 3), 0, 0)
HUGE = 1 << 63


@pytest.mark.parametrize(
    ("pairs", "infos", "data", "message"),
    [
        ([], [info("w", (2, 3), 77, 0)], 32, "has type 77, unknown here"),
        ([], [info("w", (2, 3), 0, 32)], 64, "'w'.* must be at byte 96 and"),
        ([], [info("w", (2, 3), 0, 4)], 64, "'w'.* must be at byte 96 and"),
        ([], [info("w", (2, 3), 0, HUGE)], 32, "'w'.* must be at byte"),
        ([], [info("w", (9, 9), 0, 0)], 32, "end within 128, found 96 to 420"),
        ([], [info("w", (HUGE, HUGE), 0, 0)], 32, "must be at byte 96|end within"),
        ([], [info("w", (1,) * 5, 0, 0)], 32, "'w' has 5 dimensions"),
        ([], [F32, F32], 32, "tensor 'w' occurs twice"),
        ([], [F32, info("v", (2, 3), 0, 0)], 32, "'v'.* must be at byte"),
        ([], [F32, info("v", (2, 3), 0, 64)], 96, "'v'.* must be at byte"),
        ([], [F32], 0, "end within 96, found 96 to 120"),
        ([], [F32], 23, "end within 119, found 96 to 120"),
        ([], [F32], 33, "9 bytes do not belong to a tensor"),
        ([], [text(b"\xff") + F32[9:]], 32, "a string is not UTF-8"),
        ([], [struct.pack("<Q", HUGE) + F32[8:]], 32, "its header ends after byte"),
        ([u32("a", 1), u32("a", 2)], [F32], 32, "metadata 'a' occurs twice"),
        ([pair("a", 13, b"")], [F32], 32, "'a' has the type 13"),
        ([pair("a", 9, struct.pack("<IQ", 9, 0))], [F32], 32, "the type 9 of 9"),
        ([pair("a", 9, struct.pack("<IQ", 0, HUGE))], [F32], 32, "header ends after"),
        ([pair("a", 9, struct.pack("<IQ", 8, HUGE))], [F32], 32, "an array has 9223"),
        ([pair("a", 9, struct.pack("<IQ", 8, 9))], [F32], 32, "header ends after"),
        ([pair("a", 8, struct.pack("<Q", HUGE))], [F32], 32, "header ends after"),
        ([u32("general.alignment", 0)], [F32], 32, "power of 2, found 0"),
        ([u32("general.alignment", 24)], [F32], 32, "power of 2, found 24"),
        ([pair("general.alignment", 8, text("8"))], [F32], 32, "power of 2, found '8'"),
        ([u32("general.alignment", 1 << 31)], [F32], 32, "must be at byte 2147483648"),
        ([pair("split.count", 2, b"\3\0")], [F32], 32, "one of 3 parts.*--merge"),
        ([pair("split.count", 8, text("x"))], [F32], 32, "one of x parts"),
    ],
    ids=range(28),
)
def test_a_header_that_lies_is_refused(
    tmp_path: Path, pairs: Any, infos: Any, data: int, message: str
) -> None:
    refused(raw(tmp_path / "a.gguf", pairs, infos, bytes(data)), message)


@pytest.mark.parametrize(
    ("version", "counts", "message"),
    [
        (1, (1, 0), "a GGUF file of version 1"),
        (4, (1, 0), "a GGUF file of version 4"),
        (3 << 24, (1, 0), "a big-endian GGUF file"),
        (3, (2, 0), "'w'.* must be at byte 128"),
        (3, (0, 0), "bytes do not belong|no tensor"),
        (3, (HUGE, 0), "it has 9223372036854775808 tensors"),
        (3, (1_000_000, 0), "it has 1000000 tensors"),
        (3, (1, HUGE), "9223372036854775808 entries"),
        (3, (1, 1), "its header ends after byte"),
    ],
    ids=range(9),
)
def test_versions_and_counts_that_lie_are_refused(
    tmp_path: Path, version: int, counts: tuple[int, int], message: str
) -> None:
    path = tmp_path / "a.gguf"
    refused(raw(path, [], [F32], bytes(32), version=version, counts=counts), message)


def test_a_header_of_100_megabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    start = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("a") + b"\x09\0\0\0"
    for kind, message in ((8, "an array has 90000000 strings"), (0, "41943040 are re")):
        with path.open("wb") as file:
            file.write(start + struct.pack("<IQ", kind, 90_000_000))
            file.truncate(100 << 20)
        refused(path, message)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "a.gguf", W).read_bytes()
    n_data = W["w"].nbytes
    for size in range(1, len(content) - (32 - n_data), 7):
        (tmp_path / "a.gguf").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a\.gguf"):
            plan([tmp_path / "a.gguf"])


@settings(QUICK, max_examples=150)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8)), min_size=1
    )
)
def test_changed_bytes_are_read_or_refused(
    tmp_path: Path, changes: list[tuple[float, bytes]]
) -> None:
    content = bytearray(write(tmp_path / "a.gguf", W).read_bytes())
    for place, data in changes:
        at = int(place * len(content))
        content[at : at + len(data)] = data
    (tmp_path / "a.gguf").write_bytes(content)
    with suppress(ValueError):
        plan([tmp_path / "a.gguf"])
