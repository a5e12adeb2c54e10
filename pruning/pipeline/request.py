"""One composed config, read and checked once; typed from there on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from pruning import archs, data
from pruning.env import Env
from pruning.errors import UserError, check_choice, naming
from pruning.export import ExportSettings
from pruning.masks import KINDS, Levels, prunable
from pruning.pipeline.nodes import group, method_of, read_dataset
from pruning.pipeline.origin import Origin, masks_of, origin_of, with_mask
from pruning.runs import Ref, Run, Step, find, is_file, run_of
from pruning.settings import Settings, value_of
from pruning.stages import STAGES, Selection, code_of
from pruning.training import TrainRecipe

# and the nodes of the stages
NODES = {"dataset", "arch", "stage", "levels", "seed", "resume", "redo", "env", "sweep", "export", "report"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person wants; `pipeline.results` turns it into steps, which gather in `steps`, parents first."""

    nodes: Mapping[str, Any]  # the settings of the stages, as the config has them
    dataset: Mapping[str, Any]  # what is hashed of it
    root: str | None  # where its images are
    num_classes: int
    images: data.Info
    arch: archs.Arch
    seed: int
    levels: Levels
    origin: Origin | None
    masks: Mapping[str, Origin]  # what prune.mask_from names, by stage
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
        arch = archs.read(config.get("arch"))
        nodes = {name: config[name] for name in STAGES if name in config}
        masks = masks_of(nodes, arch, num_classes, env.runs)
        nodes |= {name: with_mask(nodes[name], mask, name) for name, mask in masks.items()}
        for name, node in nodes.items():  # also those that this result does not need
            STAGES[name].recipe.check(node, name)
        ExportSettings.read(config.get("export", {}), "export")
        return cls(
            nodes=nodes,
            dataset=dataset,
            root=root,
            num_classes=num_classes,
            images=info,
            arch=arch,
            seed=seed,
            levels=Levels.read(config.get("levels", {}), "levels"),
            origin=origin_of(config.get("resume"), arch, num_classes, env.runs),
            masks=masks,
            env=env,
            resolve=resolve,
        )

    def recipe(self, stage: str) -> Settings:
        """Return the settings of a stage, as the config has them."""
        return STAGES[stage].recipe.read(self.nodes.get(stage, {}), stage)

    def sparsities(self, stage: str) -> tuple[float, ...]:
        """Return the sparsities on the way to the one that the recipe of `stage` asks for; that is the last."""
        recipe = self.recipe(stage)
        if not isinstance(recipe, Selection):
            raise TypeError(f"{stage} asks for no sparsity")
        with naming(stage):
            asked = (recipe.layers, recipe.include, recipe.exclude)
            if not (names := names_of(self.arch, self.num_classes, *asked)):
                others = [kind for kind in KINDS if names_of(self.arch, self.num_classes, kind)]
                text = f"arch={self.arch} has no such layers, so there is nothing to prune"
                hint = f"; give {stage}.layers={others[0]}" if others else ""
                raise UserError(f"layers={recipe.layers}: {text}{hint}", "layers")
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
        self,
        stage: str,
        after: Step | None = None,
        *,
        inputs: Mapping[str, Step | Ref | Origin] | None = None,
        snapshots: Iterable[int] = (),
        **settings: Any,
    ) -> Step:
        """Add the step of `stage` that starts from `after`; without it, from `resume=`, or from nothing.

        `inputs` are other checkpoints that it reads, by role: files, or steps or ids of runs, ancestors of `after` or
        done. After the epochs `snapshots` its network is kept. `settings` replace fields of the config's recipe.
        """
        recipe = self.recipe(stage)
        with naming(stage, recipe.KEYS):
            recipe = recipe.with_(settings)
        parent, before, places = self.begins_at(after)
        given = {role: self.named(role, source) for role, source in (inputs or {}).items()}
        own = {key: value for key, value in recipe.non_defaults().items() if key != "precision"}
        step = Step(
            stage=stage,
            recipe=own,
            dataset=self.dataset,
            arch=archs.spec_of(self.arch),
            seed=self.seed,
            precision=self.precision(stage, recipe, after),
            parent=parent,
            inputs={role: ref for role, (ref, _) in given.items()},
            code=code_of(stage, recipe, self.dataset["name"], self.arch),
            num_classes=self.num_classes,
            sparsity=getattr(recipe, "sparsity", before),
            method=method_of(recipe) if STAGES[stage].prunes else after.method if after else "",
            length=recipe.length if isinstance(recipe, TrainRecipe) and recipe.length != recipe.epochs else None,
            level=(after.level if after else 0) + STAGES[stage].prunes,
            root=self.root,
            arch_place=archs.place_of(self.arch),
            places=places | dict(given.values()),
        )
        return self.added(step.keeping(snapshots))

    def added(self, step: Step) -> Step:
        """Enter the step, and return it with all snapshots that were asked for so far; UserError as `check_inputs`."""
        self.check_inputs(step)
        before = self.steps.get(step.id, step)
        self.steps[step.id] = before.keeping(step.snapshots)
        return self.steps[step.id]

    def begins_at(self, after: Step | None) -> tuple[Ref | None, float | None, dict[Ref, str]]:
        """Return from what a step starts: its reference, its sparsity, and where it is found."""
        if after:
            return after.id, after.sparsity, {after.id: after.name}
        if self.origin:
            return self.origin.ref, self.origin.sparsity, {self.origin.ref: str(self.origin.file)}
        return None, None, {}

    def precision(self, stage: str, recipe: Settings, after: Step | None) -> str:
        """Return what the recipe asks for; a stage that trains nothing computes as its parent did."""
        wanted = getattr(recipe, "precision", None)
        if wanted is None and after:
            return after.precision
        of_nodes = (node["precision"] for node in self.nodes.values() if "precision" in node)
        with naming(stage if wanted else ""):
            return self.resolve(wanted or next(of_nodes, "auto"))

    def named(self, role: str, source: Step | Ref | Origin) -> tuple[Ref, str]:
        """Return the reference of an input, and where that is found."""
        if isinstance(source, Step):
            return source.id, source.name
        if isinstance(source, Origin):
            return source.ref, str(source.file)
        if made_here := self.steps.get(run_of(source)):
            return source, made_here.name
        if not (run := find(self.env.runs, run_of(source))):
            raise UserError(f"{source}, wanted as {role}: no run in {self.env.runs} has that id")
        return source, run.path.name

    def check_inputs(self, step: Step) -> None:
        """Refuse an input that would not be there in time: it must be an ancestor of the parent, or done."""
        ancestors, at = set(), step.parent
        while at in self.steps:
            ancestors.add(at)
            at = self.steps[at].parent
        for role, ref in step.inputs.items():
            if run_of(ref) not in ancestors and not is_file(ref) and not Run(self.env.runs / step.places[ref]).done:
                raise UserError(f"{step.stage} reads {ref} as {role}: it does not start from that, and it is not done")


@lru_cache  # once for a whole sweep
def names_of(arch: archs.Arch, num_classes: int, layers: str, *patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the network's prunable weights."""
    return tuple(prunable(archs.skeleton(arch, num_classes), layers, *patterns))
