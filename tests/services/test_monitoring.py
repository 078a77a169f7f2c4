"""What is shipped for Prometheus and Grafana asks for what a service tells, by the names and labels that it has."""

import json
import re
from typing import Any

import msgspec
from prometheus_client.metrics import MetricWrapperBase

from infra import bentos
from services import metrics

FOLDER = bentos.SOURCES / "infra" / "monitoring"
TARGETS_LABELS = {"job", "le"}


def told() -> dict[str, set[str]]:
    """The labels of each series, by name."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
            kinds = endings[str(metric._type)]
            found |= {f"{metric._name}{kind}": set(metric._labelnames) for kind in kinds}
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_each_panel_asks_for_series_and_labels_that_there_are() -> None:
    dashboard, series = json.loads((FOLDER / "grafana.json").read_text()), told()

    for query in queries(dashboard):
        (name,) = re.findall(r"\bokruh_\w+", query)
        grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(",")}
        chosen = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query))
        assert grouped | chosen <= series[name] | TARGETS_LABELS

    assert [f"{panel['gridPos']['x']}.{panel['gridPos']['y']}" for panel in dashboard["panels"]] == [
        f"{12 * (place % 2)}.{8 * (place // 2)}" for place in range(len(dashboard["panels"]))
    ]


def test_prometheus_scrapes_where_a_service_tells() -> None:
    (job,) = msgspec.yaml.decode((FOLDER / "prometheus.yml").read_bytes())["scrape_configs"]

    assert job.get("metrics_path", "/metrics") == "/metrics"
    assert job["static_configs"] == [{"targets": ["localhost:3000"]}]
