"""Save fitted embedders as a directory of safetensors and JSON, without pickle.

If the sentence vector is linear in the word vectors (a weighted mean of words, then
component removal, whitening or principal axes), weights and projection are folded into
the table, and model2vec and sentence-transformers load the directory as a static model.
Otherwise the table is named ``table``, and only this library loads it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._sklearn import check_choice
from ensembles._typing import Float64
from ensembles.atomic_io import atomic_output, check_absent
from ensembles.embeddings.files.vector_files import save_tensors
from ensembles.embeddings.persistence.table import TABLE_DTYPES, build_table
from ensembles.embeddings.postprocessing.projection import Projection
from ensembles.embeddings.postprocessing.quantization import quantize
from ensembles.embeddings.text_average import TextAverager
from ensembles.embeddings.tokenization.tokenizer import PORTABLE
from ensembles.embeddings.vectors.lookup import VocabularyLookup
from ensembles.embeddings.vectors.model_directory import OWN, TABLE, VERSION, unknown_id
from ensembles.embeddings.vectors.vector_table import Matrix
from ensembles.parallel import chunks

STEP = 1 << 16  # rows of a block


@dataclass(frozen=True, eq=False)
class SavedEmbedder:
    """State of a fitted embedder.

    Parameters
    ----------
    params : dict of str to value
        Constructor parameters of the embedder.
    averager : TextAverager
        Vectors, tokenizer, pooling rules and word weights.
    projection : Projection or None
        Removed components, whitening and principal axes; None if not used.
    normalize : bool
        Whether sentence vectors are L2-normalized.
    dtype : str
        Data type of the sentence vectors.
    scale : float or None
        Magnitude that "int8" maps to 127; None for other data types.
    coverage : float
        Share of the training tokens that have a vector; NaN without training texts.
    """

    params: dict[str, Any]
    averager: TextAverager
    projection: Projection | None
    normalize: bool
    dtype: str
    scale: float | None
    coverage: float

    @property
    def n_features_out(self) -> int:
        """Number of columns of the output of ``transform``."""
        n_columns = self.averager.n_columns
        if self.projection is not None:
            n_columns = int(self.projection.matrix.shape[1])
        return -(-n_columns // 8) if self.dtype == "binary" else n_columns

    def transform(self, texts: Any, n_threads: int | None = 1) -> NDArray[Any]:
        """Vectors of texts, as `SentenceEmbedder.transform` returns them."""
        options: Any = {"normalize": self.normalize}
        vectors = self.averager.projected(texts, n_threads, self.projection, **options)
        return quantize(vectors, self.dtype, self.scale or 1.0)

    @property
    def is_linear(self) -> bool:
        """Whether a sentence vector is the plain mean of fixed vectors of its words.

        Weights and projection can then be folded into the table of word vectors.
        """
        averager, projection = self.averager, self.projection
        if len(averager.rules) > 1 or not averager.rules[0].linear:
            return False
        if averager.weights is not None and averager.divide != "count":
            return False
        # A sentence vector of zeros is not centered, but a zero word vector in another
        # sentence is: no single table gives both.
        is_centered = projection is not None and projection.mean.any()
        return not (is_centered and self._has_zeros)

    @property
    def _has_zeros(self) -> bool:
        weights = self.averager.weights
        if weights is not None and not weights.all():
            return True
        matrix = self.averager.lookup.vectors.matrix
        steps = chunks(len(matrix), STEP)
        return any(not matrix[start:stop].any(axis=1).all() for start, stop in steps)

    def fold(self, rows: NDArray[np.int64]) -> Float64:
        """Weighted and projected word vectors, of shape (n_rows, n_columns)."""
        averager = self.averager
        folded: Float64 = averager.lookup.vectors.matrix[rows].astype(np.float64)
        if averager.weights is not None:
            folded *= averager.weights[rows][:, None]
        if self.projection is not None:
            folded = (folded - self.projection.mean) @ self.projection.matrix
        return folded


# Parameters that JSON can store as they are.
PLAIN = (
    *("rule_params", "weights_params", "remove_components", "whiten"),
    *("n_components", "n_jobs"),
)
PARAMETERS = (  # all that are saved
    *("rule", "normalize", "tokenizer", "lowercase", "unknown", "dtype", "weights"),
    *PLAIN,
)
PROJECTION = ("matrix", "mean", "components", "shares")
STATIC = "sentence_transformers.models.StaticEmbedding"
NORMALIZE = "sentence_transformers.models.Normalize"


def save(
    saved: SavedEmbedder,
    path: str | os.PathLike[str],
    *,
    table_dtype: str | None = None,
    force: bool = False,
) -> None:
    """Write a fitted embedder to a directory, atomically.

    The loaded embedder returns the same vectors, up to float32 rounding if the table is
    folded. For a text with unknown words, sentence-transformers returns a shorter
    vector of the same direction, because it counts them in the mean.

    Parameters
    ----------
    saved : SavedEmbedder
        State of the embedder.
    path : path
        Directory to write.
    table_dtype : {"float32", "float16", "int8"} or None, default=None
        Data type of the table in the file. "int8" has one scale per row, which
        model2vec and current versions of sentence-transformers read as weights of the
        tokens. None keeps the data type of vectors that are saved unchanged, and is
        float32 otherwise.
    force : bool, default=False
        Whether an existing directory is replaced.

    Raises
    ------
    ValueError
        If ``table_dtype`` is not one of these, a vector is too large for float16, the
        tokenizer is a callable, which cannot be stored without code, a
        tokenizer of subword tokens has tokens without a vector, or unknown words are
        composed of n-grams, which stay in another file.
    FileExistsError
        If ``path`` exists and not ``force``.
    """
    path = Path(path)
    check_choice("table_dtype", table_dtype, (None, *TABLE_DTYPES))
    check_absent(path, folder=True, force=force)
    lookup = saved.averager.lookup
    if lookup.unknown == "subword" and not lookup.uses_subword_tokenizer:
        raise ValueError(
            "an embedder with unknown='subword' cannot be saved, because its n-grams "
            f"stay in {lookup.vectors.source}; pickle it, or use unknown='skip'"
        )
    tokenizer, row_of = _tokenizer(lookup)
    folded = saved.is_linear and _is_portable(tokenizer)
    tensors = _tensors(saved, row_of, folded, table_dtype)
    with atomic_output(path, folder=True, force=force) as folder:
        save_tensors(tensors, folder / "model.safetensors")
        _write_json(folder / "tokenizer.json", tokenizer)
        _write_json(folder / "config.json", _config(saved, folded))
        if folded:
            modules = [{"idx": 0, "name": "0", "path": ".", "type": STATIC}]
            if saved.normalize:
                entry = {"idx": 1, "name": "1", "path": "1_Normalize"}
                modules.append({**entry, "type": NORMALIZE})
            _write_json(folder / "modules.json", modules)


def _is_portable(tokenizer: dict[str, Any]) -> bool:
    """Whether the package tokenizers accepts the tokenizer and its pattern."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return True
    try:
        Tokenizer.from_str(json.dumps(tokenizer))
    except Exception:  # the Rust binding raises plain Exception
        return False
    return True


