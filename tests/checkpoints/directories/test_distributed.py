"""Distributed checkpoints, as torch writes them from several ranks."""

from __future__ import annotations

import errno
import io
import pickle
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.formats.distributed import items
from ensembles.checkpoints.runs.choose import choose_checkpoints
from tests.checkpoints import oracles
from tests.checkpoints.building import load

dcp = pytest.importorskip("torch.distributed.checkpoint")
STEPS = (100, 200, 1000)


def write(path: Path, content: dict[str, Any], **options: Any) -> Path:
    """Save from this process alone."""
    writer = dcp.FileSystemWriter(path, sync_files=False, **options)
    with warnings.catch_warnings(action="ignore"):  # it may not be meant
        dcp.save(content, storage_writer=writer, no_dist=True)
    return path


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("n_ranks", [2, 4])
@pytest.mark.parametrize("layout", ["fsdp", "tensor"])
def test_shards_of_all_ranks_are_the_whole_model(
    saved: Path, layout: str, n_ranks: int
) -> None:
    for step in STEPS:
        whole = torch.load(saved / f"whole-{step}.pt")
        assert_equal(average([saved / f"{layout}-{n_ranks}/step-{step}"]), whole)


def test_the_tensors_are_those_that_torch_consolidates(
    saved: Path, tmp_path: Path
) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(saved / "fsdp-4/step-100", tmp_path / "x.pt")
    content = torch.load(tmp_path / "x.pt", weights_only=False)
    assert_equal(average([saved / "fsdp-4/step-100"]), content["model"])


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_placements_on_a_mesh_give_the_whole_tensor(saved: Path, n_ranks: int) -> None:
    torch.manual_seed(0)
    names = ("rows", "columns", "both", "twice", "copies")
    whole = dict.fromkeys(names, torch.randn(7, 5))
    assert_equal(average([saved / f"placements-{n_ranks}"]), whole)


@pytest.mark.parametrize("layout", ["fsdp-2", "fsdp-4", "tensor-2", "tensor-4"])
def test_an_average_has_the_bytes_of_one_of_unsharded_members(
    saved: Path, tmp_path: Path, layout: str
) -> None:
    whole = [torch.load(saved / f"whole-{step}.pt") for step in STEPS]
    average(
        [saved / f"{layout}/step-{step}" for step in STEPS],
        tmp_path / "sharded.safetensors",
        weights=[1, 2, 3],
        integers="max",
    )
    average(whole, tmp_path / "whole.safetensors", weights=[1, 2, 3], integers="max")
    sharded = load(tmp_path / "sharded.safetensors")
    unsharded = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "sharded.safetensors").read_bytes() == unsharded
    for name, tensor in sharded.items():
        if tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16":
            stack = [state[name].float().numpy() for state in whole]
            expected = oracles.mean(stack, [1, 2, 3], tensor.dtype)
            np.testing.assert_array_equal(tensor, expected)


def test_the_optimizer_is_left_out_with_a_note(saved: Path) -> None:
    nested = "\n".join(plan([saved / "fsdp-2/step-100"]).notes)
    assert "left out, as training state: optimizer (" in nested
    flat = plan([saved / "flat-2"])
    assert "optimizer (" in "\n".join(flat.notes)
    assert "train_state (1 tensor)" in "\n".join(flat.notes)
    whole = torch.load(saved / "whole-1000.pt")
    assert {target.name for target in flat.targets} == whole.keys()
    assert plan([saved / "flat-2"], key=()).notes == flat.notes  # as the command does


def test_the_recipe_with_an_application_around_the_model_is_read(
    tmp_path: Path,
) -> None:
    state = {"0.weight": torch.ones(2), "0.bias": torch.zeros(2)}
    optim = {"state": {"0.weight": {"exp_avg": torch.ones(2)}}}
    path = write(tmp_path / "x", {"app": {"model": state, "optim": optim}})
    assert_equal(average([path]), state)
    planned = plan([path])
    assert planned.members[0].keys == ("app.model",)
    assert "training state: app.optim (1 tensor)" in "\n".join(planned.notes)


