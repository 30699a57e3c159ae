"""The package's imports: no cycle, and no arrow that goes up the list of rooms."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rsic_diffusers


PACKAGE = Path(rsic_diffusers.__file__).parent
# From the bottom up: a room imports from its own row and from the rows before it in this list, never from those after.
ROWS = [
    {"embedded_models", "error_sentences", "example_photo", "files", "folders", "images", "registration"}
    | {"tokenizer_lock", "torch_state", "typed_numbers"},
    {"bitstream"},
    {"schedulers"},
    {"models"},
    {"referring"},
    {"description"},
    {"hub"},
    {"pipelines"},
    {"evaluation", "metadata"},
    {"app"},
    {"commands"},
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def room_of(module: str) -> str:
    return module.split(".")[1]


def absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that an import is from, whatever number of dots it has."""
    if not node.level:
        return node.module
    package = module.split(".") if SOURCES[module].name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_by(module: str) -> set[str]:
    """The package's modules that a module imports, at its top or within its functions.

    A lazy name of the package itself counts as the module that it comes from; the package's own table of these does
    not count.
    """
    found = set()
    tree = ast.parse(SOURCES[module].read_text("utf-8"))
    # What only type checkers read is no import.
    tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            for alias in node.names:
                if f"{source}.{alias.name}" in SOURCES:
                    found.add(f"{source}.{alias.name}")
                elif source == "rsic_diffusers":
                    found.add(rsic_diffusers._NAMES.get(alias.name, source))
                else:
                    found.add(source)
    return {name for name in found if name in SOURCES}


IMPORTS = {module: imported_by(module) for module in SOURCES}


def test_imports_are_found():
    """The walk sees relative imports, those within functions, and lazy names."""
    assert "rsic_diffusers.bitstream.weight_map" in IMPORTS["rsic_diffusers.bitstream.container"]
    assert "rsic_diffusers.evaluation.run" in IMPORTS["rsic_diffusers.commands.evaluate"]
    assert "rsic_diffusers.models.hsvlc" in IMPORTS["rsic_diffusers.evaluation.run"]
    assert "rsic_diffusers.evaluation.metrics.set_distances" in IMPORTS["rsic_diffusers.evaluation.metrics.loaders"]


def test_no_cycle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail("These modules import each other: " + " <- ".join(error.args[1]))


def test_no_arrow_goes_up():
    rooms = {room_of(module) for module in SOURCES if module != "rsic_diffusers"}
    assert rooms <= set(ROW_OF), f"Give these a row in ROWS: {rooms - set(ROW_OF)}"
    up = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if "rsic_diffusers" not in (module, other) and ROW_OF[room_of(other)] > ROW_OF[room_of(module)]
    ]
    assert not up, up


def test_the_file_stands_alone():
    """Who reads `.rsic` files needs the room `bitstream` and no other."""
    bitstream = {module for module in SOURCES if module.startswith("rsic_diffusers.bitstream")}
    assert not [other for module in bitstream for other in IMPORTS[module] if room_of(other) != "bitstream"]


def test_type_checkers_see_what_the_lazy_names_are():
    tree = ast.parse(Path(rsic_diffusers.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if is_for_type_checkers(node))
    seen = {alias.name: f"rsic_diffusers.{node.module}" for node in block.body for alias in node.names}
    assert seen == {name: rsic_diffusers._NAMES[name] for name in rsic_diffusers.__all__}
    assert (PACKAGE / "py.typed").exists()
