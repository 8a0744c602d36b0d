"""Averages in the first member's file: its other contents stay as they are."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan, verify
from ensembles.checkpoints.formats.checkpoint import FileSource, Tensor
from ensembles.checkpoints.formats.output import OutputFile, Template
from ensembles.checkpoints.formats.pytorch_files.writing import write


def model(seed: int) -> dict[str, torch.Tensor]:
    """A state dict with tied tensors, views, empty tensors and several dtypes."""
    first, rng = torch.Generator().manual_seed(9), torch.Generator().manual_seed(seed)

    def tuned(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=first, dtype=torch.float64)
        return values + torch.randn(shape, generator=rng, dtype=torch.float64) / 10

    flat = tuned(60).float()
    return OrderedDict(
        {
            "module.embedding": tuned(70, 50).bfloat16(),
            "module.view": flat[10:20],
            "module.matrix": flat[20:50].view(5, 6),
            "module.empty": torch.zeros(0, 3),
            "module.double": tuned(5),
            "module.steps": torch.tensor(7),
            "module.mask": torch.tensor([True, False]),
        }
    )


def checkpoint(seed: int) -> dict[str, Any]:
    """What a trainer saves: nested, with an optimizer that has the same layout."""
    state = model(seed)
    state["module.head"] = state["module.embedding"]
    moments = {i: {"exp_avg": v.clone() + seed} for i, v in enumerate(state.values())}
    return {
        "epoch": 3 + seed,
        "model": state,
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1 * seed}]}],
        "random": torch.get_rng_state(),
    }


def members(folder: Path, **options: Any) -> list[Path]:
    paths = [folder / f"{name}.ckpt" for name in "abc"]
    for seed, path in enumerate(paths):
        torch.save(checkpoint(seed), path, **options)
    return paths


def entries(path: Path) -> dict[str, bytes]:
    """Bytes of each entry, from its local header to its end."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        ends = [info.header_offset for info in infos[1:]] + [archive.start_dir]
    return {
        info.filename: content[info.header_offset : end]
        for info, end in zip(infos, ends, strict=True)
    }