def _tensors(
    saved: SavedEmbedder,
    row_of: NDArray[np.int64],
    folded: bool,
    table_dtype: str | None,
) -> dict[str, NDArray[Any]]:
    averager, projection = saved.averager, saved.projection
    matrix = averager.lookup.vectors.matrix

    def vectors_of(start: int, stop: int) -> NDArray[Any]:
        rows = row_of[start:stop]
        vectors = saved.fold(rows) if folded else np.asarray(matrix[rows])
        vectors[rows < 0] = 0
        return vectors

    is_unchanged = not folded or (projection is None and averager.weights is None)
    dtype = np.dtype(table_dtype or (_dtype(matrix) if is_unchanged else np.float32))
    columns = matrix if projection is None or not folded else projection.matrix
    shape = (len(row_of), columns.shape[1])
    scaled = table_dtype == "int8"
    table, scales = build_table(vectors_of, shape, dtype, scaled=scaled)
    tensors = {"embeddings" if folded else TABLE: table}
    if scales is not None:
        tensors["weights"] = scales
    if folded:
        return tensors
    if averager.weights is not None:
        rows = row_of if averager.lookup.uses_subword_tokenizer else row_of[:-1]
        weights = np.where(rows < 0, np.float32(0), averager.weights[rows])
        tensors["row_weights"] = weights
    if projection is not None:
        for name in PROJECTION:
            array = np.ascontiguousarray(getattr(projection, name))
            tensors[f"projection.{name}"] = array
    return tensors


