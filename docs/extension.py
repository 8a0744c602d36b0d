"""Sphinx extension: hooks for docstrings, and pages of registered functions."""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from registered import markdown
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

CODE = re.compile(r"(`+[^`]+`+)")


def escape(text: str, characters: str = "*|") -> str:
    """Escape characters of reStructuredText outside of code.

    Parameters
    ----------
    text : str
        A line of a docstring.
    characters : str, default="*|"
        Characters to escape: docstrings have formulas, and no emphasis.

    Returns
    -------
    str
    """
    pieces = CODE.split(text)
    pieces[::2] = [
        re.sub(f"[{characters}]", r"\\\g<0>", piece) for piece in pieces[::2]
    ]
    return "".join(pieces)


def escape_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Escape formulas in a docstring; examples stay as they are."""
    in_example = False
    for index, line in enumerate(lines):
        in_example = line.startswith(">>>") or (in_example and bool(line.strip()))
        lines[index] = line if in_example else escape(line)


def mark_code(line: str) -> str:
    """Mark commands and options in a line of help as code."""
    example = re.fullmatch(r"\| ((?:ensemble|zcat) .*)", line)
    if example:
        return f"| ``{example[1]}``"
    if line.lstrip().startswith(".. "):  # a directive, such as that of an option
        return line
    return re.sub(r"(?<![\w`-])--[a-z][\w-]*", r"``\g<0>``", line)


def mark_help(app: Sphinx, context: Any, lines: list[str]) -> None:
    """Mark code, and escape patterns such as ``*.bias``, in the help of a command."""
    lines[:] = [escape(mark_code(line), "*") for line in lines]


def skip_inherited(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out methods of other packages, and fields of named tuples."""
    if type(obj).__name__ == "_tuplegetter":  # its text is "Alias for field number 0"
        return True
    function = obj.fget if isinstance(obj, property) else inspect.unwrap(obj)
    module = getattr(function, "__module__", None)
    foreign = module is not None and not str(module).startswith("ensembles")
    builtin = module is None and inspect.isroutine(obj)
    return True if foreign or builtin else None


def hide_signature_of_protocol(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str, None] | None:
    """Leave out the signature of a protocol, which has no constructor of its own."""
    return ("", None) if getattr(obj, "_is_protocol", False) else None


def resolve_by_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a name in backticks that is unique among all documented objects."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    domain = env.domains.python_domain
    suffix = "." + node["reftarget"]
    matches = [
        (entry.docname, entry.node_id)
        for name, entry in domain.objects.items()
        if name.endswith(suffix) and not entry.aliased
    ]
    if len(matches) != 1:
        return None
    docname, identifier = matches[0]
    return make_refnode(app.builder, node["refdoc"], docname, identifier, content)


class Registered(SphinxDirective):
    """``{registered} rules`` documents the entries of a table."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Parse the Markdown of the table in place."""
        container = nodes.container(classes=["registered"])
        lines = StringList(markdown(self.arguments[0]), source="registered")
        self.state.nested_parse(lines, self.content_offset, container)
        return list(container.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hooks, and add the directive."""
    app.add_directive("registered", Registered)
    app.connect("autodoc-process-docstring", escape_docstring, priority=100)
    app.connect("autodoc-process-signature", hide_signature_of_protocol)
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("missing-reference", resolve_by_name)
    for part in ("description", "options", "arguments"):
        app.connect(f"sphinx-click-process-{part}", mark_help)
    return {"parallel_read_safe": True}
