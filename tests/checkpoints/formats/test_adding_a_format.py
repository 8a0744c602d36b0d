"""Formats of one's own: registered in one place, then used as any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import average, make_soup, plan
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.checkpoint import Checkpoint, FileSource, Tensor
from ensembles.checkpoints.formats.output import OutputFile, Sink, file_sinks
from ensembles.checkpoints.formats.table import FileHead
from ensembles.registry import register
from ensembles_cli.main import cli

MAGIC = b"RAW1"
STEPS = (900, 1000, 1100)


def encode(layout: Any, aliases: Any, metadata: Any) -> bytes:
    """Magic bytes, length and JSON of the header; tensors follow without gaps."""
    entries = {name: [str(dtype), shape] for name, (dtype, shape) in layout.items()}
    text = json.dumps([entries, dict(aliases), dict(metadata)]).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text


def write_raw(file: OutputFile) -> Iterator[Mapping[str, Sink]]:
    header = encode(file.layout, file.aliases, file.metadata)
    with file.path.open("wb", buffering=0) as opened:
        yield file_sinks(opened.fileno(), file.layout, len(header))
        opened.write(encode(file.layout, file.aliases, file.metadata))


def read_raw(path: Path, name: str) -> Checkpoint:
    file = FileSource(path)
    n_header = int.from_bytes(file.read(0, 8)[4:], "little")
    entries, aliases, metadata = json.loads(file.read(8, n_header))
    layout, offset = {}, 8 + n_header
    for key, (dtype, shape) in entries.items():
        layout[key] = Tensor(np.dtype(dtype), tuple(shape), file, offset)
        offset += layout[key].nbytes
    if offset != file.size:
        raise ValueError(f"{path} must have {offset} bytes, found {file.size}")
    return Checkpoint(str(path), name, path, layout, aliases, metadata=metadata)


def is_raw(head: FileHead) -> bool:
    return head.start.startswith(MAGIC)


@pytest.fixture
def raw5() -> Iterator[str]:
    @register(
        FORMATS,
        suffixes=(".raw5",),
        matches=is_raw,
        write=write_raw,
        keeps_metadata=True,
        main_files=("model.raw5",),
    )
    def raw5(path: Path) -> Checkpoint:
        """Read the layout of a file with a JSON header."""
        return read_raw(path, "raw5")

    yield "raw5"
    del FORMATS["raw5"]


@pytest.fixture
def old() -> Iterator[str]:
    @register(FORMATS, suffixes=(".old",))
    def old(path: Path) -> Checkpoint:
        """Read the layout of a file that is no longer written."""
        return read_raw(path, "old")

    yield "old"
    del FORMATS["old"]


def save_raw5(path: Path, tensors: Mapping[str, Any]) -> Path:
    """Write a file without the library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    header = encode({n: (a.dtype, a.shape) for n, a in arrays.items()}, {}, {})
    path.write_bytes(header + b"".join(a.tobytes() for a in arrays.values()))
    return path


def values(path: Path) -> dict[str, Any]:
    return {name: value.tolist() for name, value in average([path]).items()}


def state(value: float) -> dict[str, Any]:
    return {"w": np.full((2, 3), value, np.float32), "v": np.full(4, -float(value))}


def run_of(folder: Path, suffix: str) -> list[Path]:
    return [save_raw5(folder / f"model_{n}{suffix}", state(n)) for n in STEPS]


def ensemble(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["avg", *map(str, arguments)])


