"""Low-rank adapters (LoRA) in the files of PEFT, kohya and diffusers."""
