"""The kinds of panels that the dashboards are made of.

An expression may use `$filter`, which stands for the labels that select this product's series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

JOB = "goblin-assistant"
FILTER = f'job="{JOB}",instance=~"$instance"'
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Kind = Literal["graph", "number", "timeline", "table"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are pairs of expression and legend.

    `unit` is one of Grafana's (https://github.com/grafana/grafana/blob/main/packages/
    grafana-data/src/valueFormats/categories.ts). `red_from` colours values from there on.
    `width` is of 24 columns.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: Kind = "graph"
    width: int = 8
    height: int = 8
    red_from: float | None = None

    def build(self) -> Any:
        """The panel's builder."""
        makers: dict[Kind, Any] = {
            "graph": timeseries.Panel,
            "number": stat.Panel,
            "timeline": statetimeline.Panel,
            "table": tables.Panel,
        }
        made = makers[self.kind]()
        made.title(self.title).description(self.description).unit(self.unit).datasource(SOURCE)
        made.span(self.width).height(self.height).no_value("no data")
        for position, (expression, legend) in enumerate(self.queries):
            made.with_target(self._query(expression, legend, "ABCDEFGH"[position]))
        steps = [Threshold(value=None, color="green")]  # type: ignore[arg-type]
        if self.red_from is not None:
            steps.append(Threshold(value=self.red_from, color="red"))
        made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        if self.kind == "graph":
            made.min(0).fill_opacity(10).legend(_legend())
        return made

    def _query(self, expression: str, legend: str, name: str) -> prometheus.Dataquery:
        made = prometheus.Dataquery().expr(expression.replace("$filter", FILTER)).ref_id(name)
        made.legend_format(legend).datasource(SOURCE)
        if self.kind == "table":
            return made.instant().format(PromQueryFormat.TABLE)
        return made.instant() if self.kind == "number" else made.range()


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: rows of panels under titles. `uid` is also its file's name."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    since: str = "now-6h"

    def panels(self) -> list[Panel]:
        """Every panel, in order."""
        return [panel for _, panels in self.rows for panel in panels]

    def build(self) -> dashboard.Dashboard:
        """The dashboard's builder."""
        made = dashboard.Dashboard(f"Goblin Assistant: {self.title}").uid(self.uid)
        made.description(self.description).tags(["goblin-assistant"]).readonly()
        made.time(self.since, "now").refresh("30s").timezone("browser")
        made.tooltip(DashboardCursorSync.CROSSHAIR)
        made.with_variable(_data_source()).with_variable(_instances())
        for title, panels in self.rows:
            made.with_row(dashboard.Row(title))
            for panel in panels:
                made.with_panel(panel.build())
        return made


def _legend() -> common.VizLegendOptions:
    made = common.VizLegendOptions().show_legend(True)
    return made.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)


def _data_source() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _instances() -> dashboard.QueryVariable:
    made = dashboard.QueryVariable("instance").label("Instance").datasource(SOURCE)
    made.query(f'label_values(up{{job="{JOB}"}}, instance)')
    made.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True)
    return made.all_value(".*").current(VariableOption(text=["All"], value=["$__all"]))


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """The rate of a counter, summed."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{$filter{labels}}}[$__rate_interval]))"


def quantile(share: float, metric: str, labels: str = "", by: str = "") -> str:
    """A quantile of a histogram."""
    grouped = ", ".join(part for part in ("le", by) if part)
    return (
        f"histogram_quantile({share:g}, "
        f"sum by ({grouped}) (rate({metric}_bucket{{$filter{labels}}}[$__rate_interval])))"
    )


def total(metric: str, by: str = "") -> str:
    """A gauge, summed over instances."""
    return f"sum{f' by ({by})' if by else ''} ({metric}{{$filter}})"
