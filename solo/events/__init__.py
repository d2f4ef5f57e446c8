"""Argo Events on one machine: EventSources, the bus and Sensors, for the fields in `check.SUPPORT`."""

from solo.events.bus import Bus, history
from solo.events.check import Problem, check, support_rows
from solo.events.event import Event
from solo.events.sensors import Verdict, verdicts
from solo.events.simulate import simulate
from solo.events.sources import RefusedError, Target, app, apps, ports, targets

__all__ = [
    "Bus",
    "Event",
    "Problem",
    "RefusedError",
    "Target",
    "Verdict",
    "app",
    "apps",
    "check",
    "history",
    "ports",
    "simulate",
    "support_rows",
    "targets",
    "verdicts",
]
