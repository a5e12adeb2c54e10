"""How the wheel is built: what lies beside the package in a checkout is put into it (pruning/program.py finds both)."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    """Adds main.py and conf/ to a wheel, and nothing to an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"] |= {"main.py": "pruning/main.py", "conf": "pruning/conf"}
