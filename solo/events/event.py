"""An event on the bus: CloudEvents context and the data that filters and parameters read."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from solo.events.jsontext import text
from solo.events.paths import ABSENT, get
from solo.store import now


@dataclass(frozen=True)
class Event:
    """`source` and `subject` are the names of the EventSource and of the event in it, as on the real bus."""

    namespace: str
    source: str
    subject: str
    type: str
    data: Any
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: str = field(default_factory=now)

    def context(self) -> dict[str, str]:
        return {
            "id": self.id,
            "source": self.source,
            "specversion": "1.0",
            "type": self.type,
            "datacontenttype": "application/json",
            "subject": self.subject,
            "time": self.time,
        }

    def facts(self) -> dict[str, str]:
        """What people look events up by: delivery, repository, commit. Empty where the sender gave none."""
        return {
            "delivery": self._first("body.X-GitHub-Delivery", "headers.X-Github-Delivery.0", "body.delivery"),
            "repository": self._first("body.repository.full_name", "body.repo"),
            "ref": self._first("body.ref", "body.branch"),
            "sha": self._first("body.after", "body.sha"),
        }

    def _first(self, *paths: str) -> str:
        found = (get(self.data, path) for path in paths)
        return next((text(value)[:300] for value in found if value not in (ABSENT, None, "")), "")
