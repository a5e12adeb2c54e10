"""What came out: figures of one step, tables, pictures."""

from pruning.report.figures import measure_result
from pruning.report.layers import layers
from pruning.report.picture import picture
from pruning.runs.table import COLUMNS, outcome, table, text

__all__ = ["COLUMNS", "layers", "measure_result", "outcome", "picture", "table", "text"]
