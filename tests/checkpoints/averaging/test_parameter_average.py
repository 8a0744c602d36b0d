"""Averages kept while training, against float64 averages of all steps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.optim.swa_utils import AveragedModel

from ensembles.checkpoints import (
    EMA,
    LAWA,
    SWA,
    ParameterAverage,
    PowerEMA,
    average,
    recalibrate_batch_norm,
)
from ensembles.checkpoints.averaging import accumulation
from ensembles.checkpoints.averaging.moving_averages import Average
from ensembles.checkpoints.inspection.contents import inspect
from tests.checkpoints.averaging.runs import same
from tests.checkpoints.models import KINDS, example, snapshots

ALL: dict[str, Average] = {
    "ema": EMA(0.999),
    "short": EMA(half_life=5, warmup="ratio", every=2),
    "power": PowerEMA(gamma=6.94),
    "swa": SWA(start=20, every=3),
    "lawa": LAWA(k=4, every=10),
}


ema_of_torch: Any = swa_utils.get_ema_multi_avg_fn


class Small(nn.Module):
    """Frozen and tied parameters, buffers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("cache", torch.ones(2), persistent=False)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.norm(self.frozen(self.embedding(words)))
        return self.head(hidden)  # type: ignore[no-any-return]


def train(
    model: nn.Module, n_steps: int, after: Callable[[int], None], *, first: int = 1
) -> None:
    """Steps that depend on their numbers alone, so that a run may be resumed."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(first, first + n_steps):
        generator = torch.Generator().manual_seed(step)
        words = torch.randint(5, (8,), generator=generator)
        optimizer.zero_grad()
        loss: Any = nn.functional.cross_entropy(model(words).float(), words)
        loss.backward()
        optimizer.step()
        after(step)


def made(dtype: torch.dtype = torch.float32) -> Small:
    torch.manual_seed(0)
    return Small().to(dtype)


def test_1000_steps_in_bfloat16_equal_the_float64_average() -> None:
    model = made(torch.bfloat16)
    kept = ParameterAverage(model, ALL)
    history: list[Tensor] = []

    def after(step: int) -> None:
        kept.update()
        history.append(model.embedding.weight.detach().double())

    train(model, 1000, after)
    ema, power = history[0].clone(), history[0].clone()
    for t, member in enumerate(history[1:], 2):
        ema = 0.999 * ema + 0.001 * member
        beta = (1 - 1 / t) ** 7.94
        power = beta * power + (1 - beta) * member
    expected = {
        "ema": ema,
        "power": power,
        "swa": torch.stack(history[19::3]).mean(0),
        "lawa": torch.stack([history[i] for i in (969, 979, 989, 999)]).mean(0),
    }
    for name, oracle in expected.items():
        found = kept.state_dict()[name]["embedding.weight"]
        torch.testing.assert_close(found, oracle, rtol=1e-12, atol=1e-15)
        assert torch.equal(found.float(), oracle.float())
        rounded = kept.averaged_state_dict(name)["embedding.weight"]
        assert torch.equal(rounded, found.bfloat16())


def test_the_ema_of_torch_stands_still_in_bfloat16() -> None:
    """Updates of less than half a unit in the last place are lost."""
    model = nn.Linear(64, 1, bias=False, dtype=torch.bfloat16)
    nn.init.constant_(model.weight, 1)
    theirs = AveragedModel(model, multi_avg_fn=ema_of_torch(0.999))
    ours = ParameterAverage(model, EMA(0.999))
    for step in range(1000):
        if step:
            nn.init.constant_(model.weight, 2)
        theirs.update_parameters(model)
        ours.update()
    expected = 2 - 0.999**999
    weight = theirs.state_dict()["module.weight"]
    assert torch.equal(weight, torch.ones_like(weight))
    found = ours.state_dict()["ema"]["weight"]
    torch.testing.assert_close(found, torch.full_like(found, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_models_agree_with_torch(kind: str) -> None:
    members = snapshots(kind)
    model = copy.deepcopy(members[0])
    theirs = {
        "ema": AveragedModel(model, multi_avg_fn=ema_of_torch(0.75), use_buffers=True),
        "swa": AveragedModel(model, use_buffers=True),
    }
    ours = ParameterAverage(model, {"ema": EMA(0.75), "swa": SWA()})
    for member in members:
        model.load_state_dict(member.state_dict())
        ours.update()
        for averaged in theirs.values():
            averaged.update_parameters(model)
    for name, averaged in theirs.items():
        found = ours.averaged_state_dict(name)
        fresh = snapshots(kind, 1)[0]
        fresh.load_state_dict(found, strict=True)
        assert fresh(example(kind)).isfinite().all()
        for key, value in found.items():
            if not key.endswith("num_batches_tracked"):
                torch.testing.assert_close(value, averaged.module.state_dict()[key])


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_resumed_run_is_bit_equal_to_one_without_a_stop(
    dtype: torch.dtype | None, tmp_path: Path
) -> None:
    whole = made()
    expected = ParameterAverage(whole, ALL, dtype=dtype)
    train(whole, 60, expected.update)
    stopped = made()
    first = ParameterAverage(stopped, ALL, dtype=dtype)
    train(stopped, 25, first.update)
    state = {"model": stopped.state_dict(), "average": first.state_dict()}
    torch.save(state, tmp_path / "run.pt")
    resumed, saved = Small(), torch.load(tmp_path / "run.pt")  # with weights_only
    resumed.load_state_dict(saved["model"])
    second = ParameterAverage(resumed, ALL, dtype=dtype)
    second.load_state_dict(saved["average"])
    train(resumed, 35, second.update, first=26)
    assert same(resumed.state_dict(), whole.state_dict())
    assert same(second.state_dict(), expected.state_dict())
    # Nor does the state share memory with the averages that were loaded from it.
    assert not same(saved["average"], second.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_is_not_resumed_from_its_average(dtype: torch.dtype) -> None:
    """As in schnetpack#785, where this was not noticed."""
    model = made(dtype)
    kept = ParameterAverage(model, {"ema": EMA(0.9), "last": LAWA(k=1)})
    train(model, 20, kept.update)
    with kept.swap("ema"):
        state = copy.deepcopy(kept.state_dict())
    resumed = made(dtype)
    continued = ParameterAverage(resumed, kept.averages)
    continued.load_state_dict(state)  # before the parameters: the order is free
    resumed.load_state_dict(kept.averaged_state_dict("ema"))
    with pytest.raises(ValueError, match="the model has the parameters of the average"):
        continued.load_state_dict(state)
    resumed.load_state_dict(model.state_dict())  # equal to the average "last"
    continued.load_state_dict(state)
    assert same(continued.state_dict(), kept.state_dict())


