"""One composed config, read and checked once; typed from there on."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pruning import archs, data
from pruning.env import Env
from pruning.errors import UserError, check_choice, naming
from pruning.export import ExportSettings
from pruning.masks import Levels, prunable
from pruning.pipeline.origin import Origin, origin_of
from pruning.runs import Ref, Run, Step, find
from pruning.settings import Settings, path_of, value_of
from pruning.stages import STAGES, PruneRecipe, code_of

# and the nodes of the stages
NODES = {"dataset", "arch", "stage", "levels", "seed", "resume", "redo", "env", "sweep", "export", "report"}
LONGEST = 60  # characters of a method in the name of a directory
BUILD = "pruning.archs.build"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person wants; `pipeline.plan` turns it into steps, which gather in `steps`, parents first."""

    nodes: Mapping[str, Any]  # the settings of the stages, as the config has them
    dataset: Mapping[str, Any]  # what is hashed of it
    root: str | None  # the directory of an image_folder
    num_classes: int
    images: data.Info
    arch: str
    seed: int
    levels: Levels
    origin: Origin | None
    env: Env
    resolve: Callable[[str], str]  # makes "bf16" or "fp32" of "auto"
    steps: dict[Ref, Step] = field(default_factory=dict)

    @classmethod
    def read(
        cls, config: Mapping[str, Any], env: Env, resolve: Callable[[str], str], progress: data.Progress | None = None
    ) -> Self:
        """Read the composed `config` (plain values); UserError for whatever can be known to be wrong now.

        `progress` hears of images that have to be hashed.
        """
        for key in config:
            check_choice("a key of the config", key, NODES | STAGES.keys())
        for key in group("stage", config):
            check_choice("a setting of stage", key, ("name",))
        if (seed := value_of("seed", config.get("seed"), int)) < 0:
            raise UserError(f"seed must be a whole number >= 0, got {seed}")
        dataset, root, info = read_dataset(config.get("dataset"), env, progress)
        num_classes = info.num_classes
        arch = read_arch(group("arch", config))
        nodes = {name: config[name] for name in STAGES if name in config}
        for name, node in nodes.items():  # also those that this result does not need
            STAGES[name].recipe.check_keys(node, name)
            if not STAGES[name].recipe.missing(node):
                STAGES[name].recipe.read(node, name)
        ExportSettings.read(config.get("export", {}), "export")
        resume = config.get("resume")
        return cls(
            nodes=nodes,
            dataset=dataset,
            root=root,
            num_classes=num_classes,
            images=info,
            arch=arch,
            seed=seed,
            levels=Levels.read(config.get("levels", {}), "levels"),
            origin=None if resume is None else origin_of(resume, arch, num_classes, env.runs),
            env=env,
            resolve=resolve,
        )

    def recipe(self, stage: str) -> Settings:
        """Return the settings of a stage, as the config has them."""
        return STAGES[stage].recipe.read(self.nodes.get(stage, {}), stage)

    def sparsities(self, stage: str) -> tuple[float, ...]:
        """Return the sparsities on the way to the one that the recipe of `stage` asks for; that is the last."""
        recipe = self.recipe(stage)
        if not isinstance(recipe, PruneRecipe):
            raise TypeError(f"{stage} asks for no sparsity")
        with naming(stage):
            names = prunable(archs.skeleton(self.arch, self.num_classes), recipe.layers, recipe.include, recipe.exclude)
        if self.origin is None:
            return self.levels.sparsities(recipe.sparsity)
        weights, pruned = map(sum, zip(*(self.origin.pruned[name] for name in names), strict=True))
        if round(recipe.sparsity * weights) < pruned:
            raise UserError(
                f"{stage}.percent={recipe.sparsity:g} is below the sparsity {pruned / weights:.4f} that "
                f"{self.origin.file} already has; a pruned weight never returns, so ask for more than that"
            )
        return self.levels.sparsities(recipe.sparsity, pruned / weights)

    def step(
        self, stage: str, after: Step | None = None, *, inputs: Mapping[str, Step | Ref] | None = None, **settings: Any
    ) -> Step:
        """Add the step of `stage` that starts from `after`; without it, from `resume=`, or from nothing.

        `inputs` are further checkpoints that it reads, by role: steps or ids of runs, each an ancestor of `after` or
        done. `settings` replace those of the config, under the names of the recipe's fields.
        """
        recipe = self.recipe(stage)
        if settings:
            with naming(stage, recipe.KEYS):
                recipe = replace(recipe, **settings)
        asked = getattr(recipe, "sparsity", None)
        parent, before, places = None, None, {}
        if after:
            parent, before, places = after.id, after.sparsity, {after.id: after.name}
        elif self.origin:
            parent, before = self.origin.ref, self.origin.sparsity
            places = {self.origin.ref: str(self.origin.file)}
        given = {role: self.named(role, source) for role, source in (inputs or {}).items()}
        step = Step(
            stage=stage,
            recipe={key: value for key, value in recipe.non_defaults().items() if key != "precision"},
            dataset=self.dataset,
            arch={"name": self.arch},
            seed=self.seed,
            precision=self.precision(recipe, after),
            parent=parent,
            inputs={role: ref for role, (ref, _) in given.items()},
            code=code_of(stage, recipe, self.dataset["name"], self.arch),
            num_classes=self.num_classes,
            sparsity=before if asked is None else asked,
            method=method_of(recipe) if STAGES[stage].prunes else after.method if after else "",
            level=(after.level if after else 0) + STAGES[stage].prunes,
            root=self.root,
            places=places | dict(given.values()),
        )
        self.check_inputs(step)
        return self.steps.setdefault(step.id, step)

    def precision(self, recipe: Settings, after: Step | None) -> str:
        """Return what the recipe asks for; a stage that trains nothing computes as its parent did."""
        wanted = getattr(recipe, "precision", None)
        if wanted is None and after:
            return after.precision
        of_nodes = (node["precision"] for node in self.nodes.values() if "precision" in node)
        return self.resolve(wanted or next(of_nodes, "auto"))

    def named(self, role: str, source: Step | Ref) -> tuple[Ref, str]:
        """Return the reference of an input, and where that is found."""
        if isinstance(source, Step):
            return source.id, source.name
        if not (run := find(self.env.runs, source)):
            raise UserError(f"{source}, wanted as {role}: no run in {self.env.runs} has that id")
        return source, run.path.name

    def check_inputs(self, step: Step) -> None:
        """Refuse an input that would not be there in time: it must be an ancestor of the parent, or done."""
        ancestors, at = set(), step.parent
        while at in self.steps:
            ancestors.add(at)
            at = self.steps[at].parent
        for role, ref in step.inputs.items():
            if ref not in ancestors and not Run(self.env.runs / step.places[ref]).done:
                raise UserError(f"{step.stage} reads {ref} as {role}: it does not start from that, and it is not done")


