"""Demo: a sentence encoder and a small language model, trained and averaged."""
