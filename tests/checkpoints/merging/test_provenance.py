"""The result knows what determines its tensors, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensembles
from ensembles.checkpoints import average
from ensembles.checkpoints.merging.digests import digest, sha256
from tests.checkpoints.building import header_of, pair, save, save_shards


def recipe_of(path: Path) -> dict[str, Any]:
    found = json.loads(header_of(path)["__metadata__"]["ensembles"])
    assert isinstance(found, dict)
    return found


def test_numbers_of_numpy_are_recorded_like_those_of_python(tmp_path: Path) -> None:
    out, contents = tmp_path / "out.safetensors", set()
    for number in (0.5, np.float32(0.5), np.float64(0.5)):
        how: dict[str, Any] = {"rule": "task_arithmetic", "force": True}
        base, *members = pair(tmp_path)
        average(members, out, base=base, rule_params={"scale": number}, **how)
        contents.add(out.read_bytes())
        assert recipe_of(out)["params"] == {"scale": 0.5}
    assert len(contents) == 1


def test_the_recipe_is_in_the_metadata(tmp_path: Path) -> None:
    report = average(pair(tmp_path), tmp_path / "out.safetensors", weights=[0.7, 0.3])
    assert header_of(report.out)["__metadata__"]["format"] == "pt"
    assert recipe_of(report.out) == {
        "version": ensembles.__version__,
        "rule": "mean",
        "params": {},
        "weights": [0.7, 0.3],
        "members": [f"xxh3-128:{found}" for found in report.member_digests],
        "result": f"xxh3-128:{report.digest}",
        "options": {
            "dtype": None,
            "integers": "error",
            "missing": "error",
            "include": [],
            "exclude": [],
        },
    }


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "median"},
        {"weights": [2, 1]},
        {"dtype": "float16"},
        {"integers": "max"},
        {"missing": "skip"},
        {"exclude": ["x"]},
    ],
    ids=str,
)
def test_each_thing_that_determines_tensors_is_in_the_recipe(
    tmp_path: Path, options: Any
) -> None:
    members = pair(tmp_path)
    plain = average(members, tmp_path / "a.out.safetensors")
    other = average(members, tmp_path / "b.out.safetensors", **options)
    assert recipe_of(plain.out) != recipe_of(other.out)


def test_the_order_of_members_is_part_of_the_recipe(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    one = average([a, b], tmp_path / "one.safetensors")
    two = average([b, a], tmp_path / "two.safetensors")
    assert one.member_digests == two.member_digests[::-1]
    assert recipe_of(one.out)["members"] == recipe_of(two.out)["members"][::-1]
    assert one.digest == two.digest


def test_paths_and_times_are_not_in_the_result(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    first = average([a, b], tmp_path / "one.safetensors", threads=1)
    (tmp_path / "elsewhere").mkdir()
    moved = [
        shutil.copy(path, tmp_path / "elsewhere" / f"x{path.name}") for path in (a, b)
    ]
    second = average(moved, tmp_path / "elsewhere/two.safetensors", memory=8 << 20)
    assert first.out.read_bytes() == second.out.read_bytes()
    assert str(tmp_path).encode() not in first.out.read_bytes()


def test_each_shard_and_the_index_hold_the_recipe(tmp_path: Path) -> None:
    folder = save_shards(tmp_path / "a", [{"w": np.ones(2)}, {"v": np.ones(3)}])
    average([folder], tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    recipes = [recipe_of(path) for path in (tmp_path / "out").glob("*.safetensors")]
    assert len(recipes) == 2
    assert all(found == json.loads(index["metadata"]["ensembles"]) for found in recipes)


def test_a_digest_sees_every_byte_name_dtype_and_shape(tmp_path: Path) -> None:
    base = {"w": np.arange(6, dtype=np.float32)}
    variants: list[dict[str, Any]] = [
        base,
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3)},
        {"x": base["w"]},
        {"w": base["w"].view(np.int32)},
        {"w": np.array([0, 1, 2, 3, 4, 5.000001], np.float32)},
    ]
    digests = set()
    for number, tensors in enumerate(variants):
        path = save(tmp_path / f"{number}.safetensors", tensors)
        report = average([path], tmp_path / f"{number}.out.safetensors")
        assert report.member_digests == [report.digest]
        digests.add(report.digest)
    assert len(digests) == len(variants)


def test_a_digest_is_of_blocks_in_the_order_of_names() -> None:
    f4 = np.dtype(np.float32)
    a, b = (f4, (2,), [b"1" * 16]), (f4, (2,), [b"2" * 16])
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a})
    assert digest({"a": a, "b": b}) != digest({"a": b, "b": a})


def test_a_digest_of_several_blocks_is_the_same_by_shards_and_threads(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    big: dict[str, Any] = {
        "big": rng.normal(size=2_500_000).astype(np.float32),
        "w": np.ones(3),
    }
    one = save(tmp_path / "one.safetensors", big)
    many = save_shards(tmp_path / "many", [{"w": big["w"]}, {"big": big["big"]}])
    found = {
        average([path], out, force=True, threads=n, memory=n << 22).digest
        for path in (one, many)
        for n in (1, 3)
        for out in (tmp_path / "out.safetensors", tmp_path / "out")
    }
    assert len(found) == 1
    big["big"][2_400_000] += 1
    other = save(tmp_path / "other.safetensors", big)
    assert average([other], tmp_path / "o.safetensors").digest not in found


@pytest.mark.parametrize("out", ["out.safetensors", "out"])
def test_sha256_is_of_whole_files(tmp_path: Path, out: str) -> None:
    report = average(pair(tmp_path), tmp_path / out, sha256=True)
    assert len(report.sha256) == 3
    for path, found in report.sha256.items():
        assert found == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert found == sha256(Path(path))