def test_several_averages_equal_each_alone() -> None:
    model = made()
    together = ParameterAverage(model, ALL)
    alone = {name: ParameterAverage(model, {name: a}) for name, a in ALL.items()}

    def after(step: int) -> None:
        for kept in (together, *alone.values()):
            kept.update(step)

    train(model, 50, after)
    for name, kept in alone.items():
        assert same(kept.state_dict()[name], together.state_dict()[name])
        assert kept.n_members() == together.n_members(name) > 0


def test_pieces_do_not_change_the_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.ParameterList(
        [
            torch.randn(33, 100),
            torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        ]
    )
    whole = ParameterAverage(model, EMA(0.9))
    pieces = ParameterAverage(model, EMA(0.9))
    for _ in range(5):
        with torch.no_grad():
            for parameter in model:
                parameter.add_(torch.randn_like(parameter))
        whole.update()
        with monkeypatch.context() as patch:
            patch.setattr(accumulation, "CPU_CHUNK", 96)
            pieces.update()
    assert same(whole.state_dict(), pieces.state_dict())


def test_an_update_after_a_constant_run_changes_nothing() -> None:
    model = made()
    kept = ParameterAverage(model, ALL)
    for _ in range(30):
        kept.update()
    for name in ALL:
        assert same(kept.averaged_state_dict(name), dict(model.state_dict()))


def test_swap_restores_all_bits_also_after_an_exception() -> None:
    model = made(torch.bfloat16)
    kept = ParameterAverage(model, SWA())
    train(model, 20, kept.update)
    before = copy.deepcopy(model.state_dict())

    def fail() -> None:
        with kept.swap() as swapped:
            check(swapped)
            raise KeyError("stop")

    def check(swapped: nn.Module) -> None:
        assert swapped is model
        assert kept.is_swapped
        assert same(dict(model.state_dict()), kept.averaged_state_dict())
        assert not same(dict(model.state_dict()), dict(before))
        assert same(kept.raw_state_dict(), dict(before))
        model.train()
        model(torch.arange(5))  # updates the statistics of BatchNorm

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert same(dict(model.state_dict()), dict(before))
    assert not kept.is_swapped
    assert same(kept.raw_state_dict(), dict(before))


