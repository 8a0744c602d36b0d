"""Runs the code of the pages in docs/guide with pictures, and writes their pictures."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

from ensembles.reports.displays.figures import save_figure

DOCS = Path(__file__).parent
PAGES = [DOCS / "guide" / name for name in ("pictures.md", "ensemble_pictures.md")]
# A block of Python, and the picture that follows it, if any.
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?:\n!\[[^\]]+\]\(([^)]+)\))?", re.MULTILINE | re.DOTALL
)


def pictures(page: Path) -> list[tuple[str, str | None]]:
    """Blocks of Python of a page, in their order.

    Parameters
    ----------
    page : Path
        Page of the documentation.

    Returns
    -------
    list of (str, str or None)
        Code, and the path of the picture that it draws, relative to the page.
    """
    text = page.read_text(encoding="utf-8")
    return [(code, path or None) for code, path in BLOCK.findall(text)]


def draw(page: Path) -> dict[str, Any]:
    """Run all blocks of a page in one namespace, and write their pictures.

    Parameters
    ----------
    page : Path
        Page of the documentation.

    Returns
    -------
    dict of str to object
        The namespace.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    for code, path in pictures(page):
        exec(compile(code, str(page), "exec"), namespace)
        if path is not None:
            out = (page.parent / path).resolve()
            out.parent.mkdir(parents=True, exist_ok=True)
            save_figure(plt.gcf(), out, force=True)
            print(f"wrote {out.relative_to(DOCS)}, {out.stat().st_size / 1000:.0f} kB")
            plt.close("all")
    return namespace


if __name__ == "__main__":
    names = sys.argv[1:]  # of pages; all without arguments
    for page in PAGES:
        if not names or page.stem in names:
            namespace = draw(page)
            if "barriers" in namespace:
                print("barriers:", [round(b, 4) for b in namespace["barriers"]])
