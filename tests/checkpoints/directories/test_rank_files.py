"""Models saved in one file a rank, with DTensors, as torch and FSDP trainers do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.directories.rank_files import box
from ensembles.checkpoints.formats.pytorch_files.objects import Global, PickledObject
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints.directories.test_distributed import STEPS, assert_equal

pytest.importorskip("torch.distributed.tensor")


@pytest.mark.parametrize("n_ranks", [2, 4])
@pytest.mark.parametrize("layout", ["ranks", "ranks-tensor"])
def test_the_parts_of_all_ranks_are_the_whole_model(
    saved: Path, layout: str, n_ranks: int
) -> None:
    for step in STEPS:
        whole = torch.load(saved / f"whole-{step}.pt")
        assert_equal(average([saved / f"{layout}-{n_ranks}/step-{step}"]), whole)


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_placements_on_a_mesh_give_the_whole_tensor(saved: Path, n_ranks: int) -> None:
    torch.manual_seed(0)
    names = ("rows", "columns", "both", "twice", "copies")
    whole = dict.fromkeys(names, torch.randn(7, 5))
    assert_equal(average([saved / f"placement-ranks-{n_ranks}"]), whole)


def test_an_average_has_the_bytes_of_one_of_unsharded_members(
    saved: Path, tmp_path: Path
) -> None:
    found = choose_checkpoints([str(saved / "ranks-4")], last=3)
    assert [Path(path).name for path in found.paths] == [f"step-{s}" for s in STEPS]
    whole = [torch.load(saved / f"whole-{step}.pt") for step in STEPS]
    average(found.paths, tmp_path / "a.safetensors", integers="max")
    average(whole, tmp_path / "b.safetensors", integers="max")
    assert (tmp_path / "a.safetensors").read_bytes() == (
        tmp_path / "b.safetensors"
    ).read_bytes()


def test_a_missing_rank_is_named(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "ranks-4/step-100", tmp_path / "x")
    (tmp_path / "x/model_world_size_4_rank_2.pt").unlink()
    with pytest.raises(ValueError, match=r"all 4 ranks: that of rank 2 is missing"):
        plan([tmp_path / "x"])
    shutil.copy(saved / "ranks-2/step-100/model_world_size_2_rank_0.pt", tmp_path / "x")
    with pytest.raises(ValueError, match=r"models of 2 and 4 ranks"):
        plan([tmp_path / "x"])


def test_a_rank_that_is_there_twice_is_found_by_its_shapes(
    saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved / "ranks-4/step-100", tmp_path / "x")
    files = [tmp_path / f"x/model_world_size_4_rank_{rank}.pt" for rank in (0, 3)]
    shutil.copy(files[0], files[1])
    with pytest.raises(ValueError, match=r"has a part of shape \(2, 10\) in "):
        plan([tmp_path / "x"])


@pytest.mark.parametrize("n_ranks", ["0", "999999999999"])
def test_names_of_any_number_of_ranks_are_an_error(
    tmp_path: Path, n_ranks: str
) -> None:
    (tmp_path / f"model_world_size_{n_ranks}_rank_0.pt").touch()
    with pytest.raises(
        ValueError, match=rf"must have the files of all {n_ranks} ranks"
    ):
        plan([tmp_path])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.ones(8, 10), "is sharded in some files only"),
        (torch.ones(8, 10, dtype=torch.float64), "has different dtypes or shapes"),
        (torch.ones(4, 10), "has different dtypes or shapes"),
    ],
)
def test_ranks_that_differ_are_refused(
    saved: Path, tmp_path: Path, value: torch.Tensor, reason: str
) -> None:
    shutil.copytree(saved / "ranks-2/step-100", tmp_path / "x")
    file = tmp_path / "x/model_world_size_2_rank_1.pt"
    content = torch.load(file, weights_only=False)
    torch.save({**content, "0.weight": value}, file)
    with pytest.raises(ValueError, match=rf"x: tensor '0\.weight' {reason}"):
        plan([tmp_path / "x"])


def test_a_damaged_file_of_a_rank_is_found_by_its_checksums(
    saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved / "ranks-2/step-100", tmp_path / "x")
    file = tmp_path / "x/model_world_size_2_rank_1.pt"
    content = torch.load(file, weights_only=False)["0.weight"].to_local()
    data = file.read_bytes()
    at = data.index(content.numpy().tobytes())
    file.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    with pytest.raises(ValueError, match=r"rank_1\.pt is damaged: entry"):
        average([tmp_path / "x"])


def test_a_single_rank_points_to_the_directory(saved: Path) -> None:
    member = saved / "ranks-2/step-100/model_world_size_2_rank_0.pt"
    with pytest.raises(ValueError, match="pass the directory with the files of all"):
        plan([member])


def placement(kind: str, **state: Any) -> PickledObject:
    return PickledObject(Global("torch", kind), state=state)


def test_a_partial_sum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"w has the placement 'Partial'; join"):
        box((4,), [2], [0], [placement("Partial")], "w")
    with pytest.raises(ValueError, match=r"w has the placement 'Shard'"):
        box((4,), [2], [0], [placement("Shard", dim=1)], "w")
    assert box((5,), [4], [3], [placement("Shard", dim=0)], "w") == ((5,), (0,))


def test_a_strided_shard_divides_the_parts_of_all_other_axes() -> None:
    strided = placement("_StridedShard", dim=0, split_factor=2)
    plain = placement("Shard", dim=0)
    parts = [
        box((8,), [2, 2], [i, j], [strided, plain], "w") for i in (0, 1) for j in (0, 1)
    ]
    assert parts == [((0,), (2,)), ((4,), (2,)), ((2,), (2,)), ((6,), (2,))]
    with pytest.raises(ValueError, match=r"factor 2, and other axes divide it by 1"):
        box((8,), [2], [0], [strided], "w")
