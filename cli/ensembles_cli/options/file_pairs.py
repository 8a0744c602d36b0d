"""Matching of prediction files: the test file that belongs to each member."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ensembles.predictions.files.formats.builtin import PREDICTION_FORMATS

# Words of file names for parts of the data, as in oof_lgbm.csv and test_lgbm.csv.
PARTS = re.compile(
    r"(?<![a-z])(oof|out_of_fold|valid|validation|val|holdout|train|dev|test|predictions"
    r"|preds?|submission|sub)(?![a-z])",
    re.IGNORECASE,
)


def matching_files(members: Sequence[Path], folder: Path) -> list[Path]:
    """Files of a folder that belong to the members, by their names.

    A file belongs to a member if it has the same name, or the same stem with another
    suffix, or the same stem without words such as ``oof`` and ``test``.

    Parameters
    ----------
    members : sequence of Path
        Prediction files that a blend was learned from.
    folder : Path
        Folder with one file for each member, and possibly others.

    Returns
    -------
    list of Path
        In the order of the members.

    Raises
    ------
    FileNotFoundError
        If a member has no file in the folder.
    ValueError
        If several files belong to a member, or one file to several members.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--test-dir must be a folder with one file for each member: {folder} is "
            "not a folder"
        )
    suffixes = {s for entry in PREDICTION_FORMATS.values() for s in entry.suffixes}
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)
    matched = [_matching_file(member, paths, folder) for member in members]
    for index, path in enumerate(matched):
        first = matched.index(path)
        if first < index:
            raise ValueError(
                f"{path} matches {members[first]} and {members[index]}; give the "
                "test files the names of the members"
            )
    return matched


def _matching_file(member: Path, paths: Sequence[Path], folder: Path) -> Path:
    keys = (
        lambda path: path.name,
        lambda path: path.stem,
        lambda path: _without_parts(path.stem),
    )
    for key in keys:
        matches = [path for path in paths if key(path) == key(member)]
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ValueError(
                f"{folder} must have one file for {member}: found {names}; remove all "
                "but one"
            )
        if matches:
            return matches[0]
    names = ", ".join(path.name for path in paths[:10]) or "no prediction files"
    raise FileNotFoundError(
        f"{folder} must have a file for {member}, such as {member.name}: found {names}"
    )


def _without_parts(stem: str) -> str:
    return re.sub(r"[\W_]+", "_", PARTS.sub("", stem.replace("_", " "))).strip("_")