def test_its_average_is_that_of_safetensors(raw5: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    members: dict[str, list[Path]] = {"raw5": [], "safetensors": []}
    for index in range(3):
        tensors = {"w": rng.normal(size=(300, 700)).astype(np.float32)}
        members["raw5"].append(save_raw5(tmp_path / f"{index}.raw5", tensors))
        members["safetensors"].append(tmp_path / f"{index}.safetensors")
        save_file(tensors, members["safetensors"][-1])
    out, expected = tmp_path / "out.raw5", tmp_path / "out.safetensors"
    report = average(members["raw5"], out, weights=[1, 2, 3], memory=4 << 20)
    expected_report = average(members["safetensors"], expected, weights=[1, 2, 3])
    assert average([out])["w"].tobytes() == load_file(expected)["w"].tobytes()
    assert report.digest == expected_report.digest
    assert report.member_digests == expected_report.member_digests
    assert report.plan.peak_bytes <= 4 << 20
    provenance = json.loads(open_checkpoint(out, 0).metadata["ensembles"])
    assert provenance["members"] == [
        f"xxh3-128:{digest}" for digest in report.member_digests
    ]


def test_aliases_and_other_formats_are_kept(raw5: str, tmp_path: Path) -> None:
    tied = np.ones(3)
    average([{"a": tied, "b": tied}], tmp_path / "out.raw5")
    average([tmp_path / "out.raw5"], tmp_path / "out.pt")
    average([tmp_path / "out.pt"], tmp_path / "back.raw5")
    assert open_checkpoint(tmp_path / "back.raw5", 0).aliases == {"b": "a"}
    assert values(tmp_path / "back.raw5") == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_content_decides_before_the_suffix(raw5: str, tmp_path: Path) -> None:
    path = save_raw5(tmp_path / "a.pt", state(1))
    assert open_checkpoint(path, 0).format == "raw5"


def test_the_last_steps_of_a_run_are_averaged_by_the_command(
    raw5: str, tmp_path: Path
) -> None:
    run_of(tmp_path / "run", ".raw5")
    out = tmp_path / "out.raw5"
    result = ensemble(tmp_path / "run", "--last", "2", "-o", out)
    assert result.exit_code == 0, result.output
    assert values(out)["v"] == [-1050.0] * 4
    again = ensemble(tmp_path / "run", "--last", "1", "-o", out)
    assert again.exit_code == 1
    assert "exists" in again.stderr
    assert ensemble(out, out, "-o", out, "--force").exit_code == 1
    other = tmp_path / "run" / "averaged_1200.raw5"
    average([out], other)
    listed = ensemble(tmp_path / "run", "--last", "3", "--plan", "-o", "x.raw5")
    assert "averaged_1200.raw5: their metadata" in listed.stderr


def test_it_is_a_main_and_an_additional_file_of_directories(
    raw5: str, tmp_path: Path
) -> None:
    for name, value in {"a": 1.0, "b": 3.0}.items():
        save_raw5(tmp_path / name / "model.raw5", state(value))
        save_raw5(tmp_path / name / "head.raw5", {"bias": np.full(2, value)})
        (tmp_path / name / "config.json").write_text("{}")
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "head.raw5", "model.safetensors"]
    assert values(tmp_path / "out" / "head.raw5") == {"bias": [2.0, 2.0]}
    assert values(tmp_path / "out")["head/bias"] == [2.0, 2.0]


def test_safetensors_are_preferred_to_a_format_that_is_registered_before_them(
    raw5: str, tmp_path: Path
) -> None:
    for name in [name for name in FORMATS if name != raw5]:
        FORMATS[name] = FORMATS.pop(name)
    assert next(iter(FORMATS)) == raw5
    save_raw5(tmp_path / "a" / "model.raw5", state(1))
    save_file(state(2), tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "config.json").write_text("{}")
    assert values(tmp_path / "a")["v"] == [-2.0] * 4


def test_an_error_leaves_no_file_and_keeps_the_old_one(
    raw5: str, tmp_path: Path
) -> None:
    members = [save_raw5(tmp_path / f"{n}.raw5", {"n": np.array([n])}) for n in (1, 2)]
    out = tmp_path / "out.raw5"
    with pytest.raises(ValueError, match="integer tensor 'n' differs"):
        average(members, out)
    assert not out.exists()
    save_raw5(out, state(7))
    before = out.read_bytes()
    with pytest.raises(ValueError, match="integer tensor 'n' differs"):
        average(members, out, force=True)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("1.raw5", "2.raw5", "out.raw5")
    ]


def test_a_damaged_file_is_named(raw5: str, tmp_path: Path) -> None:
    path = save_raw5(tmp_path / "a.raw5", state(1))
    path.write_bytes(path.read_bytes()[:-1])
    result = ensemble(path, "-o", tmp_path / "out.raw5")
    assert result.exit_code == 1
    assert f"{path} must have" in result.stderr


def test_candidates_of_a_soup_have_this_format(raw5: str, tmp_path: Path) -> None:
    members = run_of(tmp_path, ".raw5")
    suffixes = []

    def score(path: Path) -> float:
        suffixes.append(path.suffix)
        return -abs(float(average([path])["v"][0]) + 1050)

    make_soup(members, score, tmp_path / "soup.raw5")
    assert set(suffixes) == {".raw5"}
    assert values(tmp_path / "soup.raw5")["v"] == [-1050.0] * 4


def test_a_format_with_a_reader_only_is_read_everywhere(
    old: str, tmp_path: Path
) -> None:
    run_of(tmp_path / "run", ".old")
    out = tmp_path / "out.safetensors"
    result = ensemble(tmp_path / "run", "--last", "2", "-o", out)
    assert result.exit_code == 0, result.output
    assert load_file(out)["v"].tolist() == [-1050.0] * 4


