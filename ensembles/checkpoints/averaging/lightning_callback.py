"""Averages in a run of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ensembles.checkpoints.averaging.model_tensors import unwrap, without_prefixes
from ensembles.checkpoints.averaging.moving_averages import Average
from ensembles.checkpoints.averaging.parameter_average import ParameterAverage

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:  # the same classes, in an older package
        from pytorch_lightning import (  # type: ignore[assignment]
            Callback,
            LightningModule,
            Trainer,
        )
    except ImportError as error:
        raise ImportError(
            "LightningAveraging needs Lightning: pip install lightning"
        ) from error

# Keys of a checkpoint: state dicts with averages, and what else a resumed run needs.
AVERAGES, REST = "averages", "averages_progress"


class LightningAveraging(Callback):
    """Keeps averages of the parameters in a run of Lightning.

    Averages are updated after each batch in which an optimizer has made a step. A
    checkpoint has the raw parameters in ``state_dict``, whenever it is saved, and
    averages in ``averages``, so that ``ensemble avg FILE --key averages.ema`` reads
    them. A resumed run continues from the raw parameters, bit for bit, and the module
    has raw parameters after training.

    Parameters
    ----------
    averages : EMA, PowerEMA, SWA or LAWA, or mapping of str to such averages
        What is kept, as for `ParameterAverage`.
    evaluate : str or None, default=None
        Name of the average whose parameters are validated and tested, and predict, from
        its first member on. None uses the raw parameters.
    resume : bool, default=True
        Whether a resumed run continues the averages of its checkpoint. False starts new
        ones.
    **options
        Options of `ParameterAverage`: ``buffers``, ``frozen``, ``dtype``, ``device``.

    Attributes
    ----------
    average : ParameterAverage or None
        The averages; None before training.

    Examples
    --------
    ::

        averaging = LightningAveraging(EMA(half_life=1000), evaluate="ema")
        Trainer(callbacks=[averaging]).fit(module)
        averaging.average.copy_to()  # continue with averaged parameters
    """

    def __init__(
        self,
        averages: Average | Mapping[str, Average],
        *,
        evaluate: str | None = None,
        resume: bool = True,
        **options: Any,
    ) -> None:
        self.averages = averages
        self.evaluate = evaluate
        self.resume = resume
        self.options = options
        self.average: ParameterAverage | None = None
        self._saved: Mapping[str, Any] | None = None
        self._swap = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Discard a state that an earlier run has not used."""
        self._saved = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the state of the averages; the module may not be on its device yet."""
        is_fit = trainer.state.fn == "fit"
        if is_fit and not self.resume:
            return
        if REST in checkpoint:
            names, rest = checkpoint[REST]["names"], checkpoint[REST]["state"]
            averages = {
                name: {key: tensors[key] for key in names}
                for name, tensors in checkpoint[AVERAGES].items()
            }
            self._saved = {**averages, **rest}
        elif is_fit:
            raise ValueError(
                "the checkpoint has no averages: it was saved without "
                "LightningAveraging; pass resume=False to start new averages"
            )
        else:
            self.average = None  # of other parameters than those of the checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make averages of the module, or continue them."""
        average = self.average
        continues = (
            self._saved is None
            and average is not None
            and average.model is unwrap(pl_module)
            and average.step == trainer.global_step
        )
        if not continues:
            self._make(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        """Update the averages, unless gradients were only accumulated."""
        if self.average is not None and trainer.global_step > self.average.step:
            self.average.update(trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap averaged parameters in, if there are any."""
        if self.evaluate is None:
            return
        if self._saved is not None:
            self._make(pl_module)
        average = self.average
        if average is None or average.model is not unwrap(pl_module):
            return  # another module than the trained one
        if average.n_members(self.evaluate):
            self._swap.enter_context(average.swap(self.evaluate))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap raw parameters in."""
        self._swap.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Swap raw parameters in."""
        self._swap.close()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add averages to a checkpoint, and raw parameters inside of a validation."""
        if self.average is None:
            return
        raw = self.average.raw_state_dict()
        if self.average.is_swapped:
            checkpoint["state_dict"] = {
                name: raw.get(without_prefixes(name), value)
                for name, value in checkpoint["state_dict"].items()
            }
        state = self.average.state_dict()
        averages = {n: state.pop(n) for n in self.average.averages if n in state}
        names = [*next(iter(averages.values()), [])]
        # Other tensors are those of state_dict, which a file stores once.
        checkpoint[AVERAGES] = {n: {**raw, **t} for n, t in averages.items()}
        checkpoint[REST] = {"names": names, "state": state}

    def _make(self, pl_module: LightningModule) -> None:
        """Averages of a module, in the saved state if there is one."""
        self.average = ParameterAverage(pl_module, self.averages, **self.options)
        if self.evaluate is not None:
            self.average.n_members(self.evaluate)  # raises if the name is unknown
        if self._saved is not None:
            self.average.load_state_dict(self._saved)
            self._saved = None
