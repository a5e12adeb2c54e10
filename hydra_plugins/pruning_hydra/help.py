"""`--help`: what can be chosen and set, and what each means: the comments in conf/ are the words."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from pruning.program import COMMAND, CONF

PLACED = ("fit", "hydra")  # by config.yaml, or not by themselves
GROUPS = (*sorted({path.name for path in CONF.iterdir() if path.is_dir()} - {*PLACED}), "hydra/launcher")
PART = re.compile(r"  - (?:(\w+)@)?(\w+): (\w+).*")
LINE = re.compile(r"( *)([\w-]+):(?: +(?!#)(.*?))?(?: +# (.*))?")
USAGE = f"""\
usage: {COMMAND} [GROUP=OPTION ...] [KEY=VALUE ...]
       {COMMAND} -m KEY=A,B,C ...      each combination, as one sweep
       {COMMAND} -m +sweep=NAME        a sweep that has a name

--help              this text
--cfg job           the settings as the rest of the command line composes them
--config-dir DIR    options of your own, like DIR/recipe/NAME.yaml
--hydra-help        what else Hydra takes"""


def show(arguments: Sequence[str]) -> None:
    """Print it, as wide as the terminal, with the options that --config-dir adds."""
    words = [word for text in arguments for word in re.split(r"(?<=^--config-dir)=", text)]
    places = [CONF, *(Path(after) for word, after in pairwise(words) if word in ("--config-dir", "-cd"))]
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    print(USAGE)
    for group in GROUPS:
        found = {path.stem: path for place in places for path in sorted((place / group).glob("*.yaml"))}
        said = {name: meaning(path) for name, path in found.items()}
        print(f"\n{'+' * (group == 'sweep')}{group}=")
        if plain := [name for name, text in said.items() if not text]:
            print(textwrap.fill(", ".join(plain), width, initial_indent="  ", subsequent_indent="  "))
        print(listed([(name, text) for name, text in said.items() if text], width), end="")
    print("\nsettings, with their usual values; other stages that train have those of train")
    for path, prefix in parts().items():
        print(listed([(name, text) for name, text in settings(path, prefix) if text], width), end="")
    print(listed(list(settings(CONF / "config.yaml", "")), width), end="")


def listed(pairs: Sequence[tuple[str, str]], width: int) -> str:
    """Return two columns, the second one folded."""
    left = min(28, max((len(name) for name, _ in pairs), default=0)) + 4
    lines = []
    for name, text in pairs:
        first, *more = textwrap.wrap(text, width - left) or [""]
        if len(name) + 4 > left:  # too long for its column
            lines.append(f"  {name}")
            name = ""
        lines += [f"  {name:{left - 2}}{first}".rstrip(), *(" " * left + line for line in more)]
    return "".join(f"{line}\n" for line in lines if line.strip())


def meaning(path: Path) -> str:
    """Return the first sentence of the comment that an option's file begins with."""
    lines = path.read_text().splitlines()
    lines = lines[1:] if lines[0].startswith("# @package") else lines
    whole = takewhile(lambda line: line.startswith("# ") and not line.startswith("# Command:"), lines)
    block = " ".join(line[2:].strip() for line in whole) or lines[0].partition(" # ")[2]
    return re.split(r"\.(?: (?=[A-Z])|$)", block.removeprefix("Claim:").strip(), maxsplit=1)[0]


def parts() -> dict[Path, str]:
    """Return the files of which config.yaml puts the settings together, each with the node that it is first put at."""
    found: dict[Path, str] = {}
    for match in filter(None, map(PART.fullmatch, (CONF / "config.yaml").read_text().splitlines())):
        path = CONF / (match[1] or match[2]) / f"{match[3]}.yaml"
        found.setdefault(path, "" if path.read_text().startswith("# @package _global_") else match[2])
    return found


def settings(path: Path, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield each key with its value, and its comment, of a YAML file as conf/ has them."""
    found: list[list[str]] = []
    above: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        if match := LINE.fullmatch(line):
            indent, key, value, comment = len(match[1]), match[2], match[3], match[4] or ""
            above = [(depth, name) for depth, name in above if depth < indent]
            name = ".".join(filter(None, [prefix, *(name for _, name in above), key]))
            if value is None:
                above.append((indent, key))
                if comment:
                    found.append([f"{name}.*", comment])
            else:
                open_ = value == "???"
                found.append(
                    [name if open_ else f"{name}={value}", f"{comment}; the recipe says" if open_ else comment]
                )
        elif found and line.strip().startswith("# ") and line.startswith(" "):  # goes on
            found[-1][1] += f" {line.strip()[2:]}"
    skipped = re.compile(r"defaults|hydra|.*=\{\}|.*\bname=.*")  # what is not set, but chosen or fixed
    return ((name, text) for name, text in found if not skipped.match(name))
