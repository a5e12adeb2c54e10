"""What a person may want: each result adds the steps that it needs, parents first, and reads like the paper.

A new result is one function Request -> Step, entered in RESULTS under the name that `stage=` gives it.
"""

from collections.abc import Callable

from pruning.errors import UserError
from pruning.masks import Levels
from pruning.pipeline.request import Request
from pruning.runs import Step
from pruning.stages import DistillRecipe, PruneRecipe, RewindRecipe


def train(want: Request, *epochs: int) -> Step:
    """The dense network; `epochs` are those after which it is to be kept too."""
    if want.origin:
        raise UserError("resume= stands in place of training, so stage=train has nothing to do: give stage=finetune")
    return want.step("train", snapshots=[*want.env.snapshots, *epochs])


def prune(want: Request, retrained: Callable[[Step], Step] | None = None) -> Step:
    """Han et al. 2015: train, then prune; with several levels, finetune (or as `retrained`) before each further one."""
    if "prune" in want.masks:
        if want.origin and want.origin.sparsity:
            raise UserError(
                "resume= is pruned already, so it cannot take another mask: prune.mask_from needs a dense one"
            )
        return _with_mask(want, None if want.origin else train(want))
    *earlier, target = want.sparsities("prune")
    step = None if want.origin else train(want)
    for sparsity in earlier:
        pruned = want.step("prune", after=step, sparsity=sparsity)
        step = retrained(pruned) if retrained else want.step("finetune", after=pruned)
    return want.step("prune", after=step, sparsity=target)


def _with_mask(want: Request, start: Step | None) -> Step:
    """Remove from a network that is not pruned what another one has pruned."""
    if want.levels != Levels():
        raise UserError("prune.mask_from is a mask of one sparsity, so there are no levels on the way; levels=one_shot")
    return want.step("prune", after=start, inputs={"mask": want.masks["prune"]})


def finetune(want: Request) -> Step:
    """Han et al. 2015: the pruned network, trained further."""
    return want.step("finetune", after=prune(want))


def lr_rewind(want: Request) -> Step:
    """Renda et al. 2020: the pruned network, trained again as long and at the rates of the dense one, at each level."""

    def retrained(pruned: Step) -> Step:
        return want.step("lr_rewind", after=pruned)

    return retrained(prune(want, retrained))


def rewind(want: Request) -> Step:
    """Frankle et al. 2020: before each training the kept weights go back to where the dense network was at an epoch."""
    if want.origin:
        raise UserError("resume= does not say how its network was trained, so stage=rewind cannot go back to that")
    inputs = {}
    recipe = want.recipe("rewind")
    if isinstance(recipe, RewindRecipe) and (epoch := recipe.epoch):
        dense = train(want, epoch)
        if epoch > dense.epochs:
            raise UserError(f"rewind.epoch={epoch}: the dense network is trained for train.epochs={dense.epochs} only")
        inputs["start"] = dense.at(epoch)

    def retrained(pruned: Step) -> Step:
        return want.step("rewind", after=pruned, inputs=inputs)

    return retrained(prune(want, retrained))


def scratch_e(want: Request) -> Step:
    """Liu et al. 2019: the pruned network of the paper above, with fresh weights, trained as long as the dense one."""
    return want.step("scratch_e", after=prune(want))


def scratch_b(want: Request) -> Step:
    """Liu et al. 2019: the same, trained longer, with the multiply-adds that the dense one took."""
    return want.step("scratch_b", after=prune(want))


def distill(want: Request) -> Step:
    """Le and Hua 2020: the last finetuning of the paper above, taught by the networks that were trained before it."""
    last = prune(want)
    recipe = want.recipe("distill")
    if not isinstance(recipe, DistillRecipe) or not recipe.weight:
        return want.step("distill", after=last)
    trained = [step for step in want.steps.values() if step.stage in ("train", "finetune")]
    kinds = {f"level {step.level}" if step.level else "dense": "levels" if step.level else "dense" for step in trained}
    teachers = {
        role: step for role, step in zip(kinds, trained, strict=True) if recipe.teachers in ("all", kinds[role])
    }
    if not teachers:
        source = "resume= stands in place of the dense network" if want.origin else "there is one level only"
        remedy = "distill.teachers=all or levels" if recipe.teachers == "dense" else "levels.count=2 or more"
        raise UserError(f"distill.teachers={recipe.teachers} finds no teacher: {source}; give {remedy}")
    return want.step("distill", after=last, inputs=teachers)


def at_init(want: Request) -> Step:
    """Lee et al. 2019: the network is pruned at its initialisation and trained once; no dense one is."""
    return want.step("at_init", after=_pruned_untrained(want, "at_init"))


def rigl(want: Request) -> Step:
    """Evci et al. 2020: the same, with a mask that moves while the network trains."""
    return want.step("rigl", after=_pruned_untrained(want, "rigl"))


def set_(want: Request) -> Step:
    """Mocanu et al. 2018: the same, with a mask that moves at random."""
    return want.step("set", after=_pruned_untrained(want, "set"))


def gradual(want: Request) -> Step:
    """Zhu and Gupta 2017: the network is pruned while it trains, from its initialisation or from `resume=`."""
    of_prune = want.recipe("prune")
    if want.masks or not isinstance(of_prune, PruneRecipe) or of_prune.control != "none":
        raise UserError("stage=gradual finds its mask while it trains: prune.control and prune.mask_from are of others")
    if len(want.sparsities("gradual")) > 1:
        raise UserError("stage=gradual prunes in steps of its own, gradual.interval; give levels=one_shot")
    start = None if want.origin else want.step("init")
    if not getattr(want.recipe("gradual"), "epochs", 0):
        raise UserError("gradual.epochs must be >= 1 to prune during training, got 0")
    options = {**of_prune.options, **want.recipe("gradual").options}  # of the criterion
    return want.step("gradual", after=start, options=options)


def _pruned_untrained(want: Request, stage: str) -> Step:
    if want.origin:
        raise UserError(
            f"resume= is a network that was trained, so stage={stage} cannot prune it at its initialisation"
        )
    start = want.step("init")
    if "prune" in want.masks:
        return _with_mask(want, start)
    if len(want.sparsities("prune")) > 1:
        raise UserError(f"stage={stage} prunes once, with no training before that; give levels=one_shot")
    return want.step("prune", after=start)


PRODUCT = "finetune"  # what stage=export exports
RESULTS: dict[str, Callable[[Request], Step]] = {
    "train": train,
    "prune": prune,
    "finetune": finetune,
    "lr_rewind": lr_rewind,
    "rewind": rewind,
    "scratch_e": scratch_e,
    "scratch_b": scratch_b,
    "distill": distill,
    "at_init": at_init,
    "gradual": gradual,
    "rigl": rigl,
    "set": set_,
}
