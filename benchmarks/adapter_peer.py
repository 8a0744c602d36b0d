"""Merge adapters by PEFT, in its environment.

Run as ``PYTHON adapter_peer.py KIND OUT HIDDEN LAYERS RANK ADAPTER...`` with the kind
of `add_weighted_adapter`, such as "cat" or "svd".
"""

from __future__ import annotations

import sys


def main() -> None:
    """Merge by equal weights, and save."""
    import torch
    import transformers
    from peft import PeftModel

    kind, out, hidden, n_layers, rank, *adapters = sys.argv[1:]
    width = int(hidden)
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=-(-width * 8 // 3 // 256) * 256,
        num_hidden_layers=int(n_layers),
        num_attention_heads=width // 64,
        vocab_size=256,
    )
    with torch.device("meta"):
        base = transformers.LlamaForCausalLM(config)
    # Memory of the base that is never touched is not counted.
    base = base.to(torch.float16).to_empty(device="cpu")
    model = PeftModel.from_pretrained(base, adapters[0], adapter_name="a0")
    names = [f"a{index}" for index in range(len(adapters))]
    for name, path in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(path, adapter_name=name)
    weights = [1 / len(names)] * len(names)
    options = {"svd_rank": int(rank)} if kind == "svd" else {}
    model.add_weighted_adapter(
        names, weights, "merged", combination_type=kind, **options
    )
    model.save_pretrained(out, selected_adapters=["merged"])


if __name__ == "__main__":
    main()
