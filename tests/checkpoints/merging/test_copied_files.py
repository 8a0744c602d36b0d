"""Auxiliary files of a result directory."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ensembles.checkpoints import average
from ensembles.checkpoints.directories.open import read_layout


def write_model(folder: Path, value: float) -> Path:
    folder.mkdir()
    save_file({"w": np.full(4, value, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"vocab_size": 4, "dtype": "float32"}')
    (folder / "vocab.txt").write_text("a\nb\n")
    (folder / "merges.txt").write_text("")
    return folder


def test_new_contents_of_files_are_written_in_place_of_the_stored_ones(
    tmp_path: Path,
) -> None:
    paths = [write_model(tmp_path / name, i) for i, name in enumerate("ab")]
    first = read_layout(paths[0], 0).with_files(
        {
            "config.json": b'{"vocab_size": 5, "dtype": "float32"}',
            "tokenizer.json": b"{}",
            "merges.txt": None,
        }
    )
    out = tmp_path / "out"
    average([first, paths[1]], out, dtype="bfloat16")
    config = json.loads((out / "config.json").read_text())
    assert config == {"vocab_size": 5, "dtype": "bfloat16"}
    assert (out / "tokenizer.json").read_bytes() == b"{}"
    assert (out / "vocab.txt").read_text() == "a\nb\n"
    assert not (out / "merges.txt").exists()
