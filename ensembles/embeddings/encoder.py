"""Sentence vectors of transformers behind the interface of `SentenceEmbedder`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ensembles.embeddings.base import TextTransformer, check_texts
from ensembles.embeddings.postprocessing.quantization import (
    FLOATS,
    cast,
    check_dtype,
    normalized,
)
from ensembles.embeddings.remote_code import check_no_remote_code
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.tokenization.texts import decoded, parts_of

INSTALL = "pip install 'ensemble-avg[sentence]'"
AROUND = 8  # tokens that a tokenizer adds to a text, at most
TORCH = (2, 6)  # the first that reads pickles without running them, unless asked to


class SentenceEncoder(TextTransformer):
    """Transformer from texts to vectors, by a model of sentence-transformers.

    An empty text, None and NaN have a vector of zeros, as in `SentenceEmbedder`. Texts
    beyond the model's ``max_seq_length`` are cut off, with a warning. Texts
    of other lengths in a batch are padded, which moves a vector by rounding only.

    Parameters
    ----------
    model : path, str or SentenceTransformer
        As `sentence_transformers.SentenceTransformer` takes it, or one that is loaded.
        No code of a directory is run: one that names classes of its own is refused.
    prompt : str or None, default=None
        Put before each text. None is the model's own default prompt, if it has one.
    n_components : int or None, default=None
        Keep the first so many dimensions, of models made for it.
    normalize : bool, default=False
        Whether vectors are brought to length 1.
    batch_size : int, default=32
    device : str or None, default=None
        None leaves it to sentence-transformers.
    dtype : {"float32", "float16", "float64"}, default="float32"

    Attributes
    ----------
    model_ : SentenceTransformer
    """

    def __init__(
        self,
        model: Any,
        *,
        prompt: str | None = None,
        n_components: int | None = None,
        normalize: bool = False,
        batch_size: int = 32,
        device: str | None = None,
        dtype: Any = "float32",
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.n_components = n_components
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def fit(self, X: Any = None, y: Any = None) -> SentenceEncoder:
        """Load the model.

        Parameters
        ----------
        X : None
            Not used.
        y : None
            Not used.

        Returns
        -------
        self
        """
        if check_dtype(self.dtype) not in FLOATS:
            raise ValueError(
                f"dtype must be one of {', '.join(FLOATS)}, found {self.dtype!r}"
            )
        if X is not None:
            check_texts(X)
        self.model_ = self._loaded()
        # Renamed in version 6; both are asked for.
        ask = getattr(self.model_, "get_embedding_dimension", None)
        dim = ask() if ask else self.model_.get_sentence_embedding_dimension()
        if not isinstance(dim, int):
            raise ValueError(
                f"{self.model} must have a number of dimensions, found {dim!r}"
            )
        if self.n_components is not None and not 1 <= self.n_components <= dim:
            raise ValueError(
                f"n_components must be from 1 to {dim}, the model's dimensions; found "
                f"{self.n_components!r}"
            )
        self._n_features_out = int(self.n_components or dim)
        return self

    @property
    def used_prompt(self) -> str:
        """What is put before each text: ``prompt``, or the model's default prompt."""
        if self.prompt is not None:
            return self.prompt
        prompts = getattr(self.model_, "prompts", None) or {}
        return prompts.get(getattr(self.model_, "default_prompt_name", None)) or ""

    def transform(self, X: Any) -> Any:
        """Vectors of texts.

        Parameters
        ----------
        X : iterable or column of str

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``

        Raises
        ------
        ValueError
            If the model gives NaN or infinity.

        Warns
        -----
        UserWarning
            If a text has more tokens than the model reads.
        """
        check_is_fitted(self)
        vectors, n_cut = self._encoded(X)
        if n_cut:
            warnings.warn(
                f"{n_cut} of {len(vectors)} texts have more than the "
                f"{self.model_.max_seq_length} tokens that the model reads: the rest "
                "of them is cut off; split long texts, and average the vectors",
                stacklevel=2,
            )
        return vectors

    def _encoded(self, X: Any) -> tuple[Any, int]:
        """Vectors of texts, and how many texts the model cuts off."""
        texts = [text for part in parts_of(check_texts(X)) for text in decoded(part)]
        out = np.zeros((len(texts), self._n_features_out), np.float32)
        filled = [index for index, text in enumerate(texts) if text.strip()]
        n_cut = 0
        if filled:
            some = [texts[index] for index in filled]
            n_cut = self._count_cut(some)
            found = self.model_.encode(
                some,
                prompt=self.prompt,
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            out[filled] = found[:, : self._n_features_out]
        broken = np.flatnonzero(~np.isfinite(out).all(axis=1))
        if len(broken):
            raise ValueError(
                f"{self.model} must give finite vectors, but gives NaN or infinity for "
                f"{len(broken)} of {len(texts)} texts, such as "
                f"{texts[broken[0]][:60]!r}; a model in float16 may overflow: load it "
                "in float32 and pass it"
            )
        out = normalized(out) if self.normalize else out
        return cast(out, check_dtype(self.dtype), 1.0), n_cut

    def _count_cut(self, texts: list[str]) -> int:
        """Number of texts with more tokens than the model reads."""
        most = getattr(self.model_, "max_seq_length", None)
        tokenizer: Any = getattr(self.model_, "tokenizer", None)
        if not isinstance(most, int) or not hasattr(tokenizer, "model_max_length"):
            return 0
        texts = [self.used_prompt + text for text in texts]
        # A token has a byte at least, but for those at the ends of a text.
        long = [text for text in texts if len(text.encode()) > most - AROUND]
        if not long:
            return 0
        ids = tokenizer(long, truncation=False, verbose=False)["input_ids"]
        return sum(len(one) > most for one in ids)

    def counted(self, X: Any, coverage: Coverage) -> Any:
        """Vectors of texts as `transform` gives them; texts without any are counted.

        Parameters
        ----------
        X : sequence or column of str
        coverage : Coverage
            What is added to.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out), of ``dtype``
        """
        found, n_cut = self._encoded(X)
        n_empty = len(found) - int(np.count_nonzero(found.any(axis=1)))
        coverage.add_texts(len(found), n_empty, n_cut)
        return found

    def _loaded(self) -> Any:
        if not isinstance(self.model, str | os.PathLike):
            return self.model
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError(
                f"SentenceEncoder needs the package sentence-transformers: {INSTALL}"
            ) from None
        return _loaded(str(self.model), SentenceTransformer, self.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar, which would be drawn into any program's output."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loaded(path: str, kind: Any, device: str | None) -> Any:
    """Model of a directory, or of a name on the Hub."""
    import torch

    if Path(path).is_dir():
        check_no_remote_code(Path(path))
        old = tuple(map(int, torch.__version__.split(".")[:2])) < TORCH
        pickled = [*Path(path).rglob("*.bin"), *Path(path).rglob("*.pt")]
        if old and pickled:
            raise ValueError(
                f"{pickled[0]} is a pickle, which torch {torch.__version__} would run; "
                "torch 2.6 and newer reads the tensors alone"
            )
    try:
        with _quiet():
            return kind(path, device=device, trust_remote_code=False)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be loaded by sentence-transformers: "
            f"{type(error).__name__}: {error}"
        ) from error
