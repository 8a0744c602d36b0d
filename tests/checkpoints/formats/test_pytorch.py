"""Files of torch: where the state dict lies, and what must not be opened."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan

STATE = {"layer.w": torch.arange(6.0).view(2, 3), "layer.b": torch.ones(3)}
OTHER = {name: value + 1 for name, value in STATE.items()}


def saved(folder: Path, content: Any, name: str = "a.pt", **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def prefixed(prefix: str, state: dict[str, Any] = STATE) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


LIGHTNING = {
    "epoch": 3,
    "global_step": 120,
    "pytorch-lightning_version": "2.5.0",
    "state_dict": OrderedDict(STATE),
    "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": 3}}},
    "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.1)}},
    "optimizer_states": [
        {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    ],
    "lr_schedulers": [{"last_epoch": 3}],
    "hyper_parameters": {"lr": 1e-3, "sizes": [3, 4], "name": "tiny"},
}
KINDS = {
    "plain": STATE,
    "ordered": OrderedDict(STATE),
    "state_dict": {"state_dict": STATE, "epoch": 3, "best_acc1": torch.tensor(0.5)},
    "model": {"model": STATE, "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
    "model_state_dict": {"model_state_dict": STATE, "loss": 0.3},
    "ema": {"ema": STATE, "step": 3},
    "one of another name": {"generator": STATE, "step": 3},
    "one usual among others": {"discriminator": OTHER, "model": STATE},
    "rng beside it": {"model": STATE, "rng": torch.arange(4, dtype=torch.uint8)},
    "lightning": LIGHTNING,
    "ddp": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled in ddp": prefixed("module._orig_mod."),
    "ddp in compiled": prefixed("_orig_mod.module."),
    "nested ddp": {"state_dict": prefixed("module.")},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_the_state_dict_is_found(tmp_path: Path, kind: str, suffix: str) -> None:
    path = saved(tmp_path, KINDS[kind], f"a{suffix}")
    found = average([path, path])
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert torch.equal(found[name], value)


def test_a_key_names_the_state_dict(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": STATE, "ema": {"shadow": OTHER, "decay": 0.9}})
    assert torch.equal(average([path], key="model")["layer.b"], torch.ones(3))
    found = average([path], key="ema.shadow")
    assert torch.equal(found["layer.b"], torch.ones(3) + 1)


def test_two_state_dicts_ask_for_a_key(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": STATE, "model": OTHER})
    with pytest.raises(
        ValueError,
        match=r"one obvious state dict, found state_dict \(2 .*, model \(.* key=",
    ):
        plan([path])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle", r"no key 'modle': 'modle' is not among \['model', 'step'\]"),
        ("model.deeper", r"no key 'model.deeper': 'deeper' is not among"),
        ("step", r"no tensors at key 'step': found int"),
    ],
)
def test_a_wrong_key_is_told_what_there_is(
    tmp_path: Path, key: str, message: str
) -> None:
    path = saved(tmp_path, {"model": STATE, "step": 3})
    with pytest.raises(ValueError, match=message):
        plan([path], key=key)


@pytest.mark.parametrize(
    "content",
    [{"epoch": 3}, {}, {"a": {"b": {"c": torch.ones(1)}}}, [torch.ones(3)], 3, None],
    ids=str,
)
def test_what_holds_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"a\.pt.*(must contain a state dict|has no state dict|obvious)",
    ):
        plan([saved(tmp_path, content)])


def test_views_are_read_at_their_offsets(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.int16).bfloat16()
    state = {
        "all": base,
        "head": base[:6].view(2, 3),
        "tail": base[6:],
        "last": base[-1],
        "again": base[:],
    }
    found = average([saved(tmp_path, state)])
    for name, value in state.items():
        assert torch.equal(found[name], value), name
    assert found["again"] is found["all"]


VIEWS = {
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "every other": torch.arange(7, dtype=torch.int16)[1::2],
    "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
    "channels last": torch.arange(120.0)
    .reshape(2, 3, 4, 5)
    .to(memory_format=torch.channels_last),
    "columns": torch.arange(20, dtype=torch.float64).reshape(4, 5)[:, 1:3],
    "bfloat16": torch.arange(12.0).bfloat16().reshape(3, 4).t(),
}


@pytest.mark.parametrize("view", VIEWS)
def test_strided_views_are_read_in_the_order_of_their_elements(
    tmp_path: Path, view: str
) -> None:
    tensor = VIEWS[view]
    assert not tensor.is_contiguous()
    (result,) = average([saved(tmp_path, {"w": tensor})]).values()
    assert torch.equal(result, tensor)


def test_a_large_transposed_tensor_is_read_in_blocks(tmp_path: Path) -> None:
    tensor = torch.arange(300_000.0).reshape(100, 3000).t()
    (result,) = average([saved(tmp_path, {"w": tensor})], memory=1 << 21).values()
    assert torch.equal(result, tensor)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(3).expand(1000, 3), r"'w' is an expanded view, larger than the"),
        (torch.eye(3).to_sparse(), r"'w' is sparse; convert it with \.to_dense\(\)"),
        (torch.ones(2, device="meta"), r"'w' has no data: it is a meta tensor"),
        (torch.ones(2, dtype=torch.complex64), r"'w' has dtype complex64, which can"),
        (torch._neg_view(torch.ones(2)), r"'w' is a negated .*\.resolve_neg\(\)"),
    ],
    ids=["expanded", "sparse", "meta", "complex", "negated"],
)
def test_tensors_without_plain_values_are_refused(
    tmp_path: Path, tensor: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan([saved(tmp_path, {"w": tensor})])


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()[100:200])] ^= 1
    path.write_bytes(content)
    plan([path])  # reads headers alone
    with pytest.raises(ValueError, match=r"a\.pt is damaged: entry '.*data/0'"):
        average([path], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def rezipped(path: Path, method: int, **changed: bytes) -> Path:
    """The same entries in another zip."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, changed.get(Path(name).name, content))
    return path


