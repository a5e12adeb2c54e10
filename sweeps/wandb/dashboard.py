"""Make a W&B report of our panels on the runs of a project: accuracy over sparsity, cost, layers, cells.

python sweeps/wandb/dashboard.py --entity US --project pruning --group ratios-s1234abcd
python sweeps/wandb/dashboard.py --dry-run          # prints what would be saved, as JSON; asks no server

It needs wandb-workspaces: pip install wandb-workspaces.
"""

import argparse
import json
import sys
from functools import partial
from typing import Any

CRITERION, PERCENT = "criterion", "percent"  # of a run's config; W&B reads a dot in a name as a level
MISSING = "sweeps/wandb/dashboard.py needs wandb-workspaces ({}): pip install wandb-workspaces"


def runs(group: str | None, place: dict[str, str], name: str, stage: str, *by: str) -> list[Any]:
    """Return the runs of a stage, of one group if given; `by` are keys of their config.

    With a `place` (entity and project) W&B is asked for that project's number; without one it is the report's own.
    """
    import wandb_workspaces.reports.v2 as wr

    chosen = " and ".join([f"Metric('jobType') = '{stage}'", *([f"Metric('group') = '{group}'"] if group else [])])
    return [wr.Runset(**place, name=name, filters=chosen, groupby=[f"config.{key}" for key in by])]


def over_sparsity(title: str, figure: str) -> Any:
    """Return a point for each run, at its sparsity."""
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(title=title, x=wr.SummaryMetric("sparsity"), y=wr.SummaryMetric(figure))


def spread(title: str, figure: str) -> Any:
    """Return a bar for each group of runs: the mean over its seeds, and their standard deviation."""
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title=title, metrics=[wr.SummaryMetric(figure)], groupby_aggfunc="mean", groupby_rangefunc="stddev"
    )


def over_epochs(figure: str) -> Any:
    """Return a line for each criterion: the mean over its runs, and their standard deviation."""
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=f"{figure} over epochs",
        x="epoch",
        y=[figure],
        groupby=wr.Config(CRITERION),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )


def report(entity: str, project: str, group: str | None, ask: bool = True) -> Any:
    """Return the report, not saved."""
    import wandb_workspaces.reports.v2 as wr

    some = partial(runs, group, {"entity": entity, "project": project} if ask else {})
    tuned = some("finetuned, by criterion", "finetune", CRITERION)
    cells = some("finetuned, by criterion and sparsity", "finetune", CRITERION, PERCENT)
    accuracy = [
        over_sparsity("top-1 over sparsity (percent)", "test_top1"),
        over_sparsity("top-1 right after pruning (percent)", "before.test_top1"),
        over_sparsity("multiply-adds left", "macs_nonzero"),
        over_epochs("test_top1"),
    ]
    seeds = [
        spread("top-1, mean and deviation over seeds (percent)", "test_top1"),
        spread("cost: epochs of the last step", "epochs"),
        spread("cost: seconds of the last step", "seconds"),
    ]
    of_sweep = [wr.WeavePanelSummaryTable(table_name="cells")]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"Pruning: {group or project}",
        description="How far can a network be pruned?",
        width="fluid",
        blocks=[
            wr.H1(text="Accuracy over sparsity"),
            wr.PanelGrid(runsets=tuned, panels=accuracy),
            wr.H1(text="Seeds and cost"),
            wr.PanelGrid(runsets=cells, panels=seeds),
            wr.H1(text="Layers: weights, kept, sparsity"),
            wr.PanelGrid(runsets=tuned, panels=[wr.WeavePanelSummaryTable(table_name="layers")]),
            wr.H1(text="Cells: means, intervals and comparisons of each sweep"),
            wr.PanelGrid(runsets=some("reports of sweeps", "report"), panels=of_sweep),
        ],
    )


def main() -> int:
    """Save the report, or print it."""
    parser = argparse.ArgumentParser(description="Make a W&B report of our panels.")
    parser.add_argument("--entity", help="whose project it is; W&B's default if left out")
    parser.add_argument("--project", default="pruning")
    parser.add_argument("--group", help="only the runs of this sweep")
    parser.add_argument("--dry-run", action="store_true", help="print the specification as JSON, and save nothing")
    given = parser.parse_args()
    try:
        import wandb
        import wandb_workspaces.reports.v2  # noqa: F401 (only to know whether it is installed)
    except ImportError as error:
        print(MISSING.format(error), file=sys.stderr)
        return 1
    try:
        if given.dry_run:
            made = report(given.entity or "ENTITY", given.project, given.group, ask=False)
            print(json.dumps(made._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json"), indent=1))
        else:
            made = report(given.entity or wandb.Api().default_entity or "", given.project, given.group)
            made.save()
            print(made.url)
    except Exception as error:
        print(f"W&B has not taken the report: {str(error).splitlines()[0] if str(error) else error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