def test_an_exception_while_averages_are_swapped_in_restores_the_model() -> None:
    model = made()
    kept = ParameterAverage(model, EMA(0.9))
    train(model, 3, kept.update)
    before = copy.deepcopy(model.state_dict())
    kept._kept["ema"].tensors[-1] = torch.ones(99)
    with pytest.raises(RuntimeError, match="size"), kept.swap():
        pass
    assert same(dict(model.state_dict()), dict(before))


def test_averages_must_not_change_inside_of_swap() -> None:
    model = made()
    kept = ParameterAverage(model, EMA(0.9))
    kept.update()
    with kept.swap():
        with pytest.raises(RuntimeError, match="update must not be called inside"):
            kept.update()
        with pytest.raises(RuntimeError, match="swap must not be called inside"):
            kept.swap().__enter__()


def test_only_what_is_trained_is_kept() -> None:
    model = made()
    kept = ParameterAverage(model, EMA(0.9))
    train(model, 2, kept.update)
    names = ["embedding.weight", "head.weight", "norm.weight", "norm.bias"]
    buffers = ["norm.running_mean", "norm.running_var"]
    assert sorted(kept.state_dict()["ema"]) == sorted(names + buffers)
    state = kept.averaged_state_dict()
    assert list(state) == list(model.state_dict())
    assert state["head.weight"] is state["embedding.weight"]
    frozen = model.frozen.weight
    assert state["frozen.weight"].data_ptr() == frozen.data_ptr()
    assert state["norm.num_batches_tracked"] == 2
    assert state["mask"][1] == -torch.inf
    copied = ParameterAverage(model, EMA(0.9), buffers="copy")
    copied.update()
    assert sorted(copied.state_dict()["ema"]) == sorted(names)


def test_frozen_parameters_that_are_trained_later_are_not_left_out() -> None:
    model = made()
    kept = ParameterAverage(model, EMA(0.9))
    everything = ParameterAverage(model, SWA(), frozen=True)
    kept.update()
    everything.update()
    model.frozen.requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"'frozen.weight' was frozen when .* frozen=True"
    ):
        kept.update()
    before = model.frozen.weight.detach().clone()
    with torch.no_grad():
        model.frozen.weight += 2
    everything.update()
    found = everything.averaged_state_dict()["frozen.weight"]
    torch.testing.assert_close(found, before + 1)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
def test_wrappers_leave_no_prefix() -> None:
    model = made()
    compiled: Any = torch.compile(model, backend="eager")
    inner = made()
    inner.frozen = torch.compile(inner.frozen, backend="eager")  # type: ignore[assignment]
    parallel = nn.DataParallel(made())
    for wrapped in (compiled, inner, parallel):
        kept = ParameterAverage(wrapped, EMA(0.9))
        train(wrapped, 3, kept.update)
        assert list(kept.averaged_state_dict()) == list(model.state_dict())
        fresh = Small()
        kept.copy_to(fresh)
        assert same(dict(fresh.state_dict()), kept.averaged_state_dict())
        kept.copy_to()


def test_a_model_on_several_devices_is_averaged_without_its_wrapper(
    tmp_path: Path,
) -> None:
    """As in sming256/OpenTAD#44, whose averages had the prefix of the wrapper."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(made())
        kept = ParameterAverage(wrapped, SWA())
        train(wrapped, 3, kept.update)
        assert list(kept.averaged_state_dict()) == list(made().state_dict())
        with kept.swap():
            state = dict(wrapped.module.state_dict())
            assert same(state, kept.averaged_state_dict())
    finally:
        torch.distributed.destroy_process_group()


def test_statistics_that_are_recomputed_inside_of_swap_are_not_kept() -> None:
    """As asked in timgaripov/swa#15: an evaluation must not disturb the training."""
    model = made()
    kept = ParameterAverage(model, SWA())
    train(model, 5, kept.update)
    before = copy.deepcopy(model.state_dict())
    batches = torch.arange(5).repeat(3, 4)
    with kept.swap():
        recalibrate_batch_norm(model, batches)
        statistics = model.state_dict()["norm.running_mean"]
        assert not torch.equal(statistics, before["norm.running_mean"])
    assert same(dict(model.state_dict()), dict(before))


