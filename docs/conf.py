"""Settings of the documentation site; `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import ensembles  # noqa: E402

project = "ensembles"
author = "The ensembles authors"
copyright = f"2026, {author}"
version = release = ensembles.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "extension",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]
default_role = "py:obj"

html_theme = "pydata_sphinx_theme"
html_title = "ensembles"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "ensembles"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "back_to_top_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars: dict[str, list[str]] = {
    page: [] for page in ("index", "installation", "promises", "coming_from")
}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
add_module_names = False
smartquotes = False
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True


def gallery_style(gallery_conf: dict[str, Any], example: str) -> None:
    """Reset Matplotlib before each example, to one style for all figures."""
    import matplotlib.pyplot as plt

    plt.close("all")
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "savefig.dpi": 150,
            "font.size": 10,
        }
    )


sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "matplotlib_animations": False,
    "reset_modules": (gallery_style,),
}

nitpicky = True
# Documentation of other projects is not downloaded, so references to it cannot resolve.
PACKAGES = "sklearn|numpy|scipy|joblib|torch|sentence_transformers"
nitpick_ignore_regex = [
    ("py:.*", rf"({PACKAGES})\..*"),
    ("py:.*", r"ensembles\.(\w+\.){2,}\w+"),  # modules that only the source documents
]
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold functions


def setup(app: Any) -> dict[str, bool]:
    """Show warnings of the examples as they are, and keep the network out."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return {"parallel_read_safe": True}
