"""When the first member's file is copied, and what the notes say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ensembles.checkpoints import average, plan

STATE = {"w": torch.ones(3), "v": torch.zeros(2)}
KEPT = "out.pt keeps the other contents of the first member,"


def members(folder: Path, *states: Any) -> list[Path]:
    paths = [folder / f"{name}.pt" for name in "ab"]
    for path, state in zip(paths, states or (STATE, STATE), strict=True):
        torch.save({"model": state, "optimizer": {"lr": 0.1}, "epoch": 3}, path)
    return paths


def note(paths: Any, out: Path, **options: Any) -> str:
    """Note about other contents; it agrees with the templates of the plan."""
    planned = plan(paths, out, key="model", **options)
    (found,) = [n for n in planned.notes if " contents of" in n or "only tensors" in n]
    assert ("keeps the other contents" in found) == bool(planned.templates)
    return found.replace(f"{out.parent}/", "")


def test_the_note_names_the_contents_that_are_kept(tmp_path: Path) -> None:
    paths = members(tmp_path)
    expected = (
        "out.pt keeps the other contents of the first member, a.pt: optimizer, epoch"
    )
    assert note(paths, tmp_path / "out.pt") == expected


def test_contents_are_named_at_each_level(tmp_path: Path) -> None:
    state = {**STATE, "_extra": {"scale": 2}}
    content = {"run": {"ema.model": state, "step": 3}, "seed": 1}
    torch.save(content, tmp_path / "a.pt")
    planned = plan([tmp_path / "a.pt"], tmp_path / "o.pt", key="run.ema.model")
    (found,) = planned.members[0].beside.values()
    assert sorted(found) == ["run.ema.model._extra", "run.step", "seed"]
    torch.save([STATE, 3], tmp_path / "a.pt")
    planned = plan([tmp_path / "a.pt"], tmp_path / "o.pt", key="0")
    assert planned.members[0].beside == {"a.pt": ["1"]}


def test_contents_that_change_with_the_tensors_are_named(tmp_path: Path) -> None:
    empty = torch.zeros(0)
    content = {
        "model": {**STATE, "empty": empty},
        "best": [{"w": STATE["w"]}],
        "loss": STATE["v"][0],
        "other": {"w": torch.ones(3), "empty": empty, "s": torch.eye(2).to_sparse()},
    }
    torch.save(content, tmp_path / "a.pt")
    found = note([tmp_path / "a.pt"], tmp_path / "out.pt")
    shared = "(shares memory with the averaged tensors)"
    assert found.endswith(f": best {shared}, loss {shared}, other")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"only_weights": True}, "only_weights=True"),
        ({"dtype": "bf16"}, "tensor 'w' changes to bfloat16"),
        ({"exclude": ["v"]}, "tensor 'v' is left out"),
    ],
)
def test_a_plain_state_dict_is_written_with_a_reason(
    tmp_path: Path, options: Any, reason: str
) -> None:
    paths, out = members(tmp_path), tmp_path / "out.pt"
    lost = "out.pt contains only tensors, without optimizer, epoch of a.pt: "
    assert note(paths, out, **options) == lost + reason
    average(paths, out, key="model", **options)
    names = STATE.keys() - set(options.get("exclude", ()))
    assert torch.load(out, weights_only=True).keys() == names


def test_other_formats_store_only_tensors(tmp_path: Path) -> None:
    paths = members(tmp_path)
    assert note(paths, tmp_path / "out.safetensors").endswith(
        "without optimizer, epoch of a.pt: format 'safetensors' stores only tensors"
    )
    assert note(paths, tmp_path / "out").endswith("'safetensors' stores only tensors")


def test_only_the_contents_of_the_first_member_count(tmp_path: Path) -> None:
    paths = members(tmp_path)
    arrays = {name: value.numpy() for name, value in STATE.items()}
    save_file(arrays, tmp_path / "c.safetensors")
    mixed = [tmp_path / "c.safetensors", paths[0]]
    assert KEPT in note(mixed[::-1], tmp_path / "out.pt")
    planned = plan(mixed, tmp_path / "out.pt", key="model")
    assert not planned.templates
    average(mixed, tmp_path / "out.pt", key="model")
    assert set(torch.load(tmp_path / "out.pt", weights_only=True)) == set("wv")


def test_a_state_dict_without_other_contents_has_no_note(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    planned = plan([tmp_path / "a.pt"], tmp_path / "out.pt")
    assert planned.templates
    assert not any("contents" in note for note in planned.notes)


def test_the_key_of_a_nested_state_dict_is_not_lost_silently(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "a.pt")
    paths, out = [tmp_path / "a.pt"], tmp_path / "out.pt"
    average(paths, out)
    assert torch.load(out, weights_only=True).keys() == {"model"}
    expected = "out.pt contains only tensors, without the key 'model' of a.pt: "
    assert note(paths, out, only_weights=True) == expected + "only_weights=True"
    assert plan(paths, tmp_path / "out.safetensors").notes == ()


def test_an_additional_file_is_copied_into_a_directory_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    save_file({"w": np.ones(3)}, folder / "model.safetensors")
    torch.save({"x": torch.ones(3), "size": 3}, folder / "value_head.bin")
    out = tmp_path / "value_head.bin"
    planned = plan([folder], out, include=["value_head/*"])
    assert not planned.templates
    lost = f"{out} contains only tensors, without size of {folder}/value_head.bin: "
    assert f"{lost}{folder} is not a file of the same format" in planned.notes
    average([folder], out, include=["value_head/*"])
    assert torch.load(out, weights_only=True).keys() == {"value_head/x"}


def test_values_beside_the_tensors_of_a_state_dict_are_kept(tmp_path: Path) -> None:
    torch.save({**STATE, "epoch": 3}, tmp_path / "a.pt")
    (found,) = [
        n for n in plan([tmp_path / "a.pt"], tmp_path / "o.pt").notes if "epoch" in n
    ]
    assert "keeps the other contents of" in found


def test_the_form_of_a_state_dict_is_not_lost_silently(tmp_path: Path) -> None:
    prefix = "the prefix 'module.' of the tensor names at 'model'"
    paths = members(tmp_path, *[{f"module.{n}": STATE[n] for n in STATE}] * 2)
    assert note(paths, tmp_path / "out.pt").endswith(
        f"a.pt: {prefix}, optimizer, epoch"
    )
    plain = note(paths, tmp_path / "out.pt", only_weights=True)
    assert plain.startswith(
        f"out.pt contains only tensors, without {prefix}, optimizer"
    )
    paths = members(tmp_path, *[torch.nn.Linear(2, 2)] * 2)
    modules = "a.pt: the modules at 'model' with their attributes, optimizer, epoch"
    assert note(paths, tmp_path / "out.pt").endswith(modules)


def test_tensors_that_overlap_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    paths = members(tmp_path, *[{"w": whole[:3], "v": whole[2:]}] * 2)
    assert "'w' and 'v' overlap in memory" in note(paths, tmp_path / "out.pt")


def test_tensors_tied_in_the_first_member_alone_are_written_apart(
    tmp_path: Path,
) -> None:
    tied = torch.ones(3)
    apart = {"w": torch.ones(3), "v": torch.zeros(3)}
    paths = members(tmp_path, {"w": tied, "v": tied}, apart)
    out = tmp_path / "out.pt"
    assert "overlap in memory" in note(paths, out)
    average(paths, out, key="model")
    found = torch.load(out, weights_only=True)
    assert found["w"].tolist() == [1.0] * 3
    assert found["v"].tolist() == [0.5] * 3


def test_additional_files_of_a_directory_are_copied(tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        tied = torch.full((3,), value)
        main = {"w": tied, "v": tied}
        torch.save(main, folder / "pytorch_model.bin")
        head = {"x": tied, "y": tied, "size": 3}
        torch.save({"head": head, "epoch": value}, folder / "value_head.bin")
    planned = plan([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert list(planned.templates) == ["value_head.bin"]
    average([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    found = torch.load(tmp_path / "out/value_head.bin", weights_only=True)
    assert found["epoch"] == 0.0
    assert found["head"].pop("size") == 3
    assert [value.tolist() for value in found["head"].values()] == [[1.0] * 3] * 2
    assert found["head"]["x"].data_ptr() == found["head"]["y"].data_ptr()
    kept = "out/value_head.bin keeps the other contents of the first member,"
    assert any(kept in note for note in planned.notes)
    half = plan([tmp_path / "a", tmp_path / "b"], tmp_path / "out", dtype="float16")
    assert not half.templates
    assert any("value_head/x' changes to float16" in note for note in half.notes)


def trained(folder: Path) -> Path:
    """A directory as the Trainer of transformers writes it."""
    folder.mkdir()
    save_file({"w": np.ones(3)}, folder / "model.safetensors")
    (folder / "optimizer.pt").write_bytes(bytes(5000))
    (folder / "trainer_state.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    return folder


STATE_FILES = "the training state of {}, optimizer.pt, trainer_state.json: "


def test_training_state_is_left_out_of_a_directory_unless_it_is_asked_for(
    tmp_path: Path,
) -> None:
    folder, out = trained(tmp_path / "a"), tmp_path / "out"
    lost = f"{out} leaves out {STATE_FILES.format(folder)}"
    advice = "pass only_weights=False (--with-training-state) to copy it"
    assert plan([folder], out).notes == (lost + advice,)
    assert plan([folder], out, only_weights=True).notes == (lost + "only_weights=True",)
    planned = plan([folder], out, only_weights=False)
    assert planned.notes == (
        f"{out} keeps the training state of the first member, {folder}: optimizer.pt, "
        "trainer_state.json",
    )
    for only_weights in (None, False):
        average([folder], out, only_weights=only_weights, force=True)
        names = {"model.safetensors", "config.json"}
        if only_weights is False:
            names |= {"optimizer.pt", "trainer_state.json"}
        assert {file.name for file in out.iterdir()} == names
    assert (out / "optimizer.pt").read_bytes() == bytes(5000)


def test_training_state_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    folder = trained(tmp_path / "a")
    lost = STATE_FILES.format(re.escape(str(folder)))
    file = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match=f"keep {lost}only a directory can have it"):
        plan([folder], file, only_weights=False)
    assert any("only a directory can have it" in n for n in plan([folder], file).notes)
    (folder / "optimizer.pt").unlink()
    (folder / "optimizer.pt").symlink_to(__file__)
    with pytest.raises(
        ValueError, match=r"optimizer\.pt cannot be copied \(a link out"
    ):
        plan([folder], tmp_path / "out", only_weights=False)
    (folder / "optimizer.pt").unlink()
    (folder / "global_step12").mkdir()
    (folder / "global_step12/mp_rank_00_model_states.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="global_step12/ may contain the parameters"):
        plan([folder], tmp_path / "out", only_weights=False)
    assert "global_step12/" in plan([folder], tmp_path / "out").notes[0]


def test_contents_that_must_be_kept_and_cannot_are_an_error(tmp_path: Path) -> None:
    paths = members(tmp_path)
    planned = plan(paths, tmp_path / "out.pt", key="model", only_weights=False)
    assert planned.templates
    with pytest.raises(
        ValueError,
        match=r"out\.pt cannot keep optimizer, epoch of .*a\.pt: tensor 'w' changes to "
        r"bfloat16; pass only_weights=True \(--only-weights\)",
    ):
        plan(paths, tmp_path / "out.pt", key="model", only_weights=False, dtype="bf16")


def test_the_disk_must_hold_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = members(tmp_path)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        ValueError, match=r"out\.pt needs \d{4} bytes, its disk has 100"
    ):
        plan(paths, tmp_path / "out.pt", key="model")
    planned = plan(paths, tmp_path / "out.pt", key="model", only_weights=True)
    assert planned.write_bytes == 20
    folder = trained(tmp_path / "a")
    with pytest.raises(ValueError, match="out needs 5026 bytes"):
        plan([folder], tmp_path / "out", only_weights=False)
    assert plan([folder], tmp_path / "out")
