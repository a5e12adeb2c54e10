"""What came out of many runs: how far networks can be pruned, and how sure that is."""

from pruning.summary.make import Report, make_report, report_after, report_text, sync_reports
from pruning.summary.settings import ReportSettings

__all__ = ["Report", "ReportSettings", "make_report", "report_after", "report_text", "sync_reports"]
