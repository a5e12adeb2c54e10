"""The plan of the house, as rules: who imports whom, how large rooms and functions may be, who knows the stages."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from pruning.stages import STAGES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pruning"

LEVELS = {  # each imports lower levels only; docs/design.md draws it
    0: ("errors", "rng", "processes", "code", "modules", "program"),
    1: ("files", "settings", "tracking"),
    2: ("env", "archs", "data", "masks"),
    3: ("checkpoints", "runs", "training"),
    4: ("stages", "report", "cluster", "export"),
    5: ("pipeline", "execution"),
    6: ("summary", "launch"),
    7: ("commands", "__main__"),
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}
ONLY = {"tracking": ("wandb", "rich"), "launch": ("submitit",)}
FORBIDDEN = ("hydra", "omegaconf", "hydra_plugins", "main", "tests")  # config stops at main


def sources() -> Iterator[tuple[str, Path]]:
    """Yield (room, file); a room is a folder or a single file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield room, path


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, anywhere in it: `from a.b import c` gives a.b.c."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(dotted: str) -> str | None:
    """Return the room of an imported name, if it is ours."""
    parts = dotted.split(".")
    if parts[0] != "pruning":
        return None
    return parts[1]


def edges() -> set[tuple[str, str]]:
    """Return (importer, imported) between rooms."""
    found = {(room, room_of(dotted)) for room, path in sources() for dotted in imports(path)}
    return {(a, b) for a, b in found if b is not None and a != b}


def foreign() -> set[tuple[str, str]]:
    """Return (room, top-level package) of what is not ours."""
    return {(room, dotted.partition(".")[0]) for room, path in sources() for dotted in imports(path)}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines of each function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def test_every_room_has_a_level() -> None:
    assert {room for room, _ in sources()} == set(LEVEL)


def test_rooms_import_lower_levels_only() -> None:
    level = {room: LEVEL.get(room, 99) for edge in edges() for room in edge}  # 99: not in the table
    wrong = sorted(f"{a} ({level[a]}) imports {b} ({level[b]})" for a, b in edges() if level[a] <= level[b])
    assert not wrong, "\n".join(wrong)


def test_no_room_has_a_circle_inside() -> None:
    for folder in (path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"):
        files = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
        graph: dict[str, set[str]] = {}
        for stem, path in files.items():
            inner = [dotted.split(".")[2] for dotted in imports(path) if dotted.startswith(f"pruning.{folder.name}.")]
            assert set(inner) <= set(files), f"{path} imports through its own room's door"
            graph[stem] = set(inner) - {stem}
        TopologicalSorter(graph).prepare()  # CycleError if there is one


def test_no_room_is_a_cupboard() -> None:
    lines = Counter({room: 0 for room, _ in sources()})
    for room, path in sources():
        lines[room] += len(path.read_text().splitlines())
    shares = {room: count / lines.total() for room, count in lines.items()}
    assert max(shares.values()) <= 0.15, {room: f"{share:.1%}" for room, share in shares.items() if share > 0.15}


def test_functions_and_files_are_short() -> None:
    files = [path for _, path in sources()] + sorted((ROOT / "hydra_plugins").rglob("*.py"))
    long = [
        f"{path}: {name}, {n} lines" for path in [*files, ROOT / "main.py"] for name, n in functions(path) if n > 40
    ]
    long += [f"{path}: {n} lines" for path in files if (n := len(path.read_text().splitlines())) > 220]
    assert not long, "\n".join(long)
    assert len((ROOT / "main.py").read_text().splitlines()) < 80


def test_the_library_has_never_heard_of_config() -> None:
    wrong = sorted(f"{room} imports {package}" for room, package in foreign() if package in FORBIDDEN)
    assert not wrong, "\n".join(wrong)


def test_each_service_has_one_importer() -> None:
    for room, packages in ONLY.items():
        assert {a for a, b in foreign() if b in packages} == {room}


def test_tracking_imports_its_services_only_when_asked() -> None:
    for path in (PACKAGE / "tracking").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & set(ONLY["tracking"]), path


def test_stages_know_nothing_of_runs_and_their_record() -> None:
    assert not {b for a, b in edges() if a == "stages"} & {"runs", "tracking", "report", "pipeline", "execution"}


def test_only_stages_and_plan_know_the_stages_by_name() -> None:
    """Not counted: `train` as a part of a dataset, and functions that a room's `__init__` offers by name."""
    files = [path for room, path in sources() if room not in ("stages", "data") and path.name != "__init__.py"]
    files.remove(PACKAGE / "pipeline" / "results.py")
    for path in [*files, ROOT / "main.py", *(ROOT / "hydra_plugins").rglob("*.py")]:
        literals = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not literals & set(STAGES), path