def _dtype(matrix: Matrix) -> np.dtype[Any]:
    # NumPy, and so model2vec, cannot read bfloat16.
    return np.dtype("float32" if matrix.dtype.name == "bfloat16" else matrix.dtype)


def _config(saved: SavedEmbedder, folded: bool) -> dict[str, Any]:
    averager, lookup, params = saved.averager, saved.averager.lookup, saved.params
    coverage = None if np.isnan(saved.coverage) else saved.coverage
    weights = params["weights"] if isinstance(params["weights"], str) else None
    tokenizer = None if lookup.uses_subword_tokenizer else lookup.tokenizer
    common = {
        "rule": [rule.name for rule in averager.rules],
        "normalize": saved.normalize,
        "tokenizer": tokenizer,
        "lowercase": lookup.lowercase,
        "unknown": lookup.unknown,
        "dtype": saved.dtype,
    }
    learned = {"weights": weights, **{name: params[name] for name in PLAIN}}
    if folded:
        parameters = {**common, "weights": None, "n_jobs": params["n_jobs"]}
    else:
        parameters = {**common, **learned}
    return {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": saved.n_features_out,
        "normalize": saved.normalize,
        "max_length": None,
        OWN: {
            "version": VERSION,
            "folded": folded,
            "subword_tokenizer": lookup.uses_subword_tokenizer,
            "parameters": parameters,
            "recipe": {**common, **learned},
            "state": {
                "oov_weight": averager.oov_weight,
                "divide": averager.divide,
                "scale": saved.scale,
                "coverage": coverage,
            },
        },
    }


def _tokenizer(lookup: VocabularyLookup) -> tuple[Any, NDArray[np.int64]]:
    """Content of tokenizer.json, and the row of each token id (-1: no row)."""
    vocabulary = lookup.vocabulary
    if lookup.uses_subword_tokenizer:
        backend = getattr(lookup.tokenizer, "backend_tokenizer", lookup.tokenizer)
        ids_of_tokens = backend.get_vocab(with_added_tokens=True)
        n_ids = max(ids_of_tokens.values()) + 1
        if lookup.tokenizer is lookup.vectors.tokenizer:
            n_ids = len(lookup.vectors.tokens)
        row_of = np.full(n_ids, -1)
        for token, token_id in ids_of_tokens.items():
            row_of[token_id] = vocabulary.get(token, -1)
        unk_id = unknown_id(backend)
        if any(row_of[n] < 0 for n in ids_of_tokens.values() if n != unk_id):
            raise ValueError(
                "every token of the tokenizer must have a vector to save the embedder; "
                "pickle it instead"
            )
        return json.loads(backend.to_str()), row_of
    if lookup.tokenizer is not None and not isinstance(lookup.tokenizer, str):
        raise ValueError(
            "an embedder whose tokenizer is a callable cannot be saved, because the "
            "callable is code; pickle it, or use a regular expression as tokenizer"
        )
    unknown = "[UNK]"
    while unknown in vocabulary:
        unknown = f"[{unknown}]"
    ids = {token: number for number, token in enumerate([*vocabulary, unknown])}
    row_of = np.append(np.fromiter(vocabulary.values(), np.int64, len(vocabulary)), -1)
    return _word_level(lookup, ids, unknown), row_of


def _word_level(
    lookup: VocabularyLookup, ids: dict[str, int], unknown: str
) -> dict[str, Any]:
    """Word-level tokenizer in the JSON format of the package tokenizers."""
    pattern = PORTABLE if lookup.tokenizer is None else lookup.tokenizer
    pattern = pattern.removeprefix("(?u)")  # the default in Python 3
    splitter: dict[str, Any] = {"type": "WhitespaceSplit"}
    if pattern != "whitespace":
        splitter = {"type": "Split", "pattern": {"Regex": pattern}}
        splitter |= {"behavior": "Removed", "invert": True}
    steps = [{"type": "NFC"}, *([{"type": "Lowercase"}] if lookup.lowercase else [])]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": splitter,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": unknown},
    }


def _write_json(path: Path, value: Any) -> None:
    # Parameters may be NumPy scalars, e.g. after a grid search over an array.
    item = methodcaller("item")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=item)
    path.write_text(text, "utf-8")
