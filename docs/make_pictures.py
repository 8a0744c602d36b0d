"""Runs the code of docs/guide/pictures.md, and writes the pictures that it draws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

from ensembles.reports.displays.figures import save_figure

DOCS = Path(__file__).parent
PAGE = DOCS / "guide" / "pictures.md"
# A block of Python, and the picture that follows it, if any.
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n!\[[^\]]+\]\(([^)]+)\))?", re.MULTILINE | re.DOTALL
)


def pictures() -> list[tuple[str, str | None]]:
    """Blocks of Python of the page, in their order.

    Returns
    -------
    list of (str, str or None)
        Code, and the path of the picture that it draws, relative to the page.
    """
    text = PAGE.read_text(encoding="utf-8")
    return [(code, path or None) for code, path in BLOCK.findall(text)]


def main() -> None:
    """Run all blocks in one namespace, and write their pictures."""
    namespace: dict[str, Any] = {"__name__": PAGE.stem}
    for code, path in pictures():
        exec(compile(code, str(PAGE), "exec"), namespace)
        if path is not None:
            out = (PAGE.parent / path).resolve()
            out.parent.mkdir(parents=True, exist_ok=True)
            save_figure(plt.gcf(), out, force=True)
            print(f"wrote {out.relative_to(DOCS)}, {out.stat().st_size / 1000:.0f} kB")
            plt.close("all")
    print("barriers:", [round(barrier, 4) for barrier in namespace["barriers"]])


if __name__ == "__main__":
    main()