def test_a_format_with_a_reader_only_is_not_written(old: str, tmp_path: Path) -> None:
    members = run_of(tmp_path / "run", ".old")
    message = r"out\.old has the format 'old', which can only be read; .*\.safetensors,"
    with pytest.raises(ValueError, match=message):
        average(members, tmp_path / "out.old")
    result = ensemble(*members, "-o", tmp_path / "out.old")
    assert result.exit_code == 1
    assert "which can only be read" in result.stderr
    assert not (tmp_path / "out.old").exists()


def test_an_additional_file_that_cannot_be_written_is_left_out(
    old: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    save_file(state(1), folder / "model.safetensors")
    save_raw5(folder / "head.old", {"bias": np.ones(2)})
    planned = plan([folder], tmp_path / "out")
    assert any("head.old (format 'old' can only be read)" in n for n in planned.notes)
    assert list(planned.parts) == ["model.safetensors"]


def test_the_key_of_a_state_dict_has_no_effect(old: str, tmp_path: Path) -> None:
    path = save_raw5(tmp_path / "a.old", state(1))
    assert any("key ema has no effect" in n for n in plan([path], key="ema").notes)


def test_an_additional_file_of_another_format_than_its_suffix_is_left_out(
    raw5: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    save_file(state(1), folder / "model.safetensors")
    save_raw5(folder / "head.bin", {"bias": np.ones(2)})
    planned = plan([folder], tmp_path / "out")
    reason = "head.bin (its format 'raw5' does not have this suffix)"
    assert any(reason in note for note in planned.notes)


def test_a_damaged_file_of_a_run_has_no_metadata(raw5: str, tmp_path: Path) -> None:
    paths = run_of(tmp_path / "run", ".raw5")
    paths[0].write_bytes(MAGIC)
    out = tmp_path / "out.raw5"
    assert ensemble(tmp_path / "run", "--last", "2", "-o", out).exit_code == 0


@pytest.fixture
def narrow() -> Iterator[str]:
    """A format with properties that restrict where and what it stores."""

    @register(
        FORMATS,
        suffixes=(".narrow",),
        matches=is_raw,
        write=write_raw,
        keeps_aliases=False,
        dtypes=frozenset({np.dtype(np.float32)}),
        needs_first=True,
        in_directories=False,
    )
    def narrow(path: Path) -> Checkpoint:
        """Read the layout of a file of float32 tensors."""
        return read_raw(path, "narrow")

    yield "narrow"
    del FORMATS["narrow"]


def test_tensors_that_it_cannot_store_are_problems_of_the_plan(
    narrow: str, tmp_path: Path
) -> None:
    member = save_raw5(tmp_path / "a.narrow", state(1) | {"n": np.arange(3)})
    with pytest.raises(ValueError, match="cannot store float64") as caught:
        plan([member], tmp_path / "out.narrow")
    lines = str(caught.value).splitlines()
    assert [line.partition(";")[2] for line in lines] == [
        " pass dtype='float32' (--dtype float32), or choose another format, such as "
        ".safetensors",
        " choose another format, such as .safetensors",
    ]
    report = average([member], tmp_path / "o.narrow", dtype="float32", exclude=["n"])
    assert report.plan.format == "narrow"


def test_the_first_member_has_the_format_if_it_must(
    narrow: str, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="must have a first member of the format 'narr"
    ):
        plan([state(1)], tmp_path / "out.narrow", dtype="float32")


def test_aliases_that_it_does_not_store_are_tensors(
    narrow: str, tmp_path: Path
) -> None:
    tied = np.ones(3, np.float32)
    member = save_raw5(tmp_path / "a.narrow", {"w": tied})
    average([member], tmp_path / "one.narrow")
    header = encode({"a": (tied.dtype, tied.shape)}, {"b": "a"}, {})
    (tmp_path / "tied.narrow").write_bytes(header + tied.tobytes())
    average([tmp_path / "tied.narrow"], tmp_path / "out.narrow")
    found = open_checkpoint(tmp_path / "out.narrow", 0)
    assert (list(found.layout), found.aliases) == (["a", "b"], {})


def test_it_is_not_a_part_of_a_directory_if_it_must_not(
    narrow: str, tmp_path: Path
) -> None:
    save_file(state(1), tmp_path / "model.safetensors")
    save_raw5(tmp_path / "data.narrow", {"w": np.ones(3, np.float32)})
    planned = plan([tmp_path], tmp_path.with_name("out"))
    assert list(planned.parts) == ["model.safetensors"]
    assert planned.members[0].files == ["data.narrow"]
