"""Who may import whom: from lower levels only, never a sister or upward."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LEVELS = {
    0: ("errors", "rng", "schedules", "criteria", "tracking"),
    1: ("files", "masks", "data", "archs"),
    2: ("hosts", "checkpoints", "claims", "cost", "recipes", "runs"),
    3: ("optimizers", "plan", "report"),
    4: ("training", "sweeps"),
    5: ("stages", "journal", "forecast", "watch"),
    6: ("execute", "board"),
    7: ("worker", "pool"),
}
LEVEL = {name: level for level, names in LEVELS.items() for name in names}
FORBIDDEN = ("hydra", "omegaconf", "submitit", "hydra_plugins", "main", "tests")  # config stops at main
ONLY_TRACKING = ("wandb", "rich")


def sources() -> Iterator[tuple[str, Path]]:
    """Yield (module of the table, file)."""
    for path in sorted((ROOT / "pruning").rglob("*.py")):
        name = path.relative_to(ROOT / "pruning").parts[0].removesuffix(".py")
        if name != "__init__":
            yield name, path


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, anywhere in it: `from a.b import c` gives a.b.c."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges() -> set[tuple[str, str]]:
    """Return (importer, imported) between modules of the table."""
    found = {
        (name, dotted.split(".")[1])
        for name, path in sources()
        for dotted in imports(path)
        if dotted.startswith("pruning.")
    }
    return {(a, b) for a, b in found if a != b}


def foreign() -> set[tuple[str, str]]:
    """Return (importer, top-level package) of what is not ours."""
    return {(name, dotted.partition(".")[0]) for name, path in sources() for dotted in imports(path)}


def test_every_module_has_a_level():
    assert {name for name, _ in sources()} == set(LEVEL)


def test_imports_go_to_lower_levels_only():
    level = {name: LEVEL.get(name, 99) for edge in edges() for name in edge}  # 99: not in the table
    wrong = sorted(f"{a} ({level[a]}) imports {b} ({level[b]})" for a, b in edges() if level[a] <= level[b])
    assert not wrong, "\n".join(wrong)


def test_the_library_has_never_heard_of_config():
    wrong = sorted(f"{name} imports {package}" for name, package in foreign() if package in FORBIDDEN)
    assert not wrong, "\n".join(wrong)


def test_only_tracking_imports_wandb_and_rich():
    wrong = sorted(f"{a} imports {b}" for a, b in foreign() if b in ONLY_TRACKING and a != "tracking")
    assert not wrong, "\n".join(wrong)
    assert {b for a, b in foreign() if a == "tracking"} >= set(ONLY_TRACKING)  # or this test looks in the wrong place


def test_tracking_imports_wandb_and_rich_only_when_asked():
    for path in (ROOT / "pruning" / "tracking").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & set(ONLY_TRACKING), path


def test_stages_know_neither_plan_nor_tracking():
    assert not {b for a, b in edges() if a == "stages"} & {"plan", "tracking", "runs", "journal", "execute"}


def test_main_is_short():
    assert len((ROOT / "main.py").read_text().splitlines()) < 80
