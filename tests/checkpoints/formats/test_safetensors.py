"""Headers that lie, and files that others can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats.safetensors import safetensors as our_format
from tests.checkpoints.building import header_of, load, save, save_raw

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def with_header(folder: Path, header: Any, n_bytes: int = 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return save_raw(folder / "lying.safetensors", text, bytes(n_bytes))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [3]},
        {"dtype": "F32", "data_offsets": [0, 8]},
        {"shape": [2], "data_offsets": [0, 8]},
        ENTRY | {"shape": [3]},
        ENTRY | {"shape": [-2]},
        ENTRY | {"shape": [-1, -2]},
        ENTRY | {"shape": [2.0]},
        ENTRY | {"shape": [True, 2]},
        ENTRY | {"shape": 2},
        ENTRY | {"shape": {"0": 2}},
        ENTRY | {"shape": [1 << 40, 1 << 40]},
        ENTRY | {"data_offsets": [8, 0]},
        ENTRY | {"data_offsets": [-8, 0]},
        ENTRY | {"data_offsets": [0, 1 << 62]},
        ENTRY | {"data_offsets": [0, 4, 8]},
        ENTRY | {"data_offsets": "08"},
        ENTRY | {"data_offsets": [0, None]},
        ENTRY | {"shape": [4], "data_offsets": [0, 16]},
        [],
        "F32",
        None,
    ],
    ids=str,
)
def test_an_entry_that_is_wrong_names_its_tensor(tmp_path: Path, entry: Any) -> None:
    path = with_header(tmp_path, {"w": entry})
    with pytest.raises(ValueError, match=r"lying.*not a complete safetensors.*'w'"):
        our_format.read(path)


@pytest.mark.parametrize("kind", ["F16_", "C128", "f32", "", [], {}, 3, None])
def test_an_unknown_dtype_is_told_with_those_that_are_known(
    tmp_path: Path, kind: Any
) -> None:
    path = with_header(tmp_path, {"w": ENTRY | {"dtype": kind}})
    with pytest.raises(ValueError, match=r"'w' has dtype .*known: F64, F32.*convert"):
        our_format.read(path)


@pytest.mark.parametrize(
    ("kind", "way"),
    [("C64", "view_as_real"), ("F4", "it is quantized"), ("F8_E8M0", "is quantized")],
)
def test_a_dtype_without_a_mean_is_told_with_the_way(
    tmp_path: Path, kind: str, way: str
) -> None:
    path = with_header(tmp_path, {"w": ENTRY | {"dtype": kind}})
    with pytest.raises(ValueError, match=rf"has dtype {kind}, which cannot .*{way}"):
        open_checkpoint(path, 0)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1]", "not a JSON object"),
        (b"{'w': 1}", "not a JSON object"),
        (b"\xff\xfe{}", "not a JSON object"),
        (b'{"w": ' + b"[" * 100_000, "not a JSON object"),
        (b'{"w": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "a name occurs twice"),
        (b'{"w": {"dtype": "F32", "dtype": "F32"}}', "a name occurs twice"),
        (b'{"__metadata__": [1]}', "__metadata__ must be an object"),
        (b'{"__metadata__": null}', "__metadata__ must be an object"),
        (
            b'{"__metadata__": {"a": 1}}',
            r"__metadata__\['a'\] must be a string, found 1",
        ),
        (b'{"__metadata__": {"a": {"b": "c"}}}', "__metadata__.* must be a string"),
        (
            b'{"__metadata__": {"a": null}}',
            r"__metadata__\['a'\] must be a string, found None",
        ),
    ],
    ids=range(12),
)
def test_a_header_that_is_no_json_object_is_refused(
    tmp_path: Path, header: bytes, message: str
) -> None:
    path = with_header(tmp_path, header)
    with pytest.raises(ValueError, match=rf"lying.*not a complete.*{message}"):
        our_format.read(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"a": [0, 8], "b": [4, 12]},
        {"a": [0, 8], "b": [0, 8]},
        {"a": [0, 8], "b": [12, 20]},
        {"a": [4, 12]},
        {"a": [0, 8]},
    ],
    ids=["overlap", "twice", "gap", "gap at the start", "rest"],
)
def test_bytes_belong_to_one_tensor_each(
    tmp_path: Path, entries: dict[str, list[int]]
) -> None:
    header = {n: ENTRY | {"data_offsets": place} for n, place in entries.items()}
    ends = max(end for _, end in entries.values())
    for n_bytes in {8 * len(entries), ends, ends + 4} - set(range(ends)):
        path = with_header(tmp_path, header, n_bytes)
        if n_bytes == 8 * len(entries) == ends and len(entries) == 1:
            continue  # that one is in order
        with pytest.raises(
            ValueError, match=r"begin where the previous|not belong to a tensor"
        ):
            our_format.read(path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 20])
def test_a_file_cut_within_its_header_is_refused(tmp_path: Path, size: int) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(4)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"a\.safetensors.*(not a complete|truncated)"):
        our_format.read(path)


def test_a_file_cut_within_its_tensors_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(4)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"'w', F64 of shape \(4,\), needs 32 bytes"):
        our_format.read(path)


@pytest.mark.parametrize("size", [25_000_001, 1 << 40, (1 << 64) - 1])
def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(size.to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.truncate(30_000_000)  # no bytes on the disk
    with pytest.raises(ValueError, match=rf"claim a header of {size} bytes"):
        our_format.read(path)


@pytest.mark.filterwarnings("ignore:.*NaN or infinity")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_no_damage_gives_another_kind_of_error(tmp_path: Path, data: Any) -> None:
    path = save(
        tmp_path / "a.safetensors",
        {"w": np.ones((2, 2)), "b": np.ones(3, np.float16)},
        {"format": "pt"},
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 15))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message = refusal(path)
    assert message is None or str(path) in message


def refusal(path: Path) -> str | None:
    try:
        average([path, path])
    except ValueError as error:
        return str(error)
    return None


def test_what_is_written_is_read_by_its_own_library(tmp_path: Path) -> None:
    state = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "yes": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.float16),
        "brain": torch.ones(5, dtype=torch.bfloat16),
        "small": torch.ones(1, dtype=torch.float8_e4m3fn),
        "smaller": torch.ones(1, dtype=torch.float8_e5m2),
        "double": torch.ones(2, 2, dtype=torch.float64),
        "single": torch.tensor(2.0),
        "count": torch.tensor(7),
        "none": torch.ones(0, 4),
        "größe": torch.ones(1),
    }
    average([state, state], tmp_path / "a.safetensors")
    found = safetensors.torch.load_file(str(tmp_path / "a.safetensors"))
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].double(), value.double()), name


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    widths = {"a": np.uint8, "b": np.float16, "c": np.float32, "d": np.float64}
    state = {name: np.ones(3, dtype) for name, dtype in widths.items()}
    average([state], tmp_path / "a.safetensors")
    start = 8 + int.from_bytes((tmp_path / "a.safetensors").read_bytes()[:8], "little")
    header = header_of(tmp_path / "a.safetensors")
    assert start % 8 == 0
    for name, dtype in widths.items():
        assert header[name]["data_offsets"][0] % np.dtype(dtype).itemsize == 0


def test_the_library_writes_what_is_read(tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 3, generator=torch.Generator().manual_seed(0))}
    safetensors.torch.save_file(state, str(tmp_path / "a.safetensors"))
    (found,) = average([tmp_path / "a.safetensors"]).values()
    assert np.array_equal(found, state["w"].numpy())


def test_metadata_that_looks_like_a_tie_is_none(tmp_path: Path) -> None:
    """The tensor is called pt, and the format is pt."""
    path = save(tmp_path / "a.safetensors", {"pt": np.ones(2)}, {"format": "pt"})
    assert plan([path]).aliases == {}


def test_ties_noted_in_the_metadata_survive(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(2)}, {"head": "w"})
    average([path, path], tmp_path / "out.safetensors")
    assert header_of(tmp_path / "out.safetensors")["__metadata__"]["head"] == "w"
    assert list(load(tmp_path / "out.safetensors")) == ["w"]
    both = average([path, path])
    assert both["head"] is both["w"]


def test_a_tie_that_one_member_broke_is_written_out(tmp_path: Path) -> None:
    tied = save(tmp_path / "a.safetensors", {"w": np.ones(2)}, {"head": "w"})
    broken = save(tmp_path / "b.safetensors", {"w": np.ones(2), "head": np.zeros(2)})
    for members in ([tied, broken], [broken, tied]):
        found = average(members)
        assert found["w"].tolist() == [1.0, 1.0]
        assert found["head"].tolist() == [0.5, 0.5]


def test_empty_tensors_may_lie_anywhere(tmp_path: Path) -> None:
    none = {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}
    path = with_header(tmp_path, {"none": none, "w": ENTRY})
    assert set(average([path])) == {"none", "w"}


@pytest.mark.parametrize(
    ("alias", "is_noted"), [("best_layer", True), ("lm_head.weight", False)]
)
def test_an_entry_that_may_be_no_second_name_is_noted(
    alias: str, is_noted: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"head.weight": np.ones(3, np.float32)}
    safetensors.numpy.save_file(tensors, path, metadata={alias: "head.weight"})
    planned = plan([path, path])
    assert planned.aliases == {alias: "head.weight"}
    noted = f"the metadata entry '{alias}': 'head.weight' is read as a second name"
    assert any(noted in note for note in planned.notes) == is_noted


@pytest.mark.parametrize("n_header", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle_is_read(
    tmp_path: Path, n_header: int
) -> None:
    """Pickles of protocols 2 to 5 start with 0x80 and their number."""
    text = json.dumps({"w": ENTRY}).encode().ljust(n_header)
    path = save_raw(tmp_path / "a.safetensors", text, bytes(8))
    assert path.read_bytes()[0] == 0x80
    assert plan([path]).members[0].format == "safetensors"
