"""Tied weights: what is left out, kept or counted, and what transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import average, plan
from ensembles.checkpoints.formats.checkpoint import File
from tests.checkpoints.building import save

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:.*share",
    "ignore:.* the same initialization",  # members are made from seeds
)
VOCABULARY = 40
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1}
BERT = {
    **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 12, "max_position_embeddings": 16},
}


def llama(**more: Any) -> Any:
    config = transformers.LlamaConfig(**SMALL, **BERT, tie_word_embeddings=True, **more)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=2
    )
    return transformers.GPT2LMHeadModel(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2
    )
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config = transformers.BartConfig(
        **SMALL,
        **layers,
        d_model=8,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        decoder_attention_heads=2,
        max_position_embeddings=16,
    )
    return transformers.BartForConditionalGeneration(config)


def whisper() -> Any:
    config = transformers.WhisperConfig(
        **SMALL,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        num_mel_bins=6,
        max_source_positions=10,
        max_target_positions=10,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return transformers.WhisperForConditionalGeneration(config)


def bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, **BERT))


def roberta() -> Any:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL, **BERT))


def electra() -> Any:
    config = transformers.ElectraConfig(**SMALL, **BERT, embedding_size=8)
    return transformers.ElectraForMaskedLM(config)


def modernbert() -> Any:
    config = transformers.ModernBertConfig(
        **SMALL, **BERT, eos_token_id=2, cls_token_id=1, sep_token_id=2
    )
    return transformers.ModernBertForMaskedLM(config)


def neox() -> Any:
    config = transformers.GPTNeoXConfig(
        **SMALL, **BERT, tie_word_embeddings=True, rotary_pct=0.5
    )
    return transformers.GPTNeoXForCausalLM(config)


def llava() -> Any:
    text = {**SMALL, **BERT, "model_type": "llama"}
    seen = {
        **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": 4, "patch_size": 2},
        "model_type": "clip_vision_model",
    }
    config = transformers.LlavaConfig(
        text_config={**text, "tie_word_embeddings": True},
        vision_config=seen,
        image_token_index=3,
    )
    return transformers.LlavaForConditionalGeneration(config)


HEADS: dict[Any, str] = {
    llama: "lm_head.weight",
    gpt2: "lm_head.weight",
    neox: "lm_head.weight",
    t5: "lm_head.weight",
    bart: "lm_head.weight",
    whisper: "proj_out.weight",
    bert: "cls.predictions.decoder.weight",
    roberta: "lm_head.decoder.weight",
    electra: "generator_lm_head.weight",
    modernbert: "decoder.weight",
    llava: "lm_head.weight",
}
every = pytest.mark.parametrize("make", HEADS, ids=lambda make: make.__name__)


def saved(folder: Path, make: Any, seed: int, *, head: str = "tied") -> Path:
    """A model whose head is left out (tied), stored too, or one of its own."""
    torch.manual_seed(seed)
    model = make()
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    if head != "tied":
        name = HEADS.get(make, "lm_head.weight")
        value = model.state_dict()[name].clone()
        if head == "own":
            value = torch.randn(value.shape)
        tensors[name] = value.numpy()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def set_flag(folder: Path, value: bool, level: str | None = None) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if level is None else config[level])["tie_word_embeddings"] = value
    path.write_text(json.dumps(config))


def stored(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def states(kind: Any, folder: Path) -> dict[str, Any]:
    """State dict of what transformers loads."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    for found in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[found], info
    return dict(model.state_dict())


