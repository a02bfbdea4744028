"""The names of all series of /metrics, and the alerts that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from webapp.support import metrics
from webapp.web import gauges

ALERTS = Path(__file__).parents[2] / "deploy/alerts.yaml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}


def all_series() -> set[str]:
    """The names of all series of /metrics."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    names = {
        family.name + suffix
        for metric in metrics.COUNTED
        for family in metric.describe()
        for suffix in suffixes[family.type]
    }
    for one in (*gauges.OF_THE_SPOOL, *gauges.OF_NOW, *gauges.OF_LATELY):
        histogram = isinstance(one, metrics.SampledHistogram)
        names |= {one.name + suffix for suffix in suffixes["histogram" if histogram else "gauge"]}
    return names
