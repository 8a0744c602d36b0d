"""Averages in the training of a skorch net."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from skorch.callbacks import Callback, Checkpoint, LoadInitState

from ensembles.checkpoints.averaging.model_tensors import unwrap
from ensembles.checkpoints.averaging.moving_averages import Average
from ensembles.checkpoints.averaging.parameter_average import ParameterAverage

ATTRIBUTE = "average_"  # of the net; skorch saves it as f_average


class SkorchAveraging(Callback):
    """Keeps averages of the parameters while a skorch net is fitted.

    The averages are in the attribute ``average_`` of the net, a `ParameterAverage`, and
    are updated after each step of ``net.optimizer_``. ``Checkpoint`` saves their state
    if it has ``f_average``, and ``LoadInitState`` restores it, so that a training that
    was stopped continues bit for bit. The module has raw parameters all the time.

    Parameters
    ----------
    averages : EMA, PowerEMA, SWA or LAWA, or mapping of str to such averages
        What is kept, as for `ParameterAverage`.
    options : dict or None, default=None
        Options of `ParameterAverage`: ``buffers``, ``frozen``, ``dtype``, ``device``.

    Examples
    --------
    ::

        checkpoint = Checkpoint(dirname="run", monitor=None, f_average="average.pt")
        averaging = SkorchAveraging(SWA(start=500))
        callbacks = [averaging, checkpoint, LoadInitState(checkpoint)]
        net = NeuralNetClassifier(module, callbacks=callbacks).fit(X, y)
        with net.average_.swap():
            net.predict(X)
    """

    def __init__(
        self,
        averages: Average | Mapping[str, Average],
        options: dict[str, Any] | None = None,
    ) -> None:
        self.averages = averages
        self.options = options

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:
        """Make averages of the module, unless its training continues."""
        _check_order(net, self)
        average = getattr(net, ATTRIBUTE, None)
        if average is None or average.model is not unwrap(net.module_):
            average = ParameterAverage(
                net.module_, self.averages, **(self.options or {})
            )
            setattr(net, ATTRIBUTE, average)
        if ATTRIBUTE not in net.cuda_dependent_attributes_:
            # Pickled together with the module, whose parameters it refers to.
            net.cuda_dependent_attributes_ = [
                *net.cuda_dependent_attributes_,
                ATTRIBUTE,
            ]
        self._remove_hook()
        optimizer = getattr(net.optimizer_, "optimizer", net.optimizer_)  # accelerate
        self.hook_ = optimizer.register_step_post_hook(
            lambda *_: getattr(net, ATTRIBUTE).update()
        )

    def on_epoch_begin(self, net: Any, *_: Any, **__: Any) -> None:
        """Warn if a training continues, and its averages do not."""
        n_epochs = len(net.history) - 1
        if n_epochs and not getattr(net, ATTRIBUTE).step:
            warnings.warn(
                f"the training continues after {n_epochs} epochs, and its averages "
                "start now; to continue them too, pass f_average='average.pt' to "
                "Checkpoint",
                stacklevel=2,
            )

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **_: Any) -> None:
        """Stop updating."""
        self._remove_hook()

    def __getstate__(self) -> dict[str, Any]:
        return {name: v for name, v in vars(self).items() if name != "hook_"}

    def _remove_hook(self) -> None:
        """Remove the hook of this training, or of one that ended by an exception."""
        if hasattr(self, "hook_"):
            self.hook_.remove()
            del self.hook_


def _check_order(net: Any, callback: SkorchAveraging) -> None:
    """Raise if a state would be loaded before there are averages."""
    callbacks = [entry for _, entry in net.callbacks_]
    later = callbacks[callbacks.index(callback) :]
    for other in callbacks:
        if isinstance(other, LoadInitState) and other not in later:
            raise ValueError(
                "SkorchAveraging must come before LoadInitState in callbacks, which "
                "restores its averages"
            )
        if isinstance(other, Checkpoint) and not hasattr(other, "f_average"):
            warnings.warn(
                "Checkpoint does not save averages; pass f_average='average.pt'",
                stacklevel=2,
            )
