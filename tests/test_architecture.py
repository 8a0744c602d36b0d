"""Who may import whom, when, and that all of it is shipped."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.bench_structure import parameters
from ensembles.checkpoints.methods.builtin import RULES

ROOT = Path(__file__).parents[1]
# Each part may use what stands on lower floors, and nothing beside itself.
FLOORS = (
    {"_typing", "permissions"},
    {"registry", "parallel", "atomic_io", "regular_files"},
    {
        "dtypes",
        "weights",
        "_sklearn",
        "bootstrap",
        "file_signatures",
        "rank_correlation",
        "orthogonal_maps",
    },
    {"kernels"},
    {"selection", "rules"},
    {"predictions", "checkpoints", "embeddings"},
    {"reports"},
)
# The same inside the folders of checkpoints; what lies at its root is above formats.
CHECKPOINTS = (
    {"formats", "methods"},
    {"directories"},
    {"compatibility", "runs", "views"},
    {"planning", "soup_selection", "vocabulary"},
    {"merging", "parameters", "averaging"},
    {"model_soup", "soup_search", "inspection", "moments", "recipes", "adapters"},
)
LARGEST_FOLDER = 13
# Loaded where they are needed: each takes longer than all of the library.
HEAVY = {
    *(
        "lightning",
        "pytorch_lightning",
        "matplotlib",
        "numba",
        "optuna",
        "polars",
        "pyarrow",
        "scipy",
        "sklearn",
    ),
    *("sentence_transformers", "skorch", "tokenizers", "torch", "transformers"),
}
# Wings of estimators, which have to be classes of scikit-learn's; and modules of one
# whose files are averaged without it.
ESTIMATORS = {"predictions", "embeddings"}
SOUPS = {"delegation.py", "estimator.py"}
# Callbacks, which derive from classes of a trainer; no other module imports them.
CALLBACKS = {
    "transformers_callback.py": {"torch", "transformers"},
    "lightning_callback.py": {"lightning", "pytorch_lightning"},
    "skorch_callback.py": {"skorch"},
}
LIBRARY = sorted((ROOT / "ensembles").rglob("*.py"))
COMMAND = sorted((ROOT / "cli" / "ensembles_cli").rglob("*.py"))
AROUND = sorted(p for d in ("benchmarks", "docs") for p in (ROOT / d).rglob("*.py"))
STUBS = sorted((ROOT / "ensembles").rglob("*.pyi"))
PACKAGES = sorted(stub.parent for stub in STUBS)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "ensembles").parts[0].removesuffix(".py")


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of what is imported, with ``from a import b`` as a.b."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that are run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from at_load(node)


def parts(names: set[str]) -> set[str]:
    """Which parts of the library are among what is imported."""
    split = [name.split(".") for name in names]
    return {name[1] for name in split if name[0] == "ensembles" and len(name) > 1}


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_every_part_of_the_library_stands_on_a_floor() -> None:
    known = set().union(*FLOORS) | {"__init__"}
    assert {part_of(path) for path in LIBRARY} <= known


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_imports_run_downwards(path: Path) -> None:
    part = part_of(path)
    below: set[str] = {part}
    for floor in FLOORS:
        if part in floor:
            break
        below |= floor
    names = imports(ast.walk(ast.parse(path.read_text())))
    inside = parts(names)
    assert inside <= (set() if part == "__init__" else below)


def test_imports_run_downwards_among_the_folders_of_checkpoints() -> None:
    for path in (ROOT / "ensembles" / "checkpoints").rglob("*.py"):
        room = path.relative_to(ROOT / "ensembles" / "checkpoints").parts[0]
        room = room.removesuffix(".py")
        if room == "__init__":
            continue
        (place,) = [n for n, floor in enumerate(CHECKPOINTS) if room in floor]
        below = set().union(*CHECKPOINTS[:place]) | {room}
        for name in imports(ast.walk(ast.parse(path.read_text()))):
            parts = name.split(".")
            if parts[:2] == ["ensembles", "checkpoints"]:
                assert parts[2] in below, (named(path), name)


def module_of(path: Path, base: Path) -> str:
    return ".".join(path.relative_to(base).with_suffix("").parts)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Also inside functions, and for types alone."""
    modules = {module_of(path, ROOT): path for path in LIBRARY}
    modules |= {module_of(path, ROOT / "cli"): path for path in COMMAND}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = imports(ast.walk(ast.parse(path.read_text())))
        found = {n if n in modules else n.rpartition(".")[0] for n in names}
        graph[module] = found & modules.keys()
    # Take away files that import nothing that is left: those in circles stay.
    while free := {module for module, names in graph.items() if not names}:
        graph = {m: names - free for m, names in graph.items() if m not in free}
    assert not graph


