"""Functions by their name, from what is installed, a directory, or a file by itself; whatever fails is a UserError."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pruning.code import installed
from pruning.errors import UserError
from pruning.settings import path_of, value_of


def source(given: Any) -> Path:
    """Return the file that `arch.file` names."""
    file = path_of("arch.file", value_of("arch.file", given, str)).resolve()
    if file.suffix != ".py" or not file.is_file():
        kind = "it must be a file PATH.py" if file.exists() else "no such file"
        raise UserError(f"arch.file={given}: {kind}", "arch.file")
    return file


def place_for(target: str) -> str | None:
    """Return the directory to search for the module of `target` in other processes too; None if it is installed."""
    top = target.partition(".")[0]
    if not _exists(top):
        return str(Path.cwd())
    module = import_of(target, None)
    file = getattr(sys.modules[top], "__file__", None)
    if file is None or installed(module.__name__) or top in sys.stdlib_module_names:
        return None
    return str(Path(file).parents[1] if Path(file).name == "__init__.py" else Path(file).parent)


def import_of(target: str, place: str | None) -> ModuleType:
    """Return the module that `target`, like `a.b.Class.method`, is in; `place` is its file, or a directory to search.

    Of a file the first part of `target` is its name.
    """
    try:
        if place and place.endswith(".py"):
            return _from_file(Path(place))
        top, *others = target.split(".")[:-1] or [target]
        if place and not _exists(top):
            sys.path.append(place)
        module = importlib.import_module(top)
        for part in others:
            name = f"{module.__name__}.{part}"
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise
                break  # from here on they are names in it
    except Exception as error:  # whatever its code raises
        text = f"arch._target_={target} cannot be imported ({type(error).__name__}: {one_line(error)})"
        help_ = "install its package, run where its module is, or give arch.file=PATH.py"
        raise UserError(f"{text}; {help_}") from error
    return module


def function_of(target: str, place: str | None) -> Callable[..., Any]:
    """Return the function or class that `target` names."""
    module = import_of(target, place)
    by_file = bool(place and place.endswith(".py"))
    names = target.split(".")[1:] if by_file else target.removeprefix(f"{module.__name__}.").split(".")
    found: Any = module
    for name in names:
        found = getattr(found, name, None)
    if not callable(found):
        some = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        has = f"; there are {', '.join(some[:6])}" if some and len(some) < 40 else ""
        where = place if by_file else module.__name__
        raise UserError(f"arch._target_={target}: {where} has no function or class {'.'.join(names)}{has}")
    return found


def _from_file(file: Path) -> ModuleType:
    """Import a file by its content: edited, it is another module. It may import those beside it."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name = f"{file.stem}_{digest[:12]}"
    if name not in sys.modules:
        if (folder := str(file.parent)) not in sys.path:
            sys.path.append(folder)
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no module")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _exists(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line that is not too long."""
    return " ".join(str(error).split())[:200]
