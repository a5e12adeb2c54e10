"""From what a person wants to the steps it needs, parents first; from many wishes to one graph without repeats."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pruning import archs, checkpoints, data, hosts
from pruning.errors import UserError, one_of
from pruning.recipes import RECIPES, PruneRecipe, Recipe, TrainRecipe, value_of
from pruning.runs import Env, Run, Step, find

CHAINS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "prune": ("train", "prune"),
    "finetune": ("train", "prune", "finetune"),
}
NODES = {"dataset", "arch", "stage", "seed", "resume", "env", "sweep", *RECIPES}
DATASET = {"name", "root", "val_fraction", "pad", "flip"}


def chain(
    config: Mapping[str, Any],
    env: Env,
    precision: Callable[[str], str] | None = None,
    progress: data.Progress | None = None,
) -> list[Step]:
    """Return the steps that the composed `config` (plain values) asks for, the last one the wanted result.

    Everything that can be known to be wrong before any work is refused here, as a UserError of one line.
    `precision` resolves "auto"; by default for `env.device`. `progress` hears of images that have to be hashed.
    """
    for key in config:
        one_of("a key of the config", key, NODES)
    resolve = precision or (lambda wanted: hosts.precision(wanted, hosts.device(env.device)))
    stages = CHAINS[one_of("stage", config["stage"]["name"], CHAINS)]
    seed = value_of("seed", config["seed"], int)
    if seed < 0:
        raise UserError(f"seed must be a whole number >= 0, got {seed}")
    recipes = {stage: RECIPES[stage].read(config[stage]) for stage in ("train", *stages)}
    dataset, aside = dataset_of(config["dataset"], env, progress)
    arch = {k: v for k, v in config["arch"].items() if k != "_target_"}
    one_of("arch", arch.get("name"), archs.BUILDERS)
    parent = None
    if config.get("resume") is not None:
        stages = after_resume(stages, recipes, origin := origin_of(config["resume"], arch["name"], aside, env))
        parent, aside = origin.pop("parent"), aside | origin
    steps: list[Step] = []
    for stage in stages:
        recipe = recipes[stage]
        if isinstance(recipe, PruneRecipe):
            aside = aside | {"percent": recipe.percent}
        trained = recipe if isinstance(recipe, TrainRecipe) else recipes["train"]
        assert isinstance(trained, TrainRecipe)
        told = {k: v for k, v in recipe.told().items() if k != "precision"}
        steps.append(Step(stage, told, dataset, arch, seed, resolve(trained.precision), parent, aside))
        parent = steps[-1].id
        aside = {k: v for k, v in aside.items() if k != "file"} | {"parent": steps[-1].name}
    return steps


def dataset_of(
    node: Mapping[str, Any], env: Env, progress: data.Progress | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (what is hashed of the dataset, what is needed beside it: root, num_classes)."""
    for key in node:
        one_of("a setting of dataset", key, DATASET)
    name, root = one_of("dataset.name", node["name"], data.NAMES), node.get("root")
    root = None if root is None else str(Path(str(root)).expanduser().resolve())
    info = described(name, root, env.data, progress)
    value_of("dataset.pad", node["pad"], int), value_of("dataset.flip", node["flip"], bool)
    if node["pad"] < 0:
        raise UserError(f"dataset.pad must be a whole number of pixels, 0 or more, got {node['pad']}")
    fraction = value_of("dataset.val_fraction", node["val_fraction"], float)
    if not 0 <= fraction < 1:
        raise UserError(f"dataset.val_fraction must be in [0, 1), got {fraction:g}")
    hashed = {"name": name, "pad": node["pad"], "flip": node["flip"], "fingerprint": info.fingerprint}
    neutral = {k: v for k, v in (hashed | {"val_fraction": fraction}).items() if v}
    return neutral, {"root": root, "num_classes": info.num_classes}


@lru_cache
def described(name: str, root: str | None, cache: Path, progress: data.Progress | None) -> data.Info:
    """Look at the dataset once for a whole sweep."""
    return data.info(name, root=root, cache=cache, progress=progress)


def origin_of(resume: Any, arch: str, aside: Mapping[str, Any], env: Env) -> dict[str, Any]:
    """Return what `resume=PATH_OR_ID` gives: `parent` (by content), `file`, `percent`, `pruned`, `of`."""
    run = find(env.runs, str(resume))
    if run and not run.result():
        raise UserError(f"resume={resume}: that run is not done yet; run its command again first ({run.path})")
    path = run.model if run else Path(str(resume)).expanduser()
    return dict(_origin(path.resolve(), arch, aside["num_classes"]))


@lru_cache
def _origin(path: Path, arch: str, num_classes: int) -> tuple[tuple[str, Any], ...]:
    about = checkpoints.Checkpoint({}, {}, arch, num_classes, {})
    mask = checkpoints.read(path, archs.build(arch, num_classes), about).mask
    of = sum(keep.numel() for keep in mask.values())
    pruned = of - sum(int(keep.sum()) for keep in mask.values())
    found = {"parent": f"sha256:{checkpoints.digest(path)}", "file": str(path)}
    return tuple((found | {"percent": pruned / of if of else 0.0, "pruned": pruned, "of": of}).items())


def after_resume(stages: Sequence[str], recipes: Mapping[str, Recipe], origin: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stages that are left when the dense network is given."""
    recipe = recipes.get("prune")
    if not isinstance(recipe, PruneRecipe):
        raise UserError("resume= stands in place of training, so stage=train has nothing to do: give stage=finetune")
    if recipe.layers == "conv" and round(recipe.percent * origin["of"]) < origin["pruned"]:
        raise UserError(
            f"prune.percent={recipe.percent:g} is below the sparsity {origin['percent']:.4f} that {origin['file']} "
            "already has; a pruned weight never returns, so ask for more than that"
        )
    return tuple(stage for stage in stages if stage != "train")


def graph(chains: Iterable[Sequence[Step]]) -> list[Step]:
    """Return every step of the chains once, parents before children, in the order of first need."""
    steps: dict[str, Step] = {}
    for steps_of_one in chains:
        for step in steps_of_one:
            steps.setdefault(step.id, step)
    return list(steps.values())


def missing(steps: Iterable[Step], runs: Path) -> list[Step]:
    """Return the steps that have no result yet."""
    return [step for step in steps if not (Run.of(step, runs).path / "result.json").exists()]
