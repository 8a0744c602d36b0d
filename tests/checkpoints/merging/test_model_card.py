"""The model card of a result: its own, never that of a member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import average, plan
from tests.checkpoints.building import save

CARD = """---
license: {license}
library_name: transformers
model-index:
- name: {name}
---
# {name}
Accuracy 0.912 on my test set
"""


def member(path: Path, value: float, card: str | None) -> Path:
    save(path / "model.safetensors", {"w": np.full(2, value)})
    (path / "config.json").write_text("{}")
    if card is not None:
        (path / "README.md").write_text(card)
    return path


def card_of(tmp_path: Path, cards: list[str | None], **options: Any) -> str:
    names = [f"ft-{letter}" for letter in "abc"]
    members = [
        member(tmp_path / name, float(i), card)
        for i, (name, card) in enumerate(zip(names, cards, strict=False))
    ]
    average(members, tmp_path / "out", force=True, **options)
    return (tmp_path / "out" / "README.md").read_text()


def filled(name: str, license: str = "mit") -> str:
    return CARD.format(name=name, license=license)


def test_a_card_names_members_weights_digests_and_rule(tmp_path: Path) -> None:
    text = card_of(tmp_path, [filled("x"), filled("y")], weights=[0.7, 0.3])
    assert "Accuracy" not in text
    assert "model-index" not in text
    front = text.split("---")[1]
    assert 'base_model:\n- "ft-a"\n- "ft-b"\ntags:\n- merge\n' in front
    assert "license: mit" in front
    assert "library_name: transformers" in front
    assert "| ft-a | 0.7 | `xxh3-128:" in text
    assert "rule `mean`" in text
    assert str(tmp_path) not in text


def test_a_licence_is_kept_only_where_all_cards_have_it(tmp_path: Path) -> None:
    assert "license" not in card_of(tmp_path, [filled("x"), filled("y", "apache-2.0")])
    (tmp_path / "ft-b" / "README.md").unlink()
    assert "license" not in card_of(tmp_path, [filled("x"), None])


def test_a_card_of_the_first_member_alone_is_not_kept(tmp_path: Path) -> None:
    assert "Accuracy" not in card_of(tmp_path, [filled("x"), None])
    (tmp_path / "ft-a" / "README.md").unlink()
    assert "Accuracy" not in card_of(tmp_path, [None, filled("y")])


def test_the_card_is_noted_and_the_same_for_the_same_job(tmp_path: Path) -> None:
    first = card_of(tmp_path, [filled("x"), filled("y")])
    assert card_of(tmp_path, [filled("x"), filled("y")]) == first
    notes = plan([tmp_path / "ft-a"], tmp_path / "other").notes
    assert any(note.startswith("README.md is a new model card") for note in notes)
    (note,) = plan([tmp_path / "ft-a"], tmp_path / "other.safetensors").notes
    assert "other.safetensors contains only tensors, without config.json of" in note


def test_without_cards_there_is_none(tmp_path: Path) -> None:
    members = [member(tmp_path / name, 1.0, None) for name in "ab"]
    average(members, tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()


def test_members_from_the_cache_of_the_hub_are_named_by_their_repository(
    tmp_path: Path,
) -> None:
    folders = [
        tmp_path / f"models--user--ft-{letter}" / "snapshots" / "0a1b"
        for letter in "ab"
    ]
    average([member(folder, 1.0, filled("x")) for folder in folders], tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert '- "user/ft-a"\n- "user/ft-b"' in text


@pytest.mark.parametrize(
    "card", ["", "---", "---\nlicense: mit", "# no front matter", "---\n- [\n---\n"]
)
def test_a_card_that_is_no_yaml_is_no_obstacle(tmp_path: Path, card: str) -> None:
    assert "license" not in card_of(tmp_path, [card, card])


def test_a_card_in_small_letters_is_a_card(tmp_path: Path) -> None:
    folder = member(tmp_path / "ft-a", 1.0, None)
    (folder / "readme.md").write_text(filled("x"))
    average([folder], tmp_path / "out")
    texts = [path.read_text() for path in (tmp_path / "out").glob("*.md")]
    assert len(texts) == 1
    assert "Accuracy" not in texts[0]


@pytest.mark.parametrize(
    ("one", "other", "entry"),
    [
        ("mit", "'mit'", "license: mit\n"),
        ('"mit"  # permissive', "mit", "license: mit\n"),
        ('"no"', '"no"', 'license: "no"\n'),
        ("'mit: or not'", "'mit: or not'", 'license: "mit: or not"\n'),
        ("[mit, other]", "[mit, other]", None),
        ("|", "|", None),
        ("*anchor", "*anchor", None),
        ("@broken", "@broken", None),
    ],
)
def test_what_a_card_says_is_a_text_of_yaml(
    tmp_path: Path, one: str, other: str, entry: str | None
) -> None:
    text = card_of(tmp_path, [filled("x", one), filled("y", other)])
    assert ("license: " in text) == (entry is not None)
    assert entry is None or entry in text


@pytest.mark.parametrize(
    "name", ["1_Dense/README.md", "README_zh.md", "readme.txt", "MODEL_CARD.md"]
)
def test_other_cards_of_a_member_are_left_out_too(tmp_path: Path, name: str) -> None:
    member(tmp_path / "a", 1.0, None)
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": path,
            "type": f"sentence_transformers.{kind}",
        }
        for i, (path, kind) in enumerate([("", "Transformer"), ("1_Dense", "Dense")])
    ]
    (tmp_path / "a/modules.json").write_text(json.dumps(modules))
    save(tmp_path / "a/1_Dense/model.safetensors", {"v": np.ones(2)})
    (tmp_path / "a" / name).write_text("Accuracy 0.912")
    average([tmp_path / "a"], tmp_path / "out")
    assert "Accuracy" not in (tmp_path / "out/README.md").read_text()
    assert not (tmp_path / "out" / name).exists()
