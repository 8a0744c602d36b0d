"""A result is verified against its digests, its members and its other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, verify
from ensembles.checkpoints.formats.detection import read
from ensembles.checkpoints.formats.safetensors import encode_header
from ensembles.rules import RULES
from ensembles.rules.rule import Rule
from tests.checkpoints.building import header_of, load, pair, save, save_shards


def flip(path: Path, tensor: str, byte: int = 0) -> None:
    """Flip a bit of a stored tensor."""
    stored = read(path).layout[tensor]
    content = bytearray(path.read_bytes())
    content[stored.offset + byte] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, change: dict[str, str | None]) -> None:
    """Write a file with other metadata; None removes an entry."""
    metadata = {**header_of(path)["__metadata__"], **change}
    kept = {key: value for key, value in metadata.items() if value is not None}
    tensors = load(path)
    layout = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    data = b"".join(value.tobytes() for value in tensors.values())
    path.write_bytes(encode_header(layout, kept) + data)


def directories(folder: Path) -> list[Path]:
    """Two members with shards, a configuration, a tokenizer and a model card."""
    paths = []
    for name, value in (("a", 1.0), ("b", 3.0)):
        shards = [{"w": np.full(3, value)}, {"v": np.full(2, value), "u": np.ones(2)}]
        path = save_shards(folder / name, shards)
        (path / "config.json").write_text('{"dtype": "float64", "hidden_size": 3}')
        (path / "tokenizer.json").write_text("{}")
        (path / "README.md").write_text("---\nlicense: mit\n---\n")
        paths.append(path)
    return paths


def own_rule(stack: Any, weights: Any) -> Any:
    return stack[0]


def test_an_intact_result_is_verified_alone_and_with_its_members(
    tmp_path: Path,
) -> None:
    members = pair(tmp_path, v=np.ones(2))
    average(members, tmp_path / "out.safetensors")
    alone = verify(tmp_path / "out.safetensors")
    assert alone.is_intact
    assert alone.unverified == []
    assert alone.verified == [
        "out.safetensors: 2 tensors",
        "the digest of the result: 2 tensors",
    ]
    n_read: list[int] = []
    found = verify(tmp_path / "out.safetensors", members, progress=n_read.append)
    assert found.is_intact
    assert found.verified[2:] == [
        f"member {place}: the tensors of {path}"
        for place, path in enumerate(members, 1)
    ]
    assert sum(n_read) == 3 * (12 + 16)


def test_the_tensors_that_differ_are_named(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    average(pair(tmp_path, v=np.ones(2), x=np.ones(1)), out)
    flip(out, "v")
    found = verify(out)
    assert found.differing_tensors == ["v"]
    assert found.problems[0].startswith("out.safetensors: tensor 'v' of 3 differs")
    flip(out, "x")
    assert verify(out).differing_tensors == ["v", "x"]
    assert "tensor 'v' and 1 more of 3" in verify(out).problems[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_of_large_tensors_are_digested_in_order(
    tmp_path: Path, rng: np.random.Generator, threads: int
) -> None:
    big = rng.normal(size=2_500_000).astype(np.float32)
    path = save(tmp_path / "a.safetensors", {"big": big, "w": np.ones(3)})
    out = average([path, path], tmp_path / "out.safetensors", memory=4 << 20).out
    assert verify(out, [path, path], threads=threads).is_intact


def test_a_member_that_changed_or_moved_is_named(tmp_path: Path) -> None:
    a, b = pair(tmp_path, v=np.ones(2))
    out = average([a, b], tmp_path / "out.safetensors").out
    swapped = verify(out, [b, a])
    assert [problem.split("; ")[1] for problem in swapped.problems] == [
        "it is member 2: pass members in order",
        "it is member 1: pass members in order",
    ]
    flip(b, "w", byte=2)
    found = verify(out, [a, b])
    assert found.problems == [
        f"{b} differs from the recorded member 2; averaged again, the members give "
        "other values of w"
    ]
    with pytest.raises(ValueError, match=r"averaged from 2 members, found 1"):
        verify(out, [a])


def test_a_change_of_a_member_that_rounding_hides_is_found(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    out = average([a, b], tmp_path / "out.safetensors", dtype="float16").out
    flip(b, "w")
    assert verify(out, [a, b]).problems == [
        f"{b} differs from the recorded member 2; averaged again, the members still "
        "give the result"
    ]


def test_an_unknown_rule_leaves_the_tensor_unknown(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    out = average([a, b], tmp_path / "out.safetensors", rule=Rule(own_rule)).out
    assert verify(out, [a, b]).is_intact
    flip(b, "w")
    (problem,) = verify(out, [a, b]).problems
    assert "the tensor that differs is not known: unknown rule 'own_rule'" in problem


def test_members_are_matched_as_they_were_averaged(tmp_path: Path) -> None:
    """With options, renamed tensors and a member in a PyTorch file."""
    a = save(tmp_path / "a.safetensors", {"w": np.ones(2), "x": np.ones(1)})
    b, out = tmp_path / "b.pt", tmp_path / "out.safetensors"
    torch.save({"ema": {"net.w": torch.zeros(2, dtype=torch.float64)}, "step": 3}, b)
    options: Any = {"missing": "skip", "exclude": ["y*"], "dtype": "float32"}
    average([a, b], out, key="ema", weights=[1, 3], **options)
    found = verify(out, [a, b], key="ema")
    assert found.is_intact
    assert len(found.verified) == 4


def test_a_base_is_verified_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offset(stack: Any, weights: Any, *, base: Any) -> Any:
        return base + (stack - base).sum(axis=0)

    monkeypatch.setitem(RULES, "offset", Rule(offset, needs_base=True))
    a, b = pair(tmp_path)
    base = save(tmp_path / "base.safetensors", {"w": np.zeros(3, np.float32)})
    out = average([a, b], tmp_path / "out.safetensors", base=base, rule="offset").out
    found = verify(out, [a, b], base=base)
    assert found.is_intact
    assert found.verified[-1] == f"base: the tensors of {base}"
    other = save(tmp_path / "other.safetensors", {"w": np.ones(3, np.float32)})
    assert not verify(out, [a, b], base=other).is_intact
    with pytest.raises(ValueError, match=r"averaged with a base; pass base=PATH too"):
        verify(out, [a, b])
    plain = average([a, b], tmp_path / "plain.safetensors").out
    with pytest.raises(ValueError, match=r"with no base; leave base=PATH out"):
        verify(plain, [a, b], base=base)


def test_a_directory_is_verified_with_its_files(tmp_path: Path) -> None:
    members = directories(tmp_path)
    average(members, tmp_path / "out", dtype="float32")
    found = verify(tmp_path / "out", members)
    assert found.problems == []
    assert found.unverified == []
    assert found.verified == [
        "model-00001-of-00002.safetensors: 1 tensor",
        "model-00002-of-00002.safetensors: 2 tensors",
        "the digest of the result: 3 tensors",
        "model.safetensors.index.json: files of the tensors, and provenance",
        "README.md: digests of the members",
        f"member 1: the tensors of {members[0]}",
        f"member 2: the tensors of {members[1]}",
        f"2 files copied from {members[0]}",
    ]


def change_card(out: Path) -> None:
    text = (out / "README.md").read_text()
    (out / "README.md").write_text(text.replace("xxh3-128:", "xxh3-128:0000"))


def change_config(out: Path) -> None:
    (out / "config.json").write_text('{"hidden_size": 4}')


def change_index(out: Path) -> None:
    index = out / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["metadata"]["ensembles"] = "{}"
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (change_card, "README.md has digests of other members"),
        (change_config, r"are different in .*out: config.json"),
        (change_index, "index.json has the provenance of another result"),
        (lambda out: (out / "tokenizer.json").unlink(), "are absent from .*tokenizer"),
        (
            lambda out: flip(out / "model-00002-of-00002.safetensors", "u"),
            r"model-00002-of-00002\.safetensors: tensor 'u' of 2 differs",
        ),
    ],
)
def test_each_file_of_a_directory_that_differs_is_named(
    tmp_path: Path, damage: Any, what: str
) -> None:
    members = directories(tmp_path)
    average(members, tmp_path / "out")
    damage(tmp_path / "out")
    found = verify(tmp_path / "out", members)
    assert not found.is_intact
    with pytest.raises(ValueError, match=what):
        raise ValueError(found.problems[0])


def test_a_shard_of_another_result_is_found(tmp_path: Path) -> None:
    a, b = directories(tmp_path)
    average([a, b], tmp_path / "out")
    average([a, a], tmp_path / "other")
    name = "model-00001-of-00002.safetensors"
    shutil.copy(tmp_path / "other" / name, tmp_path / "out" / name)
    found = verify(tmp_path / "out")
    assert any("a weight file was added or removed" in text for text in found.problems)
    assert any("the provenance of another result" in text for text in found.problems)


def test_a_shard_alone_is_verified_by_its_own_digests(tmp_path: Path) -> None:
    average(directories(tmp_path), tmp_path / "out")
    shard = tmp_path / "out/model-00002-of-00002.safetensors"
    found = verify(shard)
    assert found.is_intact
    assert found.verified == ["model-00002-of-00002.safetensors: 2 tensors"]
    assert found.unverified == [
        "the digest of the whole result: the file has only a part of its tensors"
    ]
    flip(shard, "u")
    assert verify(shard).differing_tensors == ["u"]


def test_checksums_of_pytorch_files_are_verified(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    value = np.array([2, 3, 5.5], np.float32)
    torch.save({"w": torch.from_numpy(value)}, out)
    assert verify(out).verified == [f"{out}: checksums of its entries"]
    content = bytearray(out.read_bytes())
    content[content.index(value.tobytes())] ^= 1
    out.write_bytes(content)
    found = verify(out)
    assert len(found.problems) == 1
    assert "does not match its checksum" in found.problems[0]
    with pytest.raises(ValueError, match="has no provenance"):
        verify(out, pair(tmp_path))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz"])
def test_results_of_each_format_are_verified(tmp_path: Path, suffix: str) -> None:
    members = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        w = torch.full((3,), value)
        state = {"head": w, "emb": w, "part": w[1:], "none": torch.ones(0, 2)}
        torch.save(state, tmp_path / f"{name}.pt")
        members.append(tmp_path / f"{name}.pt")
    out = tmp_path / f"out.{suffix}"
    average(members, out, only_weights=True)
    found = verify(out, members)
    assert (found.problems, found.unverified) == ([], [])
    again = average([out], tmp_path / "again.pt").out
    assert verify(again).is_intact
    flip(out, "part")
    assert verify(out).differing_tensors == ["part"]


def test_a_result_without_the_digest_of_the_result_says_so(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    members = pair(tmp_path)
    out = average(members, tmp_path / "out.safetensors").out
    recipe = json.loads(header_of(out)["__metadata__"]["ensembles"])
    del recipe["result"]
    rewrite(out, {"ensembles": json.dumps(recipe), "ensembles.tensors": None})
    found = verify(out, members)
    assert found.is_intact
    assert len(found.verified) == 2
    assert "recorded no digest of the result" in found.unverified[0]


@pytest.mark.parametrize(
    "recipe",
    [
        None,
        "[]",
        '{"rule": "mean", "members": []}',
        '{"rule": "mean", "members": [1], "options": {}}',
        '{"rule": "mean", "members": ["x"], "options": {"dtype": null, "integers": "m",'
        ' "missing": "m", "include": [1], "exclude": []}}',
    ],
)
def test_files_without_digests_are_one_error(
    tmp_path: Path, recipe: str | None
) -> None:
    out = average(pair(tmp_path), tmp_path / "out.safetensors").out
    rewrite(out, {"ensembles": recipe})
    with pytest.raises(ValueError, match=r"out\.safetensors has nothing to verify"):
        verify(out)


def test_the_digest_of_the_result_suffices_without_those_of_tensors(
    tmp_path: Path,
) -> None:
    out = average(pair(tmp_path), tmp_path / "out.safetensors").out
    rewrite(out, {"ensembles.tensors": None})
    assert verify(out).verified == ["the digest of the result: 1 tensor"]
    flip(out, "w")
    assert verify(out).problems == [f"{out} differs from the digest of the result"]


def test_a_tensor_that_was_added_is_found(tmp_path: Path) -> None:
    out = average(pair(tmp_path), tmp_path / "out.safetensors").out
    metadata = header_of(out)["__metadata__"]
    save(out, {**load(out), "x": np.ones(1)}, metadata)
    assert verify(out).problems == [
        "out.safetensors has 2 tensors, but digests of 1 in its metadata",
        f"{out} differs from the digest of the result",
    ]


def test_heads_in_pytorch_files_of_a_directory_are_verified(tmp_path: Path) -> None:
    members = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        save(tmp_path / name / "model.safetensors", {"w": np.full(2, value)})
        torch.save({"h": torch.full((9,), value)}, tmp_path / name / "value_head.bin")
        members.append(tmp_path / name)
    average(members, tmp_path / "out")
    assert verify(tmp_path / "out", members).is_intact
    head = tmp_path / "out/value_head.bin"
    content = bytearray(head.read_bytes())
    content[content.index(np.full(9, 1.5, np.float32).tobytes())] ^= 1
    head.write_bytes(content)
    problems = verify(tmp_path / "out").problems
    assert len(problems) == 2
    assert "value_head.bin is damaged: entry" in problems[1]


def test_a_key_is_for_the_result_too_if_it_needs_one(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    torch.save({"a": {"w": torch.ones(2)}, "b": {"w": torch.ones(2)}}, out)
    assert verify(out, key="a").is_intact
    with pytest.raises(ValueError, match="one obvious state dict"):
        verify(out)


def test_a_truncated_result_is_one_error(tmp_path: Path) -> None:
    out = average(pair(tmp_path), tmp_path / "out.safetensors").out
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"not a complete safetensors file"):
        verify(out)


def test_tied_tensors_of_pytorch_members_are_verified(tmp_path: Path) -> None:
    """A directory stores them under each name, and so do the digests."""
    members = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        w = torch.full((3,), value)
        torch.save({"emb.weight": w, "head.weight": w}, folder / "pytorch_model.bin")
        members.append(folder)
    average(members, tmp_path / "out")
    assert verify(tmp_path / "out", members).is_intact


def test_modules_in_folders_are_verified_by_their_own_names(tmp_path: Path) -> None:
    members = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        folder = tmp_path / name
        save(folder / "model.safetensors", {"w": np.full(2, value)})
        save(folder / "2_Dense/model.safetensors", {"linear.w": np.full(3, value)})
        (folder / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
        members.append(folder)
    average(members, tmp_path / "out")
    found = verify(tmp_path / "out", members)
    assert found.is_intact
    assert "2_Dense/model.safetensors: 1 tensor" in found.verified
    flip(tmp_path / "out/2_Dense/model.safetensors", "linear.w")
    assert verify(tmp_path / "out").differing_tensors == ["2_Dense/linear.w"]
