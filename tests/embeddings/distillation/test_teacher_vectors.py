"""Vectors of a teacher: cached, resumed, the same for any number of threads."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.embeddings import SentenceEmbedder, SentenceEncoder
from ensembles.embeddings.distillation import teacher_vectors as module
from ensembles.embeddings.distillation.teacher_vectors import (
    JOURNAL,
    VECTORS,
    digest_of,
    folder_of,
    teacher_vectors,
    warn_of_other_vectors,
)
from ensembles.embeddings.distillation.teachers import (
    identity,
    open_teacher,
    tokenizer_of,
)
from tests.embeddings.distillation import counting_teacher
from tests.embeddings.distillation.counting_teacher import TEXTS, CountingTeacher

ROOT = Path(__file__).parents[3]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.txt"


def asked(record: Path) -> Counter[str]:
    return Counter(record.read_text().splitlines())


def run(cache: Path, record: Path, n_calls: int) -> int:
    code = f"import sys; from {counting_teacher.__name__} import embed as run; "
    arguments = [sys.executable, "-c", code + "run(*sys.argv[1:])"]
    arguments += [str(cache), str(record), str(n_calls)]
    return subprocess.run(arguments, check=False, cwd=ROOT).returncode


def test_a_killed_run_continues_without_asking_twice(
    tmp_path: Path, record: Path
) -> None:
    assert run(tmp_path / "cache", record, 2) == -9
    assert asked(record).total() == 2048
    assert run(tmp_path / "cache", record, 1) == -9
    steps: list[int] = []
    teacher, cache = CountingTeacher(record), tmp_path / "cache"
    found = teacher_vectors(teacher, TEXTS, cache=cache, progress=steps.append)
    assert asked(record) == Counter(TEXTS)
    assert steps == [3072, 428]
    expected = teacher_vectors(CountingTeacher(tmp_path / "other"), TEXTS)
    assert found.vectors.tobytes() == expected.vectors.tobytes()
    assert found.vectors.dtype == np.float16
    assert isinstance(found.vectors, np.memmap)
    lengths = np.linalg.norm(expected.vectors.astype(float), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)


def damage_vectors(folder: Path) -> None:
    vectors = np.load(folder / VECTORS, mmap_mode="r+")
    vectors[1030, 2] += 1


def damage_journal(folder: Path) -> None:
    text = (folder / JOURNAL).read_text()
    lines = [line for line in text.splitlines() if line and "1024, 2048" not in line]
    (folder / JOURNAL).write_text("\n".join(lines) + '\n[1024, 2048, 0, "ab')


@pytest.mark.parametrize("damage", [damage_vectors, damage_journal])
def test_chunks_that_did_not_reach_the_disk_are_asked_again(
    tmp_path: Path, record: Path, damage: Any
) -> None:
    teacher = CountingTeacher(record)
    expected = teacher_vectors(teacher, TEXTS, cache=tmp_path).vectors.tobytes()
    record.unlink()
    damage(folder_of(tmp_path, teacher, TEXTS))
    found = teacher_vectors(teacher, TEXTS, cache=tmp_path)
    assert found.vectors.tobytes() == expected
    assert asked(record) == Counter(TEXTS[1024:2048])
    record.unlink()
    teacher_vectors(teacher, TEXTS, cache=tmp_path)
    assert not record.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array"])
def test_an_incomplete_file_of_vectors_is_written_again(
    tmp_path: Path, record: Path, content: bytes
) -> None:
    teacher = CountingTeacher(record)
    expected = teacher_vectors(teacher, TEXTS, cache=tmp_path).vectors.tobytes()
    (folder_of(tmp_path, teacher, TEXTS) / VECTORS).write_bytes(content)
    again = teacher_vectors(teacher, TEXTS, cache=tmp_path).vectors
    assert again.tobytes() == expected


def test_vectors_of_other_texts_are_not_used(tmp_path: Path, record: Path) -> None:
    teacher = CountingTeacher(record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_vectors(tmp_path / "none", [teacher], TEXTS)
        teacher_vectors(teacher, TEXTS, cache=tmp_path)
        warn_of_other_vectors(tmp_path, [teacher], TEXTS)
        # The second teacher is new: the vectors of the first are used.
        warn_of_other_vectors(tmp_path, [teacher, object()], TEXTS)
    with pytest.warns(UserWarning, match="has vectors of other texts or of another"):
        warn_of_other_vectors(tmp_path, [teacher], TEXTS[::-1])
    found = teacher_vectors(teacher, TEXTS[:5], cache=tmp_path)
    assert found.vectors.shape == (5, counting_teacher.DIM)
    assert asked(record).total() == len(TEXTS) + 5


def test_the_digest_of_texts_depends_on_their_bounds_and_order() -> None:
    lists = (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["abc", ""], ["\ud800"])
    assert len({digest_of(texts) for texts in lists}) == len(lists)


class Broken:
    """Returns a given result for each list of texts."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def transform(self, texts: list[str]) -> Any:
        return self.result(texts)