def test_a_key_chooses_any_state_dict(tmp_path: Path) -> None:
    content = {
        "model": {"w": torch.zeros(2)},
        "ema": {"w": torch.ones(2)},
        "optimizer": {"state": {"w": {"exp_avg": torch.full((2,), 3.0)}}},
    }
    path = write(tmp_path / "x", content)
    assert any("'ema'" in note for note in plan([path]).notes)
    assert average([path], key="ema")["w"].tolist() == [1, 1]
    assert average([path], key="optimizer.state.w")["exp_avg"].tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"x has no key 'avg'"):
        plan([path], key="avg")


def test_training_state_alone_is_not_a_model(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"optimizer": {"state": {"w": torch.ones(2)}}})
    with pytest.raises(ValueError, match=r"training state alone, under optimizer; "):
        plan([path])
    assert average([path], key="optimizer.state")["w"].tolist() == [1, 1]


def test_values_that_are_not_tensors_are_named(tmp_path: Path) -> None:
    state = {"module.w": torch.ones(2), "module._extra_state": {"amax": 3}}
    path = write(tmp_path / "x", {"model": state, "step": 5})
    notes = "\n".join(plan([path]).notes)
    assert "not tensors: model.module._extra_state" in notes
    assert [target.name for target in plan([path]).targets] == ["w"]


