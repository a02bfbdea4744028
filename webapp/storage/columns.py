"""The columns of a call and of a report, in the order of their fields."""

from __future__ import annotations

from dataclasses import fields

from webapp.calls.report import StatusReport
from webapp.calls.rule import Call
from webapp.storage.models import calls, status_reports

CALL_COLUMNS = [calls.c[field.name] for field in fields(Call)]
REPORT_COLUMNS = [status_reports.c[field.name] for field in fields(StatusReport) if field.name in status_reports.c]
"""What a report says beside its columns is read again from its payload; see ``esms.stored``."""
