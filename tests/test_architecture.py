"""The house has floors, and imports go one way: up the list, to what knows less."""

import ast
import graphlib
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "beam_kmeans"

# Floors from the top: a file may import its own floor (in no circle) and those above it.
FLOORS = [
    {"errors", "values"},
    {"config"},
    {
        "sums",
        "statistics",
        "sampling",
        "tally",
        "distances",
        "kernels",
        "lloyd",
        "seeding",
        "dataset",
        "fitting",
        "in_memory",
        "rounding",
        "arrivals",
        "batches",
        "minibatch",
    },
    {"blocks"},
    {"combiners", "options", "running"},
    {"io"},
    {"checkpoint", "seeding_checkpoint", "model", "transforms"},
    {"passes"},
    {"segment", "job"},
    {"driver", "predicting"},
    {"kmeans"},
    {"flags", "logs"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in SOURCES if name]  # the front door, "", apart


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int:
    return FLOOR.get(room(module), 0)


WITHOUT_BEAM = [module for module in MODULES if floor(module) < FLOOR["blocks"]]


def imported(nodes) -> set[str]:
    """The dotted names that import statements bring in, `from a import b` as a.b."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the direction"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def of_ours(names: set[str]) -> set[str]:
    """The modules of the package among imported names."""
    found = set()
    for name in names:
        first, _, rest = name.partition(".")
        if first == PACKAGE.name:
            module = rest if rest in SOURCES else rest.rpartition(".")[0]
            found.add(module)
    return found - {""}


def foreign(module: str) -> set[str]:
    names = {name.partition(".")[0] for name in imported(ast.walk(SOURCES[module]))}
    return names - {PACKAGE.name}


def test_every_room_has_its_floor():
    assert {room(module) for module in MODULES} == {*FLOOR}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up(module):
    used = of_ours(imported(ast.walk(SOURCES[module])))
    assert not {name for name in used if floor(name) > floor(module)}


def test_no_imports_go_in_a_circle():
    graph = {name: of_ours(imported(SOURCES[name].body)) - {name} for name in MODULES}
    assert [*graphlib.TopologicalSorter(graph).static_order()]


@pytest.mark.parametrize("module", WITHOUT_BEAM)
def test_what_computes_knows_arrays_alone(module):
    assert foreign(module) <= {*sys.stdlib_module_names} | {"numpy", "tensorflow"}


@pytest.mark.parametrize("module", [*MODULES, ""])
def test_only_the_kernels_import_tensorflow(module):
    assert module == "kernels" or "tensorflow" not in foreign(module)


@pytest.mark.parametrize("module", [*MODULES, ""])
def test_the_package_stands_on_its_dependencies_alone(module):
    dependencies = {"apache_beam", "numpy", "pyarrow", "xxhash", "tensorflow"}
    assert foreign(module) <= {*sys.stdlib_module_names} | dependencies