def test_a_mapping_of_parameters_is_averaged() -> None:
    model = made()
    kept = ParameterAverage(dict(model.named_parameters()), SWA())
    train(model, 3, kept.update)
    reference = ParameterAverage(model, SWA())
    assert kept.n_members() == 3
    assert set(kept.averaged_state_dict()) == {n for n, _ in model.named_parameters()}
    with kept.swap(), pytest.raises(ValueError, match="has no members yet"):
        reference.averaged_state_dict()


def test_averages_are_kept_in_another_dtype_and_on_another_device() -> None:
    model = made(torch.bfloat16)
    kept = ParameterAverage(model, ALL, dtype=torch.float32, device="cpu")
    train(model, 30, kept.update)
    assert kept.state_dict()["ema"]["norm.bias"].dtype == torch.float32
    assert kept.state_dict()["lawa"]["norm.bias"].dtype == torch.float32
    assert kept.averaged_state_dict("ema")["norm.bias"].dtype == torch.bfloat16


def test_float64_and_complex_parameters_are_averaged() -> None:
    values = (
        torch.tensor([1 + 2j, 3 - 1j]),
        torch.tensor([0.5, 1.0], dtype=torch.float64),
    )
    model = nn.ParameterList([value.clone() for value in values])
    kept = ParameterAverage(model, SWA())
    for _ in range(3):
        kept.update()
        with torch.no_grad():
            for parameter in model:
                parameter.mul_(2)
    factor = (1 + 2 + 4) / 3
    for found, value in zip(kept.averaged_state_dict().values(), values, strict=True):
        torch.testing.assert_close(found, value * factor)


def test_a_lawa_average_keeps_the_dtype_of_the_model_and_k_members() -> None:
    model = made(torch.bfloat16)
    kept = ParameterAverage(model, LAWA(k=2))
    train(model, 5, kept.update)
    members = kept.state_dict()["snapshots"]["lawa"]
    assert len(members) == 2
    assert members[0]["norm.bias"].dtype == torch.bfloat16


def test_a_file_is_read_by_average_and_inspect(tmp_path: Path) -> None:
    model = made()
    kept = ParameterAverage(model, {"slow": EMA(0.99), "lawa": LAWA(k=2)})
    train(model, 5, kept.update)
    content = {"model": model.state_dict(), "averages": kept.state_dict()}
    torch.save(content, tmp_path / "run.pt")
    for name in ("slow", "lawa"):
        found = average([tmp_path / "run.pt"], key=f"averages.{name}")
        assert same(dict(found), kept.state_dict()[name])
    notes = "\n".join(inspect(tmp_path / "run.pt").notes)
    assert "took 'model'" in notes
    assert "'averages.slow' is an average of the same tensors" in notes
    torch.save(kept.averaged_state_dict("slow"), tmp_path / "slow.pt")
    found = average([tmp_path / "slow.pt"], exclude=["mask"])
    Small().load_state_dict({**kept.averaged_state_dict("slow"), **found}, strict=True)


def test_a_copy_goes_on_by_itself() -> None:
    model = made()
    kept = ParameterAverage(model, ALL)
    train(model, 3, kept.update)
    for copied in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert same(copied.state_dict(), kept.state_dict())
        assert copied.model is not model
        copied.update()
        assert copied.step == 4


