"""Writes deploy/grafana/dashboards/rhocache.json, by Grafana's own model of a dashboard."""

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

FILE = Path(__file__).parent / "dashboards" / "rhocache.json"
_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")

# Title, unit, and legend -> query. Counters are summed, as each replica has its own.
_STATS = (
    ("Pairs a second", "short", "sum(rate(rhocache_pairs_total[$__rate_interval]))", ()),
    ("Jobs running", "short",
     'max(rhocache_jobs{status="in_progress"}) + max(rhocache_jobs{status="finalizing"})', ()),
    ("Jobs waiting", "short", "max(rhocache_queue_depth)", ()),
    ("Oldest waiting", "s",
     "time() - max(rhocache_oldest_waiting_timestamp_seconds > 0)", (3600,)),
    ("Since last progress", "s",
     "time() - max(rhocache_last_progress_timestamp_seconds > 0)", (300, 900)),
    ("Replicas up", "short", 'sum(up{job="rhocache"})', ()),
)  # fmt: skip
_GRAPHS = (
    ("Throughput, pairs a second", "short", {
        "{{outcome}}": "sum by (outcome) (rate(rhocache_pairs_total[$__rate_interval]))",
        "encoded in vain": "sum(rate(rhocache_pairs_lost_total[$__rate_interval]))",
        "as its drivers say": "max(rhocache_running_pairs_per_second)",
    }),
    ("Stages: part of the encoders' time that each is busy", "percentunit", {
        "{{stage}}":
            "sum by (stage) (rate(rhocache_stage_busy_seconds_total[$__rate_interval])) "
            "/ on () group_left () sum(rate(rhocache_encoder_seconds_total[$__rate_interval]))",
    }),
    ("Jobs by status", "short", {
        "{{status}}":
            'max by (status) (rhocache_jobs{status!~"completed|cancelled|expired|failed"})',
    }),
    ("Jobs ended within an hour", "short", {
        "{{status}} {{code}}":
            "sum by (status, code) (increase(rhocache_jobs_ended_total[1h])) > 0",
    }),
    ("Pairs that fail, by code, within an hour", "short", {
        "{{code}}": "sum by (code) (increase(rhocache_pair_failures_total[1h])) > 0",
    }),
    ("Shards within an hour", "short", {
        "committed": 'sum(increase(rhocache_shards_total{outcome="committed"}[1h]))',
        "failed: {{code}}": "sum by (code) (increase(rhocache_shard_failures_total[1h])) > 0",
    }),
    ("Answers: the 95th percentile, by route", "s", {
        "{{route}}":
            "histogram_quantile(0.95, sum by (le, route) "
            "(rate(rhocache_http_request_duration_seconds_bucket[$__rate_interval])))",
    }),
    ("Answers a second, by status", "reqps", {
        "{{status}}":
            "sum by (status) "
            "(rate(rhocache_http_request_duration_seconds_count[$__rate_interval]))",
    }),
    ("Ray: cores in use, by node", "percent", {
        "{{instance}}": "avg by (instance) (ray_node_cpu_utilization)",
    }),
    ("Ray: GPUs in use, by node", "percent", {
        "{{instance}}": "avg by (instance) (ray_node_gpus_utilization)",
    }),
)  # fmt: skip


def _query(expression: str, legend: str = "", letter: str = "A") -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter)
    return query.datasource(_SOURCE)


def _stat(title: str, unit: str, query: str, limits: tuple[int, ...]) -> stat.Panel:
    colors = ("orange", "red")
    steps = [Threshold(value=None, color="green")]
    steps += [Threshold(value=limit, color=colors[i]) for i, limit in enumerate(limits)]
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().title(title).unit(unit).datasource(_SOURCE).height(4).span(4)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.thresholds(thresholds).no_value("–").with_target(_query(query))


def _graph(title: str, unit: str, queries: dict[str, str]) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).unit(unit).datasource(_SOURCE).height(8).span(12)
    for letter, (legend, query) in zip("AB", queries.items(), strict=False):
        panel = panel.with_target(_query(query, legend, letter))
    legends = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)
    return panel.min(0).legend(legends.placement(LegendPlacement.BOTTOM))


def made() -> str:
    """Return the dashboard as Grafana's provisioning reads it."""
    board = dashboard.Dashboard("rhocache").uid("rhocache").tags(["rhocache"])
    board = board.time("now-3h", "now").refresh("30s").readonly()
    for each in _STATS:
        board = board.with_panel(_stat(*each))
    for title, unit, queries in _GRAPHS:
        board = board.with_panel(_graph(title, unit, queries))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(made())
    sys.stdout.write(f"wrote {FILE}\n")
