"""NeMo archives: read in place, written as copies of the first member."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan


def archive(path: Path, seed: int, *, legacy: bool = False, more: str = "") -> Path:
    """A tar file as NeMo makes it, with members of any size before and after."""
    start = torch.randn(40, 30, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(40, 30, generator=torch.Generator().manual_seed(seed))
    state = {"encoder.w": start + noise / 10, "steps": torch.tensor(3)}
    content = io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=not legacy)
    files = {
        "model_config.yaml": f"seed: {seed}\n".encode(),
        "model_weights.ckpt": content.getvalue(),
        "0a1b_tokenizer.model": b"x" * 1000,
    }
    if more:
        files[more] = b"x"
    with tarfile.open(path, "w:") as tar:
        folder = tarfile.TarInfo(".")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def unpacked(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:") as tar:
        files = [entry for entry in tar if entry.isreg()]
        return {f.name: tar.extractfile(f).read() for f in files}  # type: ignore[union-attr]


def state(path: Path) -> dict[str, torch.Tensor]:
    content = io.BytesIO(unpacked(path)["./model_weights.ckpt"])
    loaded: dict[str, torch.Tensor] = torch.load(content, weights_only=True)
    return loaded


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    return [archive(tmp_path / f"{seed}.nemo", seed) for seed in range(3)]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_average_is_a_copy_of_the_first_archive(
    tmp_path: Path, legacy: bool
) -> None:
    paths = [archive(tmp_path / f"{i}.nemo", i, legacy=legacy) for i in range(3)]
    out = tmp_path / "out.nemo"
    average(paths, out)
    stack = np.stack([state(path)["encoder.w"].double().numpy() for path in paths])
    found = state(out)  # torch verifies the checksums
    np.testing.assert_array_equal(
        found["encoder.w"].numpy(), stack.mean(0).astype(np.float32)
    )
    assert found["steps"] == 3
    before, after = unpacked(paths[0]), unpacked(out)
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"./model_weights.ckpt"}
    assert out.stat().st_size == paths[0].stat().st_size


def test_the_plan_names_the_other_files_of_the_archive(
    members: list[Path], tmp_path: Path
) -> None:
    notes = plan(members, tmp_path / "out.nemo").notes
    kept = f"of the first member, {members[0]}: model_config.yaml, 0a1b_token"
    assert any(kept in note for note in notes)
    notes = plan(members, tmp_path / "out.safetensors").notes
    lost = "contains only tensors, without model_config.yaml"
    assert any(lost in note for note in notes)


def test_other_outputs_are_written_from_archives(
    members: list[Path], tmp_path: Path
) -> None:
    memory = average(members)
    assert isinstance(memory["encoder.w"], torch.Tensor)
    for suffix in (".pt", ".safetensors", ".npz"):
        average(members, tmp_path / f"out{suffix}")
        found = average([tmp_path / f"out{suffix}"])
        np.testing.assert_array_equal(found["encoder.w"], memory["encoder.w"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "float16"}, "tensor 'encoder.w' changes to float16"),
        ({"only_weights": True}, "only_weights=True"),
        ({"exclude": ["steps"]}, "tensor 'steps' is left out"),
    ],
)
def test_an_archive_is_not_written_without_its_other_files(
    members: list[Path], tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    expected = rf"out\.nemo cannot keep model_config\.yaml.*: {reason}; choose another"
    with pytest.raises(ValueError, match=expected):
        plan(members, tmp_path / "out.nemo", **options)


def test_an_archive_needs_an_archive_as_first_member(
    members: list[Path], tmp_path: Path
) -> None:
    torch.save(state(members[0]), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="must have a first member of the format 'nem"):
        plan([tmp_path / "a.pt", members[0]], tmp_path / "out.nemo")
    torch.save({"other": torch.ones(2)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="differ at tensor") as error:
        plan([members[0], tmp_path / "b.pt"], tmp_path / "out.nemo")
    assert "cannot keep" not in str(error.value)


def test_archives_that_cannot_be_read_are_refused(
    members: list[Path], tmp_path: Path
) -> None:
    content = members[0].read_bytes()
    bad = tmp_path / "bad.nemo"
    bad.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"bad\.nemo is a NeMo archive compressed wit"):
        plan([bad])
    for size in (600, 1500, 3000):
        bad.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"bad\.nemo "):
            plan([bad])
    with pytest.raises(ValueError, match=r"must have one file .*mp_rank_01.*with NeMo"):
        plan([archive(bad, 0, more="mp_rank_01/model_weights.ckpt")])
    with tarfile.open(bad, "w:") as tar:
        tar.addfile(tarfile.TarInfo("model_weights/.metadata"))
    with pytest.raises(
        ValueError, match=r"found model_weights/\.metadata; unpack its dis"
    ):
        plan([bad])


def test_damage_in_an_archive_is_found(members: list[Path], tmp_path: Path) -> None:
    content = bytearray(members[1].read_bytes())
    content[content.index(state(members[1])["encoder.w"].numpy().tobytes()) + 5] ^= 1
    members[1].write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.nemo is damaged: entry '.*data/0'"):
        average(members, tmp_path / "out.nemo")
    assert not (tmp_path / "out.nemo").exists()