def test_folders_are_small_enough_to_read() -> None:
    for folder in {path.parent for path in [*LIBRARY, *COMMAND]}:
        modules = [p for p in folder.glob("*.py") if p.stem != "__init__"]
        assert len(modules) <= LARGEST_FOLDER, named(folder)


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_only_the_command_knows_the_terminal(path: Path) -> None:
    names = tops(imports(ast.walk(ast.parse(path.read_text()))))
    assert not names & {"click", "rich", "ensembles_cli", "tqdm"}


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_heavy_packages_are_imported_where_they_are_needed(path: Path) -> None:
    names = tops(imports(at_load(ast.parse(path.read_text()))))
    derived = part_of(path) in ESTIMATORS or path.name in SOUPS
    allowed = {"sklearn"} if derived else set()
    allowed |= {"numba"} if path.name == "loop_cache.py" else set()
    allowed |= CALLBACKS.get(path.name, set())
    assert not names & (HEAVY - allowed)


def test_no_module_imports_a_callback() -> None:
    modules = {name.removesuffix(".py") for name in CALLBACKS}
    for path in [*LIBRARY, *COMMAND]:
        names = imports(ast.walk(ast.parse(path.read_text())))
        assert not {part for name in names for part in name.split(".")} & modules


def loops(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions that become machine code."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names = {ast.unparse(one).partition("(")[0] for one in node.decorator_list}
            if names & {"compiled", "inlined"}:
                yield node


def test_loops_hold_nothing_of_modules_that_their_cache_does_not_look_at() -> None:
    """An edit of such a module would leave old machine code in use."""
    n_loops = 0
    for path in LIBRARY:
        tree = ast.parse(path.read_text())
        origins = {
            alias.asname or alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("ensembles.")
            for alias in node.names
        }
        for loop in loops(tree):
            n_loops += 1
            for node in ast.walk(ast.Module(loop.body, [])):
                if isinstance(node, ast.Name) and node.id in origins:
                    module = str(origins[node.id])
                    source = ROOT.joinpath(*module.split(".")).with_suffix(".py")
                    assert "kernels.jit" in source.read_text(), (path, node.id)
    assert n_loops > 50


@pytest.mark.parametrize("path", [*LIBRARY, *COMMAND], ids=named)
def test_imports_are_written_in_full(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.ImportFrom) or node.level == 0


@pytest.mark.parametrize("path", [*LIBRARY, *COMMAND, *AROUND], ids=named)
def test_modules_say_what_they_are_about_and_are_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 450
    assert not {"utils", "helpers", "common", "misc"} & {path.stem, path.parent.name}


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_documented_parameters_have_a_description(path: Path) -> None:
    found = parameters(ast.parse(path.read_text()))
    assert [(where, line) for where, line, described in found if not described] == []


@pytest.mark.parametrize("package", PACKAGES, ids=named)
def test_stubs_name_what_packages_export(package: Path) -> None:
    module = importlib.import_module(".".join(package.relative_to(ROOT).parts))
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", PACKAGES, ids=named)
def test_no_module_hides_a_name_that_its_package_exports(package: Path) -> None:
    """An import of the module would put it where the name was."""
    module = importlib.import_module(".".join(package.relative_to(ROOT).parts))
    inside = {path.stem for path in package.glob("*.py")}
    assert not inside & set(module.__all__)


def test_setup_cfg_lists_every_package() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    found = {
        ".".join(init.parent.relative_to(base).parts)
        for base, top in ((ROOT, "ensembles"), (ROOT / "cli", "ensembles_cli"))
        for init in (base / top).rglob("__init__.py")
    }
    assert set(listed) == found
    assert listed == sorted(listed)


def test_every_folder_of_code_is_a_package() -> None:
    for path in [*LIBRARY, *COMMAND]:
        assert (path.parent / "__init__.py").exists()


# What is loaded, seen from outside: a new interpreter for each.
Loaded = Callable[..., set[str]]


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for value, path in enumerate(paths):
        save_file({"w": np.full(8, value, np.float32)}, path)
    return paths


def test_importing_the_package_loads_nothing(loaded: Loaded) -> None:
    names = loaded("import ensembles; ensembles.__version__")
    assert not names & {"numpy", "click", *HEAVY}


def test_the_main_names_are_offered_by_the_package_itself(loaded: Loaded) -> None:
    import ensembles

    for name in ("average", "ModelSoup", "EnsembleClassifier", "SentenceEmbedder"):
        assert name in dir(ensembles)
    assert ensembles.predictions.EnsembleClassifier is ensembles.EnsembleClassifier
    assert ensembles.embeddings.SentenceEmbedder is ensembles.SentenceEmbedder
    assert not loaded("from ensembles import average") & {"click", *HEAVY}
    for part in ("checkpoints", "predictions", "embeddings", "rules", "selection"):
        assert f"`ensembles.{part}`" in (ensembles.__doc__ or "")


@pytest.mark.parametrize("part", ["predictions", "embeddings", "rules", "selection"])
def test_importing_a_component_does_not_load_numba(part: str, loaded: Loaded) -> None:
    names = loaded(f"from ensembles.{part} import *")
    assert not names & {"numba", "torch", "transformers"}


def test_help_loads_nothing(loaded: Loaded) -> None:
    names = loaded(
        "from ensembles_cli.main import cli; cli(['--help'], standalone_mode=False)"
    )
    assert not names & {"numpy", "rich", *HEAVY}


@pytest.mark.parametrize(
    "rule", sorted(n for n, r in RULES.items() if not (r.needs_base or r.needs_moments))
)
def test_averaging_safetensors_loads_nothing_heavy(
    rule: str, loaded: Loaded, members: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from ensembles.checkpoints import average;"
        "average(sys.argv[2:4], sys.argv[4], rule=sys.argv[1])"
    )
    out = tmp_path / "out.safetensors"
    assert not loaded(code, rule, *members, out) & {"click", *HEAVY}
    assert out.exists()


def test_the_command_loads_nothing_heavy(
    loaded: Loaded, members: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from ensembles_cli.main import cli;"
        "cli(['avg', '--json', *sys.argv[1:3], '-o', sys.argv[3]],"
        " standalone_mode=False)"
    )
    out = tmp_path / "out.safetensors"
    assert not loaded(code, *members, out) & HEAVY
    assert out.exists()


def test_a_soup_loads_nothing_heavy(
    loaded: Loaded, members: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from ensembles.checkpoints import make_soup;"
        "make_soup(sys.argv[1:3], lambda path: path.stat().st_ino, sys.argv[3])"
    )
    out = tmp_path / "out.safetensors"
    assert not loaded(code, *members, out) & {"click", *HEAVY}
    assert out.exists()


def test_the_command_of_soups_loads_nothing_heavy(
    loaded: Loaded, members: list[Path], tmp_path: Path
) -> None:
    code = (
        "import os, sys; sys.stderr = open(os.devnull, 'w');"
        "from ensembles_cli.main import cli;"
        "cli(['soup', '--json', *sys.argv[1:3], '--score', 'stat -c %i {}',"
        " '-o', sys.argv[3]], standalone_mode=False)"
    )
    out = tmp_path / "out.safetensors"
    assert not loaded(code, *members, out) & HEAVY
    assert out.exists()


def test_help_of_a_command_loads_nothing(loaded: Loaded) -> None:
    code = (
        "from ensembles_cli.main import cli;"
        "cli(['soup', '--help'], standalone_mode=False)"
    )
    assert not loaded(code) & {"numpy", "rich", *HEAVY}
