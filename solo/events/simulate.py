"""Which Sensor would fire for a saved payload, why or why not, and with which Workflow. Starts nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from solo.events.sensors import Verdict, verdicts
from solo.events.sources import canonical, github_body, hooks, make_event, webhook_body
from solo.store import Object


def simulate(
    event_sources: Iterable[Object],
    sensors: Iterable[Object],
    source: str,
    event_name: str,
    headers: Mapping[str, str],
    body: bytes | str | dict[str, Any],
) -> list[Verdict]:
    """The verdicts that the live bus would come to; empty if no Sensor waits for this event.

    Tokens and signatures are not asked for. Raises ValueError if there is no such EventSource or event, and
    RefusedError for a body that the EventSource would not take.
    """
    known = list(hooks(event_sources))
    hook = next((h for h in known if (h.source, h.name) == (source, event_name)), None)
    if hook is None:
        have = ", ".join(sorted(f"{h.source}/{h.name}" for h in known)) or "none"
        raise ValueError(f"no EventSource has an event '{source}/{event_name}' (there are: {have})")
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    seen = canonical({"Content-Type": "application/json", **headers}.items())
    event = make_event(hook, seen, github_body(seen, raw, None) if hook.kind == "github" else webhook_body(seen, raw))
    return [verdict for sensor in sensors for verdict in verdicts(sensor, event)]