def test_a_compressed_entry_is_refused(tmp_path: Path) -> None:
    path = rezipped(saved(tmp_path, STATE), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"entry '.*' is compressed.*torch\.save"):
        plan([path])


def test_a_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.zeros(1 << 22)})
    rezipped(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(ValueError, match="compressed"):
        plan([path])


def test_a_tensor_longer_than_its_entry_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(64)})
    rezipped(path, zipfile.ZIP_STORED, **{"0": b"\0" * 16})
    with pytest.raises(
        ValueError, match=r"'w' is larger than its entry|not a complete PyTorch"
    ):
        plan([path])


def test_another_byte_order_is_refused(tmp_path: Path) -> None:
    path = rezipped(saved(tmp_path, STATE), zipfile.ZIP_STORED, byteorder=b"big")
    with pytest.raises(ValueError, match=r"a\.pt is big-endian"):
        plan([path])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_truncated_zip_is_refused(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path, {"w": torch.arange(1000.0)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=r"a\.pt is (empty|not a complete (zip|PyTorch) file)"
    ):
        plan([path])


def test_the_legacy_format_gives_the_same_tensors(tmp_path: Path) -> None:
    content = {"epoch": 3, "model": {**STATE, "t": torch.arange(6.0).reshape(2, 3).t()}}
    old = saved(tmp_path, content, "old.pt", _use_new_zipfile_serialization=False)
    new = average([saved(tmp_path, content, "new.pt")])
    result = average([old])
    assert result.keys() == new.keys()
    assert all(torch.equal(result[name], new[name]) for name in new)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_legacy_file_is_refused(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path, STATE, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.pt is not a complete PyTorch file|must"):
        plan([path])


def test_other_pickles_and_tar_files_are_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"w": np.ones(2)}))
    with tarfile.open(tmp_path / "tar.pt", "w") as archive:
        archive.add(tmp_path / "raw.pt", "storages")
    with pytest.raises(
        ValueError, match=r"raw\.pt is a pickle, but was not written by"
    ):
        plan([tmp_path / "raw.pt"])
    with pytest.raises(ValueError, match=r"tar\.pt is not a complete PyTorch file"):
        plan([tmp_path / "tar.pt"])


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_read_and_does_not(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = saved(tmp_path, {"w": torch.ones(2), "trap": Trap(str(sprung))})
    assert average([path]).keys() == {"w"}
    assert sorted(os.listdir(tmp_path)) == ["a.pt"]
    torch.load(path, weights_only=False)  # the trap was a live one
    assert sprung.exists()


class Block(torch.nn.Module):
    """Shared parameters, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        first = torch.nn.Linear(2, 3)
        self.layers = torch.nn.Sequential(first, torch.nn.BatchNorm1d(3))
        self.head = torch.nn.Linear(2, 3)
        self.head.weight = first.weight
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("computed", torch.arange(4), persistent=False)


def test_a_pickled_module_gives_its_state_dict(tmp_path: Path) -> None:
    module = Block()
    optimizer = torch.optim.Adam(module.parameters())
    sum(p.sum() for p in module.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    contents: list[Any] = [module, {"epoch": 3, "model": module}, (module, optimizer)]
    for content in contents:
        result = average([saved(tmp_path, content)])
        assert result.keys() == module.state_dict().keys()
        for name, value in module.state_dict().items():
            assert torch.equal(result[name], value), name
        assert result["head.weight"] is result["layers.0.weight"]


def test_modules_with_numbers_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LazyLinear(3))
    with pytest.raises(
        ValueError, match=r"'1\.weight' is an object of .*Uninitialized"
    ):
        plan([saved(tmp_path, module)])


@pytest.mark.filterwarnings("ignore")  # torch.ao.quantization is deprecated
def test_quantized_modules_are_refused_and_not_skipped(tmp_path: Path) -> None:
    linear, norm = torch.nn.Linear(3, 3), torch.nn.LayerNorm(3)
    quantize = torch.ao.quantization.quantize_dynamic
    module = quantize(torch.nn.Sequential(linear, norm), {torch.nn.Linear})  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"'0\..*_packed_params' is packed by a quant"):
        plan([saved(tmp_path, module)])


@pytest.mark.parametrize("protocol", [2, 5])
def test_tensors_of_the_module_pickle_are_refused_by_name(
    tmp_path: Path, protocol: int
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(STATE, protocol))
    with pytest.raises(ValueError, match=r"is a pickle, but was not written by torch"):
        plan([path])


def test_checksums_that_were_not_computed_are_not_verified(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(average([path])["layer.b"], STATE["layer.b"])


def damaged(content: bytes, pickled: bytes, rng: np.random.Generator) -> bytes:
    """A pickle with some bytes changed, and a checksum that says it is whole."""
    changed = bytearray(pickled)
    for place in rng.integers(0, len(pickled), rng.integers(1, 4)):
        changed[place] = rng.choice([*b"()0.2QRXabcehqstu}\x85\x86", rng.integers(256)])
    old, new = (zlib.crc32(x).to_bytes(4, "little") for x in (pickled, changed))
    return content.replace(pickled, bytes(changed)).replace(old, new)


def refusal(path: Path) -> str | None:
    try:
        average([path])
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("where", ["anywhere", "in the pickle"])
@pytest.mark.filterwarnings("ignore")
def test_no_damage_gives_another_kind_of_error(
    tmp_path: Path, rng: np.random.Generator, where: str
) -> None:
    whole = saved(tmp_path, {"model": STATE, "step": 3}, "whole.pt")
    with zipfile.ZipFile(whole) as archive:
        pickled = archive.read("whole/data.pkl")
    path = tmp_path / "a.pt"
    n_refused = 0
    for _ in range(400):
        content = whole.read_bytes()
        if where == "anywhere":
            place = int(rng.integers(len(content)))
            byte = bytes([rng.integers(256)])
            path.write_bytes(content[:place] + byte + content[place + 1 :])
        else:
            path.write_bytes(damaged(content, pickled, rng))
        message = refusal(path)
        assert message is None or str(path) in message
        n_refused += message is not None
    assert n_refused > 50