def same(a: Any, b: Any) -> bool:
    """Whether two nested objects have the same types and values."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        pairs = a.keys() == b.keys() and type(a) is type(b)
        return pairs and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_only_the_averaged_tensors_differ_from_the_first_member(
    tmp_path: Path, is_zip: bool
) -> None:
    paths = members(tmp_path, _use_new_zipfile_serialization=is_zip)
    average(paths, tmp_path / "out.ckpt", key="model")
    found = torch.load(tmp_path / "out.ckpt", weights_only=True)
    first, *others = [torch.load(path, weights_only=True) for path in paths]
    states = [first.pop("model"), *(other["model"] for other in others)]
    result = found.pop("model")
    assert same(found, first)
    assert type(result) is OrderedDict
    assert list(result) == list(states[0])
    assert result["module.head"].data_ptr() == result["module.embedding"].data_ptr()
    for name, value in result.items():
        if value.is_floating_point():
            expected = (sum(state[name].double() for state in states) / 3).to(value)
            rtol = 1e-15 if value.dtype == torch.float64 else 0
            torch.testing.assert_close(value, expected, rtol=rtol, atol=0)
        else:
            assert torch.equal(value, states[0][name])


def test_every_entry_but_the_averaged_storages_keeps_its_bytes(tmp_path: Path) -> None:
    paths = members(tmp_path)
    average(paths, tmp_path / "out.ckpt", key="model")
    before, after = entries(paths[0]), entries(tmp_path / "out.ckpt")
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    # The embedding, the views and the doubles; the other tensors are equal integers.
    assert changed == {f"a/data/{i}" for i in (0, 1, 3)}
    view = torch.load(tmp_path / "out.ckpt", weights_only=True)["model"]["module.view"]
    whole = torch.load(paths[0], weights_only=True)["model"]["module.view"]
    for rest in (slice(10), slice(50, 60)):  # no tensor of the model has these
        a, b = (
            torch.tensor(v.untyped_storage()).view(torch.float32) for v in (view, whole)
        )
        assert torch.equal(a[rest], b[rest])


def test_the_copy_does_not_depend_on_threads_and_memory(tmp_path: Path) -> None:
    paths = members(tmp_path)
    outs = [tmp_path / f"{i}.pt" for i in range(3)]
    for out, (threads, memory) in zip(
        outs, [(1, 2 << 20), (2, 64 << 20), (4, 8 << 20)], strict=True
    ):
        average(paths, out, key="model", threads=threads, memory=memory)
    assert len({out.read_bytes() for out in outs}) == 1


def test_a_copy_of_one_member_has_its_bytes(tmp_path: Path) -> None:
    path = members(tmp_path)[0]
    average([path], tmp_path / "out.pt", key="model")
    content, copy = path.read_bytes(), (tmp_path / "out.pt").read_bytes()
    assert copy[: len(content) - 2] == content[:-2]  # the length of the comment follows
    assert copy[len(content) :].startswith(b'{"ensembles":')


@pytest.mark.parametrize("mmap", [False, True])
def test_a_copy_stores_the_provenance_in_place_of_an_earlier_one(
    tmp_path: Path, mmap: bool
) -> None:
    paths = members(tmp_path)
    average(paths, tmp_path / "mean.pt", key="model")
    average([tmp_path / "mean.pt", *paths], tmp_path / "out.pt", key="model")
    assert (tmp_path / "out.pt").read_bytes().count(b'"ensembles":') == 1
    found = verify(tmp_path / "out.pt", [tmp_path / "mean.pt", *paths], key="model")
    assert found.is_intact
    assert len(found.recipe["members"]) == 4  # type: ignore[index]
    loaded = torch.load(tmp_path / "out.pt", weights_only=True, mmap=mmap)
    expected = torch.load(paths[0], weights_only=True)
    assert loaded.keys() == expected.keys()


def test_a_copy_is_verified_by_the_key_of_its_average(tmp_path: Path) -> None:
    states = [
        {"model": {"w": torch.full((2,), v)}, "ema": {"w": torch.ones(2) * v}}
        for v in (1.0, 4.0)
    ]
    paths = [tmp_path / f"{name}.pt" for name in "ab"]
    for state, path in zip(states, paths, strict=True):
        torch.save(state, path)
    average(paths, tmp_path / "out.pt", key="ema")
    assert verify(tmp_path / "out.pt").is_intact
    average(paths, tmp_path / "w.pt", key="ema", only_weights=True)
    assert verify(tmp_path / "w.pt").is_intact


@pytest.mark.parametrize("ending", ["comment", "bytes", "legacy"])
def test_a_copy_that_cannot_store_the_provenance_says_so(
    tmp_path: Path, ending: str
) -> None:
    paths = members(tmp_path, _use_new_zipfile_serialization=ending != "legacy")
    if ending == "comment":
        with zipfile.ZipFile(paths[0], "a") as archive:
            archive.comment = b"of another program"
    elif ending == "bytes":
        paths[0].write_bytes(paths[0].read_bytes() + b"rest")
    notes = plan(paths, tmp_path / "out.pt", key="model").notes
    assert [n for n in notes if "does not store the provenance" in n]
    average(paths, tmp_path / "out.pt", key="model")
    assert (tmp_path / "out.pt").stat().st_size == paths[0].stat().st_size
    assert b'"ensembles"' not in (tmp_path / "out.pt").read_bytes()


def test_zip_files_of_other_writers_are_copied(tmp_path: Path) -> None:
    """Python stores checksums in local headers, without a descriptor or alignment."""
    path = members(tmp_path)[0]
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/." not in name]
        contents = {name: archive.read(name) for name in names}
    with zipfile.ZipFile(tmp_path / "again.pt", "w") as archive:
        archive.comment = b"a comment"
        for name, content in contents.items():
            archive.writestr(name, content)
    again, other = tmp_path / "again.pt", tmp_path / "b.ckpt"
    average([again, other], tmp_path / "out.pt", key="model")
    average([path, other], tmp_path / "expected.pt", key="model")
    entries(tmp_path / "out.pt")
    out, expected = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("out.pt", "expected.pt")
    )
    assert same(out, expected)


def test_unequal_checksums_of_an_entry_are_refused(tmp_path: Path) -> None:
    paths = members(tmp_path)
    content = bytearray(paths[0].read_bytes())
    with zipfile.ZipFile(paths[0]) as archive:
        crc = archive.getinfo("a/data/0").CRC.to_bytes(4, "little")
    content[content.index(b"PK\7\10" + crc) + 4] ^= 1
    paths[0].write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ckpt: the checksums of entry 'a/data/0'"):
        average(paths, tmp_path / "out.pt", key="model")
    assert not (tmp_path / "out.pt").exists()
    average(paths, tmp_path / "out.pt", key="model", only_weights=True)


def test_a_damaged_storage_is_found_while_it_is_read(tmp_path: Path) -> None:
    paths = members(tmp_path)
    content = bytearray(paths[1].read_bytes())
    with zipfile.ZipFile(paths[1]) as archive:
        content[content.index(archive.read("b/data/1")) + 1] ^= 1
    paths[1].write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.ckpt is damaged: entry 'b/data/1'"):
        average(paths, tmp_path / "out.pt", key="model")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt", "c.ckpt"]


def test_damage_is_named_before_the_difference_that_it_makes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path in paths:
        torch.save({"w": torch.ones(2), "count": torch.arange(90, 99)}, path)
    content = bytearray(paths[1].read_bytes())
    content[content.index(torch.arange(90, 99).numpy().tobytes())] ^= 1
    paths[1].write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.pt is damaged"):
        average(paths)
    assert plan(paths)


def test_bytes_are_read_once_for_result_and_checksum(tmp_path: Path) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    storage = torch.arange(30_000.0)
    for path in paths:
        torch.save({"w": storage[5_000:20_000], "v": storage[25_000:]}, path)
    n_read: list[int] = []
    report = average(paths, tmp_path / "out.pt", progress=n_read.append)
    assert sum(n_read) == report.plan.read_bytes
    n_storages, n_pickles = 2 * storage.nbytes, 2 * 1000
    assert n_storages <= sum(n_read) < n_storages + n_pickles


def test_a_tensor_larger_than_the_buffers_is_copied_in_blocks(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    arrays = [rng.normal(size=700_000).astype(np.float32) for _ in paths]
    for path, array in zip(paths, arrays, strict=True):
        torch.save({"w": torch.from_numpy(array), "epoch": 3}, path)
    average(paths, tmp_path / "out.pt", memory=4 << 20, threads=2)
    entries(tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["epoch"] == 3
    mean = ((arrays[0].astype(np.float64) + arrays[1]) / 2).astype(np.float32)
    np.testing.assert_array_equal(found["w"].numpy(), mean)


def test_the_legacy_format_is_copied(tmp_path: Path) -> None:
    """It has no checksums, and storages of one file one after another."""
    _, path, _ = members(tmp_path, _use_new_zipfile_serialization=False)
    file = FileSource(path)
    doubles = checkpoint(1)["model"]["module.double"].numpy()
    start = path.read_bytes().index(doubles.tobytes())
    tensors = {"double": Tensor(doubles.dtype, doubles.shape, file, start)}
    layout = {"double": (doubles.dtype, doubles.shape)}
    output = OutputFile(
        *(tmp_path / "out.pt", "out.pt", layout, {}, ("double",), {}),
        template=Template(file, tensors, []),
    )
    writer = write(output)
    next(writer)["double"].write(memoryview((doubles + 1).tobytes()), 0)
    assert next(writer, None) is None
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = torch.load(path, weights_only=True)
    expected["model"]["module.double"] += 1
    assert same(found, expected)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_strided_tensors_are_written_where_they_lie(
    tmp_path: Path, is_zip: bool
) -> None:
    first, rng = torch.Generator().manual_seed(9), torch.Generator()

    def tuned(*shape: int) -> torch.Tensor:
        start = torch.randn(shape, generator=first.manual_seed(len(shape)))
        return start + torch.randn(shape, generator=rng) / 10

    def views(seed: int) -> dict[str, torch.Tensor]:
        rng.manual_seed(seed)
        return {
            "transposed": tuned(300, 200).T,
            "columns": tuned(40, 30)[:, 5:9],
            "channels_last": tuned(5, 4, 3, 2).to(memory_format=torch.channels_last),
            "plain": tuned(7),
        }

    paths = [tmp_path / f"{name}.pt" for name in "abc"]
    for seed, path in enumerate(paths):
        content = {"model": views(seed), "epoch": seed}
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    average(paths, tmp_path / "out.pt", memory=2 << 20, threads=3)
    states = [torch.load(path, weights_only=True)["model"] for path in paths]
    result = torch.load(tmp_path / "out.pt", weights_only=True)
    assert result["epoch"] == 0
    for name, value in result["model"].items():
        stack = torch.stack([state[name].double() for state in states])
        assert torch.equal(value, stack.mean(0).float()), name
        assert value.stride() == states[0][name].stride()
    wide, before = (
        torch.tensor(state["columns"].untyped_storage()).view(torch.float32)[:1200]
        for state in (result["model"], states[0])
    )
    for columns in (slice(0, 5), slice(9, 30)):  # the tensor does not have these
        rest = [storage.view(40, 30)[:, columns] for storage in (wide, before)]
        assert torch.equal(*rest)
    if is_zip:
        before_, after = entries(paths[0]), entries(tmp_path / "out.pt")
        changed = {name for name in before_ if before_[name] != after[name]}
        assert changed == {f"a/data/{index}" for index in range(4)}


def test_expanded_tensors_are_written_as_a_plain_state_dict(tmp_path: Path) -> None:
    for name in "ab":
        state = {"w": torch.ones(1).expand(5), "v": torch.ones(2)}
        torch.save({"model": state, "epoch": 3}, tmp_path / f"{name}.pt")
    paths, out = [tmp_path / "a.pt", tmp_path / "b.pt"], tmp_path / "out.pt"
    (note,) = [n for n in plan(paths, out).notes if "contains only tensors" in n]
    assert "elements of tensor 'w' overlap in memory" in note
    average(paths, out)
    assert torch.load(out, weights_only=True)["w"].tolist() == [1.0] * 5