def test_what_does_not_fit_is_refused() -> None:
    model = made()
    kept = ParameterAverage(model, EMA(0.9))
    with pytest.raises(
        ValueError, match="'ema' has no members yet: its first is at step 1"
    ):
        kept.swap().__enter__()
    kept.update(5)
    with pytest.raises(ValueError, match="above that of the last update, 5: found 5"):
        kept.update(5)
    with pytest.raises(ValueError, match="name must be one of 'ema', found 'swa'"):
        kept.averaged_state_dict("swa")
    with pytest.raises(ValueError, match="the average has no such tensor"):
        kept.copy_to(nn.Sequential(made(), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="must have counters at 'progress'"):
        kept.load_state_dict(model.state_dict())
    other = ParameterAverage(model, EMA(0.99))
    with pytest.raises(
        ValueError, match=r"'decay': 0.99.* here and .*'decay': 0.9,.* there"
    ):
        other.load_state_dict(kept.state_dict())
    bare = ParameterAverage(model, EMA(0.9), buffers="copy")
    with pytest.raises(ValueError, match=r"'norm.running_mean', the model has no such"):
        bare.load_state_dict(kept.state_dict())
    model.norm = nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match=r"the module of 'norm.weight' was replaced"):
        kept.averaged_state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: model.add_module("new", nn.Linear(2, 2)),
            "parameter 'new.weight' was added",
        ),
        (
            lambda model: setattr(model.head, "weight", nn.Parameter(torch.ones(5, 4))),
            "parameter 'head.weight' was untied from 'embedding.weight'",
        ),
        (
            lambda model: setattr(model.other, "weight", model.embedding.weight),
            "parameter 'other.weight' was tied to 'embedding.weight'",
        ),
    ],
)
def test_parameters_that_are_added_tied_or_untied_are_refused(
    change: Callable[[Any], None], message: str
) -> None:
    model = made()
    model.other = nn.Linear(4, 5, bias=False)
    kept = ParameterAverage(model, EMA(0.9))
    kept.update()
    change(model)
    with pytest.raises(ValueError, match=message):
        kept.averaged_state_dict()
    with pytest.raises(ValueError, match=message):
        kept.state_dict()
    with pytest.raises(ValueError, match=message), kept.swap():
        pass


def test_a_saved_average_has_all_names_of_tied_parameters() -> None:
    model = made()
    kept = ParameterAverage(model, {"ema": EMA(0.9), "lawa": LAWA(k=2)})
    for _ in range(3):
        with torch.no_grad():
            model.head.weight += 1
        kept.update()
    state = kept.state_dict()
    for tensors in (state["ema"], state["lawa"], *state["snapshots"]["lawa"]):
        assert tensors["head.weight"] is tensors["embedding.weight"]
    resumed = ParameterAverage(model, {"ema": EMA(0.9), "lawa": LAWA(k=2)})
    resumed.load_state_dict(state)
    assert same(resumed.state_dict(), state)


def test_a_shape_that_changes_is_refused() -> None:
    model = made()
    kept = ParameterAverage(model, EMA(0.9))
    kept.update()
    model.embedding.weight = nn.Parameter(torch.ones(6, 4))
    with pytest.raises(ValueError, match=r"it was \(5, 4\) .* and is \(6, 4\) now"):
        kept.update()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(2, 2).requires_grad_(False), "no parameters to average"),
        (lambda: nn.LazyLinear(3), "has no values yet; run a batch"),
        (lambda: nn.Linear(2, 2, device="meta"), "has no values yet"),
    ],
)
def test_models_without_values_are_refused(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParameterAverage(model(), EMA(0.9))


def test_sharded_parameters_are_refused() -> None:
    model = nn.Linear(2, 2)
    model.weight.ds_id = 3  # type: ignore[attr-defined]  # as DeepSpeed marks them
    with pytest.raises(ValueError, match="'weight' is sharded over processes"):
        ParameterAverage(model, EMA(0.9))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (({"a.b": EMA(0.9)},), {}, "must be a string without dots"),
        (({"progress": EMA(0.9)},), {}, "other than 'progress'"),
        (({},), {}, "at least one average, found none"),
        ((EMA(0.9),), {"buffers": "drop"}, "buffers must be 'average' or 'copy'"),
        ((EMA(0.9),), {"dtype": torch.int8}, "dtype must be floating-point"),
        ((EMA(0.9),), {"device": "mps"}, "mps devices have no float64"),
    ],
)
def test_invalid_options_are_refused(
    arguments: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ParameterAverage(made(), *arguments, **options)


@pytest.mark.parametrize("step", [2.5, True, torch.tensor(3)])
def test_a_step_is_an_integer(step: Any) -> None:
    with pytest.raises(TypeError, match="step must be an integer, found"):
        ParameterAverage(made(), EMA(0.9)).update(step)


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="averages must be EMA, PowerEMA"):
        ParameterAverage(made(), 0.999)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"a torch module or a mapping .* found generator"
    ):
        ParameterAverage(made().parameters(), EMA(0.9))  # type: ignore[arg-type]