def test_files_of_ranks_may_be_safetensors(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    state = {"w": torch.randn(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)}
    path = write(
        tmp_path / "x",
        {"model": state},
        serialization_format=SerializationFormat.SAFETENSORS,
    )
    assert_equal(average([path]), state)
    other = write(
        tmp_path / "y",
        {"model": {**state, "w": torch.randn(4, 3)}},
        serialization_format=SerializationFormat.SAFETENSORS,
    )
    shutil.copy(other / "__0_0.distcp", path)
    with pytest.raises(ValueError, match=r"'w' must be float32 of shape \(3, 4\) by"):
        plan([path])


def test_megatron_has_the_optimizer_beside_the_names_of_the_model(
    tmp_path: Path,
) -> None:
    state = {
        "decoder.layers.mlp.linear_fc1.weight": torch.ones(2, 3),
        "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight": torch.ones(6),
        "chained_0.optimizer.state.fp32_param.x": torch.ones(6),
        "decoder.layers.mlp.linear_fc1._extra_state/shard_0_2": io.BytesIO(b"x"),
        "rng_state/shard_0.0_1.1": io.BytesIO(b"x"),
    }
    path = write(tmp_path / "iter_0000100", state)
    torch.save({"args": 1}, path / "common.pt")
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    planned = plan([path], tmp_path / "out")
    notes = "\n".join(planned.notes)
    assert [t.name for t in planned.targets] == ["decoder.layers.mlp.linear_fc1.weight"]
    assert "optimizer (1 tensor), chained_0.optimizer (1 tensor)" in notes
    assert "linear_fc1._extra_state/shard_0_2" in notes
    assert "rng_state" not in notes
    assert "not in the result: common.pt" in notes
    assert planned.members[0].files == []


@pytest.mark.parametrize("folder", ["", "model_and_optim", "pytorch_model_fsdp_0"])
def test_the_last_steps_of_a_run_are_found(
    saved: Path, tmp_path: Path, folder: str
) -> None:
    for step in STEPS:
        step_folder = tmp_path / f"run/step{step}"
        shutil.copytree(saved / f"fsdp-2/step-{step}", step_folder / folder)
        shutil.copytree(saved / "flat-2", step_folder / "optimizer_0")
        (step_folder / "config.json").write_text('{"model_type": "x"}')
    found = choose_checkpoints([str(tmp_path / "run")], last=2)
    assert [Path(path).name for path in found.paths] == ["step200", "step1000"]
    average(found.paths, tmp_path / "out", integers="max", force=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    single = choose_checkpoints([str(tmp_path / "run/step200")], last=1)
    assert single.paths == [str(tmp_path / "run/step200")]


def test_a_directory_gets_new_files_of_a_size(saved: Path, tmp_path: Path) -> None:
    member = saved / "fsdp-4/step-100"
    planned = plan([member], tmp_path / "out", shard_size=400)
    assert len(planned.parts) > 1
    assert all(part.startswith("model-0000") for part in planned.parts)
    assert "has no config.json" in "\n".join(planned.notes)
    report = average([member], tmp_path / "out", sha256=True)
    assert report.files == ["model.safetensors"]
    assert len([path for path in report.sha256 if path.endswith(".distcp")]) == 4


def test_two_models_in_a_directory_are_not_chosen_from(tmp_path: Path) -> None:
    for index in range(2):
        write(tmp_path / f"x/pytorch_model_fsdp_{index}", {"w": torch.ones(2)})
    with pytest.raises(ValueError, match=r"x has 2 models: pytorch_model_fsdp_0, "):
        plan([tmp_path / "x"])


def remove_metadata(path: Path) -> None:
    (path / ".metadata").unlink()


def remove_rank(path: Path) -> None:
    (path / "__1_0.distcp").unlink()


def truncate_rank(path: Path) -> None:
    data = (path / "__1_0.distcp").read_bytes()
    (path / "__1_0.distcp").write_bytes(data[:-3000])


def truncate_metadata(path: Path) -> None:
    data = (path / ".metadata").read_bytes()
    (path / ".metadata").write_bytes(data[: len(data) // 2])


def edited(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change the objects of ``.metadata``."""

    def damage(path: Path) -> None:
        metadata = pickle.loads((path / ".metadata").read_bytes())
        change(metadata)
        (path / ".metadata").write_bytes(pickle.dumps(metadata))

    return damage


def described(metadata: Any) -> Any:
    return metadata.state_dict_metadata["model.0.weight"]


def chunks(metadata: Any) -> Any:
    return described(metadata).chunks


def item(metadata: Any) -> Any:
    index = type(next(iter(metadata.storage_data)))("model.0.weight", (0, 0))
    return metadata.storage_data[index]


def lose_item(metadata: Any) -> None:
    metadata.storage_data = {
        index: place
        for index, place in metadata.storage_data.items()
        if index.fqn != "model.0.weight"
    }


def overlap(metadata: Any) -> None:
    """The second chunk at the place of the first: the tensor exceeds the file."""
    index = type(next(iter(metadata.storage_data)))("model.0.weight", (4, 0))
    metadata.storage_data[index] = item(metadata)


def deepen(metadata: Any) -> None:
    metadata.planner_data["model.0.weight"] = ("model",) * 65


def nest(metadata: Any) -> None:
    metadata.planner_data["model.0.bias"] = ("model",)


def set_class(metadata: Any) -> None:
    metadata.state_dict_metadata["model.0.weight"] = Path("x")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no metadata": (remove_metadata, r"without \.metadata, which is written last"),
    "no file of a rank": (remove_rank, r"__1_0\.distcp, which \.metadata names, does"),
    "truncated file": (truncate_rank, r"__1_0\.distcp must have at least \d+ bytes"),
    "truncated metadata": (truncate_metadata, r"does not describe a distributed"),
    "missing chunk": (
        edited(lambda m: chunks(m).pop()),
        r"'0\.weight' is not complete or damaged: its chunks have \d+ of 80",
    ),
    "overlap": (
        edited(lambda m: setattr(chunks(m)[0], "sizes", torch.Size((5, 10)))),
        "its chunks overlap",
    ),
    "outside": (
        edited(lambda m: setattr(chunks(m)[1], "sizes", torch.Size((9, 10)))),
        "is not inside",
    ),
    "small item": (
        edited(lambda m: setattr(item(m), "length", 20)),
        r"needs 160 bytes, its item in __0_0\.distcp has 20",
    ),
    "negative offset": (
        edited(lambda m: setattr(item(m), "offset", -1)),
        "has the size or position",
    ),
    "overlapping items": (edited(overlap), r"and 'model\.0\.weight' overlap"),
    "no chunks": (
        edited(lambda m: setattr(described(m), "chunks", None)),
        r"'model\.0\.weight' must have a list of chunks",
    ),
    "no dtype": (
        edited(lambda m: setattr(described(m), "properties", None)),
        r"'model\.0\.weight' must have properties with a dtype",
    ),
    "dtype that is not one": (
        edited(lambda m: setattr(described(m).properties, "dtype", "float32")),
        r"'model\.0\.weight': a dtype must be one of torch",
    ),
    "deep keys": (edited(deepen), r"'model\.0\.weight' has 65 keys"),
    "tensor as mapping": (edited(nest), r"both a tensor and a mapping at 'model'"),
    "other folder": (
        edited(lambda m: setattr(item(m), "relative_path", "../x")),
        r"is outside of its folder: '\.\./x'",
    ),
    "compressed": (
        edited(lambda m: setattr(item(m), "transform_descriptors", ["zstd"])),
        "is compressed or encrypted",
    ),
    "unknown class": (edited(set_class), r"expected, found an object of pathlib\."),
    "no item": (edited(lose_item), r"the chunk of tensor .* has no item"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_clear_error(
    saved: Path, tmp_path: Path, damage: str
) -> None:
    run, reason = DAMAGES[damage]
    shutil.copytree(saved / "fsdp-2/step-100", tmp_path / "x")
    run(tmp_path / "x")
    with pytest.raises(ValueError, match=reason) as raised:
        plan([tmp_path / "x"])
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "x") in str(raised.value)


def test_items_of_another_checkpoint_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "fsdp-2/step-100", tmp_path / "x")

    def swap(metadata: Any) -> None:
        bias = type(next(iter(metadata.storage_data)))("model.0.bias", (0,))
        first, second = metadata.storage_data[bias], item(metadata)
        first.offset, second.offset = second.offset, first.offset
        first.length, second.length = second.length, first.length

    edited(swap)(tmp_path / "x")
    with pytest.raises(
        ValueError, match=r"must be float32 of shape .* by \.metadata, found"
    ):
        average([tmp_path / "x"])


def test_a_file_of_one_rank_points_to_its_directory(saved: Path) -> None:
    member = saved / "fsdp-2/step-100/__0_0.distcp"
    with pytest.raises(ValueError, match="chunks of one rank; pass its directory"):
        plan([member])


def test_more_files_than_can_be_open_are_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(items, "FileSource", fail)
    with pytest.raises(ValueError, match=r"step-100 has 4 files.*ulimit -n"):
        plan([saved / "fsdp-4/step-100"])


class Trap:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


def set_trap(place: str, canary: Path, metadata: Any) -> None:
    setattr(metadata, place, Trap(canary))


def test_nothing_in_the_metadata_is_run(saved: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for place in ("planner_data", "storage_meta", "state_dict_metadata", "version"):
        shutil.copytree(saved / "fsdp-2/step-100", tmp_path / place)
        edited(partial(set_trap, place, canary))(tmp_path / place)
        canary.unlink(missing_ok=True)
        try:
            plan([tmp_path / place])
        except ValueError:
            assert place in ("planner_data", "state_dict_metadata")
        assert not canary.exists()


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_of_the_metadata_are_read_or_refused(
    saved: Path, tmp_path: Path, data: st.DataObject
) -> None:
    original = saved / "fsdp-2/step-100"
    content = bytearray((original / ".metadata").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    if not (tmp_path / "x").exists():
        shutil.copytree(original, tmp_path / "x")
    (tmp_path / "x/.metadata").write_bytes(content)
    try:
        plan([tmp_path / "x"])
    except ValueError as error:
        message = str(error)
        assert str(tmp_path / "x") in message  # most are read
