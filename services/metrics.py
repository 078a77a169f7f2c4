"""What the service tells Prometheus; BentoML's `/metrics` shows it and adds it up over workers."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("okruh_requests_total", "Answered requests.", ["path", "status"])
SECONDS = Histogram(
    "okruh_request_seconds",
    "Time from a request's first byte to its answer's last.",
    ["path"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
ROWS = Counter("okruh_predictions_total", "Answered rows.", ["version"])
LABELS = Counter("okruh_labels_total", "Labels received, by what became of them.", ["outcome"])
CHAMPION = Gauge(
    "okruh_champion_workers", "Workers that serve this version.", ["model", "version"], multiprocess_mode="livesum"
)
SWAPS = Counter("okruh_champion_swaps_total", "Champions taken over from the lake's rollout.")
REFUSALS = Counter("okruh_champion_refusals_total", "Champions of the rollout that could not be taken over.")
LAKE_REACHABLE = Gauge(
    "okruh_lake_reachable", "1 when every worker's last look at the lake succeeded.", multiprocess_mode="livemin"
)
LOST = Counter("okruh_unrecorded_predictions_total", "Rows that were answered and could not be recorded.")
OVERLOADS = Counter("okruh_overloads_total", "Requests refused because too many rows waited.")
JOURNAL_FAILURES = Counter("okruh_journal_failures_total", "Requests refused because the journal could not write.")