def method_of(recipe: Settings) -> str:
    """Return the words that tell a pruning from the usual one, fit for a directory's name."""
    words = [
        value if isinstance(value, str) else "-".join([key, *value])
        for key, value in recipe.non_defaults().items()
        if isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str))
    ]
    return re.sub(r"[^\w.+-]", "_", "-".join(words))[:LONGEST]


def group(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the node `name`, which must be a group of settings."""
    node = config.get(name)
    if not isinstance(node, Mapping) or "name" not in node:
        raise UserError(f"{name} must be a group of settings with a name, got {node!r}; give {name}=NAME")
    return node


def read_arch(node: Mapping[str, Any]) -> str:
    """Return the name of the architecture. `_target_` is there for hydra.utils.instantiate."""
    for key in node:
        check_choice("a setting of arch", key, ("name", "_target_"))
    if (target := node.get("_target_", BUILD)) != BUILD:
        raise UserError(f"arch._target_ must be {BUILD}, got {target!r}; the architecture is chosen by arch.name")
    return check_choice("arch", node["name"], archs.ARCHS)


def read_dataset(node: Any, env: Env, progress: data.Progress | None) -> tuple[dict[str, Any], str | None, data.Info]:
    """Return what is hashed of the dataset, its directory if it is one, and what is known of it."""
    settings = data.DatasetSettings.read(node, "dataset")
    if settings.root is not None:
        settings = replace(settings, root=str(path_of("dataset.root", settings.root).resolve()))
    with naming("dataset"):
        info = described(settings, env.data, progress)
    hashed = {key: value for key, value in settings.non_defaults().items() if key != "root"}
    hashed |= {"fingerprint": info.fingerprint} if info.fingerprint else {}
    return hashed, settings.root, info


@lru_cache
def described(settings: data.DatasetSettings, cache: Path, progress: data.Progress | None) -> data.Info:
    """Look at the dataset once for a whole sweep."""
    return data.info(settings, cache=cache, progress=progress)