def test_a_teacher_that_returns_nan_is_an_error() -> None:
    teacher = Broken(lambda texts: [[np.nan, 1] if t == "b" else [0, 1] for t in texts])
    with pytest.raises(ValueError, match="found NaN or infinity for 'b'"):
        teacher_vectors(teacher, ["a", "b"])


def test_a_teacher_with_another_number_of_vectors_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"for 2 texts, Broken returned the shape"):
        teacher_vectors(Broken(lambda texts: np.ones((1, 3))), ["a", "b"])


def test_vectors_of_different_lengths_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    teacher = Broken(lambda texts: np.ones((len(texts), len(texts))))
    with pytest.raises(ValueError, match="vectors of one length, found 1 and 2"):
        teacher_vectors(teacher, ["a", "b", "c"])


def test_a_teacher_that_cannot_be_pickled_cannot_be_cached(tmp_path: Path) -> None:
    teacher = Broken(lambda texts: np.ones((len(texts), 2)))
    with pytest.raises(ValueError, match=r"must be picklable .*; pass cache=None"):
        teacher_vectors(teacher, ["a"], cache=tmp_path)


def test_the_number_of_threads_does_not_change_a_bit(
    transformer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(module, "CHUNK", 16)
    texts = ["a b " * (1 + number % 3) + "b" * (number % 2) for number in range(100)]
    encoder = SentenceEncoder(transformer).fit()
    n_threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [teacher_vectors(encoder, texts, n_threads=n) for n in (1, 3)]
    assert found[0].vectors.tobytes() == found[1].vectors.tobytes()
    assert torch.get_num_threads() == n_threads
    expected = transformer.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(found[0].vectors, expected, atol=1e-3)


def test_truncated_texts_are_counted_also_after_a_resumption(
    transformer: Any, tmp_path: Path
) -> None:
    encoder = SentenceEncoder(transformer).fit()
    texts = ["a", "a b a b a b b", "b"]
    for _ in range(2):
        found = teacher_vectors(encoder, texts, cache=tmp_path)
        assert found.n_truncated == 1


def test_a_teacher_is_identified_by_its_parameters(
    transformer: Any, tmp_path: Path
) -> None:
    import torch

    transformer.save(str(tmp_path / "model"))
    loaded = SentenceEncoder(str(tmp_path / "model"), device="cpu").fit()
    first = identity(SentenceEncoder(transformer).fit())
    assert identity(loaded) == identity(SentenceEncoder(loaded.model_).fit()) == first
    assert identity(SentenceEncoder(transformer, prompt="a").fit()) != first
    with torch.no_grad():
        next(transformer.parameters()).view(-1)[0] += 1
    assert identity(SentenceEncoder(transformer).fit()) != first


def test_teachers_of_all_kinds_are_opened(transformer: Any, tmp_path: Path) -> None:
    transformer.save(str(tmp_path / "model"))
    encoder = open_teacher(transformer)
    assert isinstance(encoder, SentenceEncoder)
    assert encoder.model_ is transformer
    assert isinstance(open_teacher(tmp_path / "model"), SentenceEncoder)
    assert tokenizer_of(encoder).get_vocab()["b"] == 6
    embedder = SentenceEmbedder({"a": [1.0, 2.0]}, weights=None).fit()
    assert open_teacher(embedder) is embedder
    assert tokenizer_of(embedder) is None
    with pytest.raises(TypeError, match="must be a path, a SentenceTransformer or"):
        open_teacher(3)


class TeacherOfTwoRuns(CountingTeacher):
    """Starts another run with the same cache while it embeds."""

    def transform(self, texts: list[str]) -> np.ndarray:
        cache = self.record.parent / "cache"
        return teacher_vectors(self, TEXTS, cache=cache).vectors


def test_two_runs_at_once_do_not_share_a_file(tmp_path: Path, record: Path) -> None:
    teacher = TeacherOfTwoRuns(record)
    for _ in range(2):  # the first releases its lock
        with pytest.raises(BlockingIOError, match="another run computes the vectors"):
            teacher_vectors(teacher, TEXTS, cache=tmp_path / "cache")
