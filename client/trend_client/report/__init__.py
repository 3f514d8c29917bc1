"""The report: one HTML file for the planner, readable offline, printable, with nothing loaded from elsewhere."""

from trend_client.report.data import Privacy, ReportData, SentMessage
from trend_client.report.write import render_report, write_report

__all__ = ["Privacy", "ReportData", "SentMessage", "render_report", "write_report"]
