"""Compose every job of a sweep in microseconds each: Hydra once per choice of groups, then values set on a copy.

Hydra itself composes each job from the YAML files again, which takes a tenth of a second.
"""

import copy
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.pruning_hydra.plain import Plain
from pruning.errors import UserError
from pruning.program import COMMAND, CONF

NODES = ("hydra.launcher", "hydra.sweeper")  # Hydra makes objects of them, before anything here is asked
OF_ARCH = re.compile(r"arch\.(?!_target_=)[\w.]+=")
VALUED = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p")


def configs(context: HydraContext, master: DictConfig, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return the composed config of each job as plain values, interpolations resolved; each from its overrides."""
    composer = Composer(context.config_loader, master)
    return [composer.config(job) for job in jobs]


class Composer:
    """Remembers what Hydra was asked."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parse = cache(OverridesParser.create(config_loader=loader).parse_override)
        self.is_group = cache(lambda name: bool(loader.get_group_options(name)))  # Hydra looks for ten milliseconds
        self.sets_value = cache(self._sets_value)
        self.composed = cache(self._composed)
        self.plain = cache(lambda groups: Plain.of(self.composed(groups)))

    def config(self, job: Sequence[str]) -> dict[str, Any]:
        groups = tuple(text for text in job if not self.sets_value(text))
        values = [self.parse(text) for text in job if text not in groups]
        if (base := self.plain(groups)) and (found := base.given(values)) is not None:
            return found
        copied = copy.deepcopy(self.composed(groups))
        # in order, by Hydra's own function: `key=`, `+key=`, `++key=` and `~key` mean what they mean without -m
        ConfigLoaderImpl._apply_overrides_to_config(values, copied)
        return cast("dict[str, Any]", OmegaConf.to_container(copied, resolve=True))

    def _composed(self, groups: tuple[str, ...]) -> DictConfig:
        whole = self.loader.load_sweep_config(master_config=self.master, sweep_overrides=list(groups))
        with open_dict(whole):
            del whole["hydra"]
        return whole

    def _sets_value(self, text: str) -> bool:
        override = self.parse(text)
        if override.key_or_group.partition(".")[0] == "hydra":
            return False
        if isinstance(override.value(), dict) or not self.is_group(override.key_or_group):
            return True
        check_group(override)
        return False


@cache
def with_dataset(name: str) -> dict[str, Any]:
    """Return the config that `dataset=name` alone gives, as plain values; only while Hydra runs."""
    loader = GlobalHydra.instance().config_loader()
    whole = loader.load_configuration("config", overrides=[f"dataset={name}"], run_mode=RunMode.RUN)
    with open_dict(whole):
        del whole["hydra"]
    return cast("dict[str, Any]", OmegaConf.to_container(whole, resolve=True))


def opened(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra understands them.

    With a `++` before those of a network, so that `arch.width=2` is one without a plus; options like `-m` and
    `--config-dir DIR`, which argparse does not find between overrides, are the first.
    """
    found = [f"++{text}" if OF_ARCH.match(text) else text for text in arguments]
    options = [i for i, text in enumerate(found) if text.startswith("-") or (i and found[i - 1] in VALUED)]
    return [found[i] for i in options] + [text for i, text in enumerate(found) if i not in options]


def check_group(override: Override) -> None:
    """Raise a UserError if a group is given a number or null; Hydra's own error does not say which group."""
    key, value = override.key_or_group, override.value()
    for name in value if isinstance(value, list) else [value]:
        if not override.is_delete() and not isinstance(name, str):
            shown = "null" if name is None else name
            raise UserError(f"{key} must be the name of one of its options, got {shown!r}; {COMMAND} --help lists them")


def check_groups(arguments: Sequence[str]) -> None:
    """Check the groups among the command line's overrides as `check_group` does; what is not understood is Hydra's."""
    parser = OverridesParser.create()
    for text in arguments:
        try:
            override = parser.parse_override(text)
            value = override.value()
        except HydraException:  # an option such as -m, or what Hydra will refuse
            continue
        key = override.key_or_group
        if override.is_sweep_override() or isinstance(value, dict):
            continue
        if key in NODES:
            shown = "null" if value is None else value
            raise UserError(f"{key} must stay a group of settings, got {shown!r}; give {key.replace('.', '/')}=NAME")
        if (CONF / key).is_dir():
            check_group(override)
