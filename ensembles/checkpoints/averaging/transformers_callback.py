"""Averages in a run of the Hugging Face Trainer."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ensembles.atomic_io import atomic_output
from ensembles.checkpoints.averaging.moving_averages import Average
from ensembles.checkpoints.averaging.parameter_average import ParameterAverage

STATE = "trainer_averages.pt"  # recognized as training state by its first word
FOLDER = "averaged"
WEIGHTS = "pytorch_model.bin"


class TransformersAveraging(TrainerCallback):
    """Keeps averages of the parameters in a run of the Hugging Face Trainer.

    Averages are updated after each optimizer step that was not skipped. Each
    ``checkpoint-N`` gets their state, from which a resumed run continues, bit for bit,
    and models with averaged parameters in ``checkpoint-N/averaged/NAME``, which
    ``from_pretrained`` loads. The other files of the checkpoint have the raw
    parameters, and so has the model after training.

    Parameters
    ----------
    averages : EMA, PowerEMA, SWA or LAWA, or mapping of str to such averages
        What is kept, as for `ParameterAverage`.
    evaluate : str or None, default=None
        Name of the average whose parameters are evaluated, from its first member on.
        It needs `attach`. None evaluates the raw parameters.
    resume : bool, path, default=True
        State from which a resumed run continues. True: that of the checkpoint with the
        step of the run in the output directory. A path: a checkpoint of the run in
        another folder. False: none, averages start at this step.
    **options
        Options of `ParameterAverage`: ``buffers``, ``frozen``, ``dtype``, ``device``.

    Attributes
    ----------
    average : ParameterAverage or None
        The averages; None before training.

    Examples
    --------
    ::

        averaging = TransformersAveraging(EMA(half_life=1000), evaluate="ema")
        averaging.attach(trainer)
        trainer.train()
        averaging.average.copy_to()  # continue with averaged parameters
    """

    def __init__(
        self,
        averages: Average | Mapping[str, Average],
        *,
        evaluate: str | None = None,
        resume: bool | str | os.PathLike[str] = True,
        **options: Any,
    ) -> None:
        self.averages = averages
        self.evaluate = evaluate
        self.resume = resume
        self.options = options
        self.average: ParameterAverage | None = None
        self._is_attached = False

    def attach(self, trainer: Trainer) -> None:
        """Add the callback to a trainer, and evaluate averaged parameters if asked to.

        Parameters
        ----------
        trainer : Trainer
            Its ``evaluate`` and ``predict`` are replaced by functions that swap
            averaged parameters in, unless ``evaluate`` of the callback is None.

        Raises
        ------
        ValueError
            If the trainer has the callback already.
        """
        if self in trainer.callback_handler.callbacks:
            raise ValueError(
                "the trainer has this callback already and would update its averages "
                "twice: call averaging.attach(trainer) once, without callbacks=[...]"
            )
        trainer.add_callback(self)
        self._is_attached = True
        if self.evaluate is not None:
            for name in ("evaluate", "predict"):
                setattr(trainer, name, self._swapped(getattr(trainer, name)))

    def _swapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Function that runs with averaged parameters, once there are any."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            average = self.average
            # Evaluations of several data sets call each other.
            if (
                average is None
                or average.is_swapped
                or not average.n_members(self.evaluate)
            ):
                return function(*args, **kwargs)
            with average.swap(self.evaluate):
                return function(*args, **kwargs)

        return run

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Make averages of the model, or continue those of the checkpoint."""
        if self.evaluate is not None and not self._is_attached:
            raise ValueError(
                f"evaluate={self.evaluate!r} needs the trainer: call "
                "averaging.attach(trainer) instead of passing it in callbacks"
            )
        if state.is_hyper_param_search:
            raise ValueError(
                "averages in a hyperparameter search are not supported; train the best "
                "trial with TransformersAveraging"
            )
        if self.evaluate is not None and args.load_best_model_at_end:
            warnings.warn(
                "load_best_model_at_end loads raw parameters, but the metrics are "
                f"those of the average {self.evaluate!r}; load "
                f"{FOLDER}/{self.evaluate} of the best checkpoint instead",
                stacklevel=2,
            )
        self.average = ParameterAverage(model, self.averages, **self.options)
        if self.evaluate is not None:
            self.average.n_members(self.evaluate)  # raises if the name is unknown
        if state.global_step and self.resume is not False:
            path = self._saved(Path(args.output_dir), state.global_step)
            self.average.load_state_dict(torch.load(path, "cpu", weights_only=True))
            if self.average.step > state.global_step:
                raise ValueError(
                    f"{path} has averages of step {self.average.step}, after step "
                    f"{state.global_step} of the resumed run"
                )

    def on_step_end(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Update the averages, unless a gradient scaler skipped the step."""
        if self.average and not getattr(optimizer, "step_was_skipped", False):
            self.average.update(state.global_step)

    def on_save(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Save the averages in the checkpoint that was saved."""
        if self.average is None or not state.is_world_process_zero:
            return
        folder = _checkpoint(Path(args.output_dir), state.global_step)
        for name in self.average.averages:
            if self.average.n_members(name):
                save_model(
                    folder / FOLDER / name,
                    self.average.model,
                    self.average.averaged_state_dict(name),
                    processing_class,
                )
        if not args.save_only_model:
            # Written last: with it, the checkpoint is complete.
            with atomic_output(folder / STATE, folder=False, force=True) as temporary:
                torch.save(self.average.state_dict(), temporary)

    def _saved(self, folder: Path, step: int) -> Path:
        """File of the state from which a run that was resumed at a step continues."""
        checkpoint = _checkpoint(folder, step)
        if self.resume is not True:
            checkpoint = Path(self.resume)  # type: ignore[arg-type]
        if (checkpoint / STATE).exists():
            return checkpoint / STATE
        others = sorted(
            (path.parent.name for path in folder.glob(f"checkpoint-*/{STATE}")),
            key=lambda name: int(re.sub(r"\D", "", name) or 0),
        )
        complete = f"resume from {others[-1]}, which has it, or " if others else ""
        raise ValueError(
            f"the run continues at step {step}, and {checkpoint} has no {STATE} with "
            f"its averages; {complete}pass resume=CHECKPOINT with the folder that has "
            "it, or resume=False to start new averages"
        )


def save_model(
    folder: Path, model: Any, state: dict[str, Any], processing_class: Any
) -> None:
    """Save a model with other parameters, so that ``from_pretrained`` loads it.

    Parameters
    ----------
    folder : Path
        Folder, created if it does not exist.
    model : Module
        The model. If it has no ``save_pretrained``, only its state dict is saved.
    state : dict of str to Tensor
        State dict to save.
    processing_class : object with ``save_pretrained``, or None
        Tokenizer or processor to save too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder, state_dict=state)
    else:
        torch.save(state, folder / WEIGHTS)
    if processing_class is not None:
        processing_class.save_pretrained(folder)


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"
