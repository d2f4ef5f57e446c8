"""What is said of an add-on: `ADDON` in the module of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pipelines.platform import Platform
from pipelines.templates._parts import Images

Manifest = dict[str, Any]


class Pins(NamedTuple):
    """The sections of versions.yaml: name → image, name → version."""

    images: dict[str, str]
    components: dict[str, str]
    charts: dict[str, str]

    @classmethod
    def of(cls, versions: dict[str, dict[str, Any]]) -> Pins:
        return cls(*({str(k): str(v) for k, v in versions.get(part, {}).items()} for part in cls._fields))


class Chart(NamedTuple):
    """A Helm chart; its version is in versions.yaml, its values in `applications/<add-on>/values.yaml`."""

    name: str
    repository: str
    release: str


class Secret(NamedTuple):
    """A Secret that a controller makes by itself. All others are in pipelines/secret_values.py."""

    namespace: str
    name: str
    keys: tuple[str, ...]
    what: str
    maker: str


class Addon(NamedTuple):
    """`wave`: where it is among the core's waves: −1 before (the core uses it), 1 after (it uses the core). `needs`:
    the add-ons that must be on. `namespaces`: those that it makes. `destination`: what its Application says for objects
    that name none. `unchecked`: what no check of `make lint` sees.
    """

    name: str
    files: Callable[[Platform, Images, Pins], dict[str, list[Manifest]]]
    destination: str
    namespaces: tuple[str, ...]
    wave: int = 0
    needs: tuple[str, ...] = ()
    chart: Chart | None = None
    secrets: tuple[Secret, ...] = ()
    unchecked: str = ""

    def sources(self, platform: Platform, pins: Pins) -> list[Manifest]:
        """`spec.sources` of its Application: the folder here, and the chart with the values from that folder."""
        here: Manifest = {
            "repoURL": f"{platform.endpoints.GIT_URL}/{platform.repository}.git",
            "targetRevision": platform.branch,
            "path": f"applications/{self.name}",
        }
        if self.chart is None:
            return [here]
        return [
            {**here, "ref": "values"},
            {
                "repoURL": platform.mirror.charts or self.chart.repository,
                "chart": self.chart.name,
                "targetRevision": pins.charts[self.chart.name],
                "helm": {
                    "releaseName": self.chart.release,
                    "valueFiles": [f"$values/applications/{self.name}/values.yaml"],
                },
            },
        ]
