"""Run records: `runs/<UTC>-<id>/`, the evidence of a run. The manifest comes last; without it there is no record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines.errors import Exit, YardError
from pipelines.registry.bucket import ExistsError
from pipelines.registry.claims import Claims
from pipelines.registry.names import check, check_file

MANIFEST = "manifest.json"


class Runs(Claims):
    """Evidence by run."""

    def write_run(self, id: str, files: Mapping[str, bytes], manifest: Mapping[str, Any], when: datetime) -> str:
        """Write a run's record, once for each `id`, and return its name, "<UTC>-<id>".

        A retry goes on in the place that the first try took (a claim holds it), and leaves a complete record as it is.
        """
        name = f"{when.astimezone(UTC):%Y%m%dT%H%M%SZ}-{check('run', id)}"
        key = f"runs/{id}"
        if not self.claim(key, name):
            name = self.claimed(key) or name
        if self.bucket.find(_path(name, MANIFEST)) is not None:
            return name
        for file, data in files.items():
            self.bucket.overwrite(_path(name, check_file(file)), data)
        digests = {file: "sha256:" + hashlib.sha256(data).hexdigest() for file, data in files.items()}
        document = json.dumps({**manifest, "id": id, "files": digests}, sort_keys=True, separators=(",", ":"))
        try:
            self.bucket.create(_path(name, MANIFEST), document.encode())
        except ExistsError:
            if self.bucket.read(_path(name, MANIFEST))[0] != document.encode():
                where = f"{self.bucket}/{_path(name, MANIFEST)}"
                raise YardError("written by another run of this id", where=where, code=Exit.CONFLICT) from None
        return name

    def runs(self) -> list[str]:
        """The names of all complete records, oldest first."""
        entries = self.bucket.entries("runs/")
        return [entry.name.split("/")[1] for entry in entries if entry.name.endswith(f"/{MANIFEST}")]

    def get_run(self, name: str) -> dict[str, Any]:
        """A record's manifest; "files" in it has the digest of each file. Raises YardError(NOT_FOUND)."""
        where = _path(check("run", name), MANIFEST)
        found = self.bucket.find(where)
        if found is None:
            raise YardError(f"no run {name}", where=str(self.bucket), code=Exit.NOT_FOUND)
        try:
            document: dict[str, Any] = json.loads(found[0])
            document["files"].items()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise YardError("not a run's manifest", where=f"{self.bucket}/{where}", code=Exit.CONFLICT) from None
        return document

    def run_file(self, name: str, file: str) -> bytes:
        """One file of a complete record, verified. Raises YardError: NOT_FOUND, CONFLICT."""
        digest = self.get_run(name)["files"].get(file)
        if digest is None:
            raise YardError(f"run {name} has no file {file!r}", where=str(self.bucket), code=Exit.NOT_FOUND)
        data = self.bucket.read(_path(name, file))[0]
        if digest != "sha256:" + hashlib.sha256(data).hexdigest():
            raise YardError("corrupt", where=f"{self.bucket}/{_path(name, file)}", code=Exit.CONFLICT)
        return data


def _path(name: str, file: str) -> str:
    return f"runs/{name}/{file}"
