"""What came out: figures of one step, tables, pictures."""

from pruning.report.figures import measure_result
from pruning.report.picture import picture
from pruning.report.table import COLUMNS, layers, table, text

__all__ = ["COLUMNS", "layers", "measure_result", "picture", "table", "text"]
