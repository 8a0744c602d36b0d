"""What the transformers of texts share: what they take, and how they say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)


class TextTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of transformers from texts to vectors."""

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit to texts, then transform them; an iterator is gone through once.

        Parameters
        ----------
        X : iterable or column of str
        y : None
            Not used.
        **fit_params
            For `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_features_out)
        """
        texts = list(X) if isinstance(X, Iterator) else X
        return super().fit_transform(texts, y, **fit_params)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.input_tags.allow_nan = True
        tags.requires_fit = True
        return tags


def check_texts(texts: Any) -> Any:
    """The texts, known to be of one axis and not one text; the column of a frame.

    Parameters
    ----------
    texts : object

    Returns
    -------
    object
        The same, or the only column of a frame or an array of shape (n_texts, 1).

    Raises
    ------
    ValueError
        If it is one str, or has columns.
    """
    if isinstance(texts, list):
        return texts
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"texts must be a sequence of str, found one {type(texts).__name__}; "
            "write [text]"
        )
    shape: Any = getattr(texts, "shape", (0,))
    if len(shape) == 2 and shape[1] == 1:
        return _only_column(texts)
    if len(shape) != 1:
        raise ValueError(
            f"texts must be one column, found shape {shape}; choose it, as in "
            "X['text'] or X[:, 0]"
        )
    if not hasattr(texts, "__iter__") and not hasattr(texts, "__arrow_c_stream__"):
        raise TypeError(f"texts must be a sequence of str, found {texts!r}")
    return texts


def _only_column(texts: Any) -> Any:
    if hasattr(texts, "column"):  # of pyarrow
        return texts.column(0)
    if hasattr(texts, "columns"):
        return texts[texts.columns[0]]
    return texts[:, 0]
