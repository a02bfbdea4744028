"""The command sandbox."""

from __future__ import annotations

from webapp.esms.sandbox import sandbox_command as sandbox

__all__ = ["sandbox"]
