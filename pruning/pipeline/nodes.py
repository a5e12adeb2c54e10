"""Nodes of a composed config that are no stage's settings, read and checked."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pruning import data
from pruning.env import Env
from pruning.errors import UserError, naming
from pruning.settings import Settings, path_of
from pruning.settings.settings import own_fields
from pruning.training import TrainRecipe

LONGEST = 60  # characters of a method in the name of a directory


def method_of(recipe: Settings) -> str:
    """Return the words that tell a pruning from the usual one, fit for a directory's name."""
    of_training = {f.name for f in own_fields(TrainRecipe)} if isinstance(recipe, TrainRecipe) else set()
    words = ["mask_from"] if getattr(recipe, "mask_from", None) else []
    words += [
        value if isinstance(value, str) else "-".join([key, *value])
        for key, value in recipe.non_defaults().items()
        if key not in of_training
        and (isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str)))
    ]
    return re.sub(r"[^\w.+-]", "_", "-".join(words))[:LONGEST]


def group(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node `name`, which must be a group of settings."""
    node = config.get(name)
    if not isinstance(node, Mapping) or "name" not in node:
        raise UserError(f"{name} must be a group of settings with a name, got {node!r}; give {name}=NAME")
    return node


def read_dataset(node: Any, env: Env, progress: data.Progress | None) -> tuple[dict[str, Any], str | None, data.Info]:
    """Return what is hashed of the dataset, where it is, and what is known of it."""
    settings = data.DatasetSettings.read(node, "dataset")
    key, asked = (dataset := data.DATASETS[settings.name]).place, dataset.key
    if settings.place is not None and (key != "hub" or Path(settings.place).is_dir()):
        place: dict[str, Any] = {key: str(path_of(f"dataset.{asked}", settings.place).resolve())}
        settings = replace(settings, **place)
    with naming("dataset", {key: asked}):
        info = described(settings, env.data, progress)
    hashed = {name: value for name, value in settings.non_defaults().items() if name != key}
    hashed |= {"fingerprint": info.fingerprint} if info.fingerprint else {}
    return hashed, settings.place, info


@lru_cache
def described(settings: data.DatasetSettings, cache: Path, progress: data.Progress | None) -> data.Info:
    """Look at the dataset once for a whole sweep."""
    return data.info(settings, cache=cache, progress=progress)