def assert_mean(make: Any, out: Path, members: list[Path]) -> None:
    kind = type(make())
    found, parts = states(kind, out), [states(kind, m) for m in members]
    for name, value in found.items():
        expected = torch.stack([part[name].double() for part in parts]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


@every
def test_a_head_with_bytes_of_its_own_is_averaged_whatever_the_flag(
    tmp_path: Path, make: Any
) -> None:
    members = [saved(tmp_path / n, make, i, head="own") for i, n in enumerate("ab")]
    average(members, tmp_path / "out")
    heads = [stored(member)[HEADS[make]] for member in members]
    assert np.array_equal(stored(tmp_path / "out")[HEADS[make]], sum(heads) / 2)
    assert_mean(make, tmp_path / "out", members)


@every
@pytest.mark.parametrize("order", [1, -1])
def test_a_member_that_is_tied_counts_with_its_embedding(
    tmp_path: Path, make: Any, order: int
) -> None:
    members = [
        saved(tmp_path / "a", make, 0),
        saved(tmp_path / "b", make, 1, head="own"),
    ][::order]
    planned = plan(members, tmp_path / "out")
    assert any("is tied to" in note for note in planned.notes)
    average(members, tmp_path / "out")
    assert_mean(make, tmp_path / "out", members)


@every
@pytest.mark.parametrize("order", [1, -1])
def test_a_tied_head_that_one_member_stores_changes_nothing(
    tmp_path: Path, make: Any, order: int
) -> None:
    members = [
        saved(tmp_path / "a", make, 0),
        saved(tmp_path / "b", make, 1, head="stored"),
    ][::order]
    average(members, tmp_path / "out")
    assert_mean(make, tmp_path / "out", members)
    if order == 1:
        assert HEADS[make] not in stored(tmp_path / "out")


@pytest.mark.parametrize("order", [1, -1])
def test_an_untied_member_makes_the_result_untied(tmp_path: Path, order: int) -> None:
    """mergekit#464: the head is the mean, and the configuration says so."""
    members = [
        saved(tmp_path / "a", llama, 0),
        saved(tmp_path / "b", llama, 1, head="own"),
    ]
    set_flag(members[1], False)
    report = average(members[::order], tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert_mean(llama, tmp_path / "out", members)
    assert any("is false" in note for note in report.plan.notes) == (order == 1)


@pytest.mark.parametrize("head", ["own", "stored"])
@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_flags_of_two_levels_are_read_as_transformers_reads_them(
    tmp_path: Path, head: str, top: bool, inner: bool
) -> None:
    members = [saved(tmp_path / n, llava, i, head=head) for i, n in enumerate("ab")]
    for member in members:
        set_flag(member, top)
        set_flag(member, inner, "text_config")
    average(members, tmp_path / "out")
    assert_mean(llava, tmp_path / "out", members)


def test_an_untied_head_below_a_text_config_unties_both_levels(tmp_path: Path) -> None:
    members = [
        saved(tmp_path / "a", llava, 0),
        saved(tmp_path / "b", llava, 1, head="own"),
    ]
    average(members, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False


def test_a_flag_that_is_false_makes_a_head_that_is_lacking_an_error(
    tmp_path: Path,
) -> None:
    members = [
        saved(tmp_path / "a", llama, 0),
        saved(tmp_path / "b", llama, 1, head="own"),
    ]
    set_flag(members[0], False)
    with pytest.raises(
        ValueError, match=r"'lm_head\.weight': .*b has it, .*a lacks it"
    ):
        plan(members)


def test_files_without_a_configuration_are_tied_by_their_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(2, 30, 4)).astype(np.float32)
    full = {"embed.weight": tables[0], "lm_head.weight": tables[0]}
    part = {"embed.weight": tables[1]}
    mean = (tables[0] + tables[1]) / 2
    found = average([full, part])
    assert found.keys() == full.keys()
    assert np.array_equal(found["lm_head.weight"], mean)
    assert average([part, full]).keys() == {"embed.weight"}
    apart = {**full, "lm_head.weight": tables[1]}
    with pytest.raises(ValueError, match=r"'lm_head\.weight'.*lacks it"):
        average([apart, part])


def test_zeros_that_are_equal_are_not_tied() -> None:
    full = {"a.bias": np.zeros(3), "b.bias": np.zeros(3), "w": np.ones(2)}
    part = {"a.bias": np.zeros(3), "w": np.ones(2)}
    with pytest.raises(ValueError, match=r"'b\.bias'.*lacks it"):
        average([full, part])


def test_bytes_are_compared_only_where_a_flag_or_a_missing_name_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [saved(tmp_path / n, llama, i, head="own") for i, n in enumerate("ab")]
    read: list[int] = []
    usual = File.read_into

    def counted(self: File, buffer: memoryview, offset: int) -> None:
        read.append(len(buffer))
        usual(self, buffer, offset)

    for member in members:
        set_flag(member, False)
    monkeypatch.setattr(File, "read_into", counted)
    plan(members, tmp_path / "out")
    n_headers = len(read)
    for member in members:
        set_flag(member, True)
    plan(members, tmp_path / "out")
    assert n_headers == 4
    # A sample of head and embedding of one member: they differ.
    assert len(read) - n_headers <= 4 + 2


def test_a_large_tied_pair_is_compared_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    table = np.random.default_rng(0).normal(size=(4096, 512)).astype(np.float32)
    folder = tmp_path / "a"
    save(folder / "model.safetensors", {"embed.weight": table, "lm_head.weight": table})
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')
    tracemalloc.start()
    planned = plan([folder, folder], tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [target.name for target in planned.targets] == ["embed.weight"]
    assert peak < table.nbytes


def test_parameters_that_a_trainer_untied_are_not_tied_again(tmp_path: Path) -> None:
    """huggingface/transformers#45127: the flag stayed, and the model collapsed."""
    members = [saved(tmp_path / n, llama, i, head="own") for i, n in enumerate("ab")]
    average(members, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert_mean(llama, tmp_path / "out", members)


@pytest.mark.parametrize("make", [bart, t5, bert])
def test_a_flag_that_ties_more_than_the_head_stays(tmp_path: Path, make: Any) -> None:
    members = [saved(tmp_path / n, make, i, head="own") for i, n in enumerate("ab")]
    before = json.loads((members[0] / "config.json").read_text())
    average(members, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == before


def test_copies_that_sharded_training_left_are_left_out(tmp_path: Path) -> None:
    """EvolvingLMMs-Lab/lmms-engine#157: equal ones are tied again, others kept."""
    members = [saved(tmp_path / n, llama, i, head="stored") for i, n in enumerate("ab")]
    average(members, tmp_path / "out")
    assert "lm_head.weight" not in stored(tmp_path / "out")
    assert_mean(llama, tmp_path / "out", members)


def test_a_head_is_kept_where_the_first_members_flag_is_false(tmp_path: Path) -> None:
    members = [saved(tmp_path / n, llama, i, head="stored") for i, n in enumerate("ab")]
    set_flag(members[0], False)
    average(members, tmp_path / "out")
    assert "lm_head.weight" in stored(tmp_path / "out")
    assert_mean(llama, tmp_path / "out", members)


def ctrl() -> Any:
    """A model whose embedding has a name of its own, ``transformer.w``."""
    config = transformers.CTRLConfig(
        vocab_size=VOCABULARY, n_embd=8, dff=12, n_layer=1, n_head=2, n_positions=16
    )
    return transformers.CTRLLMHeadModel(config)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("make", [llama, gpt2, bert, ctrl], ids=lambda m: m.__name__)
def test_a_head_that_the_first_members_shards_lack_is_in_the_index(
    tmp_path: Path, make: Any, order: int
) -> None:
    """Beside shards, transformers would load a model.safetensors alone."""
    tied = saved(tmp_path / "whole", make, 0)
    kind = type(make())
    kind.from_pretrained(tied).save_pretrained(tmp_path / "a", max_shard_size="1KB")
    members = [tmp_path / "a", saved(tmp_path / "b", make, 1, head="own")][::order]
    average(members, tmp_path / "out")
    names = [path.name for path in (tmp_path / "out").glob("*.safetensors")]
    assert ("model.safetensors" in names) == (len(names) == 1)
    assert_mean(make, tmp_path / "out", members)
