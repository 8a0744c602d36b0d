"""Display of the cosine similarities between task vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Keys
from ensembles.checkpoints.inspection.task_vectors import task_vector_gram
from ensembles.checkpoints.planning.options import MEMORY, Missing
from ensembles.reports.displays.display import Display, as_json
from ensembles.reports.displays.figures import import_pyplot, member_names
from ensembles.reports.displays.pairs import draw_pairs, pairs_figsize
from ensembles.reports.displays.scored_points import open_members


def cosines_of(gram: Float64) -> Float64:
    """Cosine similarities of vectors from their inner products.

    Parameters
    ----------
    gram : ndarray of shape (n, n)
        Inner products.

    Returns
    -------
    ndarray of shape (n, n), from -1 to 1
        NaN for vectors that are zero, or have NaN or infinity.
    """
    lengths = np.sqrt(np.diagonal(gram))
    with np.errstate(all="ignore"):
        cosines = gram / lengths[:, None] / lengths
    return np.where(np.isfinite(cosines), np.clip(cosines, -1, 1), np.nan)


class TaskVectorDisplay(Display):
    """Cosine similarities between task vectors, as a heat map.

    The task vector of a member is the difference of its parameters from the base.
    Cosines near 0 are usual for different tasks, and near 1 for the same fine-tune with
    other seeds.

    Parameters
    ----------
    cosines : array-like of shape (n_members, n_members)
        Cosine similarities; NaN if a task vector is zero or not finite.
    names : sequence of str
        Names of the members.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the last plot.
    figure_ : matplotlib.figure.Figure
        Figure of the last plot.

    Raises
    ------
    ValueError
        If the shape of ``cosines`` does not fit ``names``.

    References
    ----------
    Ilharco et al. (2023), "Editing models with task arithmetic", ICLR, section 4.

    Examples
    --------
    >>> TaskVectorDisplay([[1, 0.2], [0.2, 1]], names=["a", "b"]).summary
    'cosines of 2 task vectors from 0.2 to 0.2, mean 0.2'
    """

    def __init__(self, cosines: ArrayLike, *, names: Sequence[str]) -> None:
        self.cosines = np.asarray(cosines, np.float64)
        self.names = list(names)
        if self.cosines.shape != (len(self.names), len(self.names)):
            raise ValueError(
                f"cosines must have a row and a column for each of {len(self.names)} "
                f"names, found shape {self.cosines.shape}"
            )

    @classmethod
    def from_checkpoints(
        cls,
        members: Sequence[Any],
        base: Any,
        *,
        names: Sequence[str] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        missing: Missing = "error",
        key: Keys = None,
        memory: int = MEMORY,
        threads: int | None = None,
        progress: Callable[[int], None] = lambda n_bytes: None,
        ax: Any = None,
    ) -> Self:
        """Compute the cosines between task vectors, and draw them.

        The tensors of all members are streamed once. All of them count, as one vector.

        Parameters
        ----------
        members : sequence of paths, state dicts or fitted estimators, at least two
            Members.
        base : path, state dict or fitted estimator
            Checkpoint that the members were fine-tuned from.
        names : sequence of str or None, default=None
            Names of the members; None uses their paths, or letters.
        include, exclude : sequence of str, default=()
            Glob patterns for tensor names, as in `average`.
        missing : {"error", "skip", "first"}, default="error"
            How to handle a tensor that some checkpoints lack: raise an error, or leave
            it out.
        key : str, sequence of str or None, default=None
            Key of the state dict in PyTorch files, as in `average`.
        memory : int, default=64 MiB
            Largest total size of the read buffers, in bytes.
        threads : int or None, default=None
            Number of threads; None uses all processors available to the process.
        progress : callable, default does nothing
            Called with the number of bytes read since the last call, from any thread.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        TaskVectorDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If the members do not match, or there are fewer than two.
        """
        import_pyplot()
        if len(members) < 2:
            raise ValueError(f"cosines need at least two members, found {len(members)}")
        labels = member_names(members, names)
        gram = task_vector_gram(
            open_members(members, key=key),
            *open_members([base], key=key),
            include=include,
            exclude=exclude,
            missing=missing,
            memory=memory,
            threads=threads,
            progress=progress,
        )
        return cls(cosines_of(gram), names=labels).plot(ax)

    @property
    def figsize(self) -> tuple[float, float]:
        """Width and height in inches of a figure that the display creates."""
        return pairs_figsize(self.names)

    @property
    def pairs(self) -> Float64:
        """Cosines of all pairs of different members, without NaN."""
        values = self.cosines[np.triu_indices(len(self.names), 1)]
        return values[np.isfinite(values)]

    @property
    def summary(self) -> str:
        """One line with the range of the cosines."""
        undefined = [
            name
            for name, value in zip(self.names, np.diagonal(self.cosines), strict=True)
            if np.isnan(value)
        ]
        note = f"; zero or not finite: {', '.join(undefined)}" if undefined else ""
        if not len(self.pairs):
            return f"no pair of task vectors has a cosine{note}"
        low, high, mean = self.pairs.min(), self.pairs.max(), self.pairs.mean()
        return (
            f"cosines of {len(self.names)} task vectors from {low:.3g} to {high:.3g}, "
            f"mean {mean:.3g}{note}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Numbers of the picture as JSON values; a number that is not finite is None.

        Returns
        -------
        dict of str to JSON value
        """
        return {"names": self.names, "cosines": as_json(self.cosines)}

    def _draw(self, ax: Any) -> None:
        low = min(0.0, self.pairs.min(initial=0.0))
        high = max(self.pairs.max(initial=low), low + 0.05)
        draw_pairs(
            ax,
            self.cosines,
            self.names,
            limits=(low, high),
            label="cosine of task vectors",
        )
