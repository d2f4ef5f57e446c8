"""The registry against a model of it, while answers get lost, the store stumbles, and others write at the same time."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipelines.errors import Exit, YardError
from pipelines.registry import Alias, open_registry

CONTENT = st.binary(max_size=3)
NAME = st.sampled_from(["m", "n"])
AXIS = st.sampled_from(["data", "model"])
FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["before", "after", "lost"]),
        st.sampled_from(["GET", "POST"]),
        st.integers(min_value=0, max_value=3),
    ),
    max_size=2,
)


class Machine(RuleBasedStateMachine):
    server = None  # set by the test

    @initialize()
    def begin(self):
        self.bucket = f"test-{uuid.uuid4().hex}"
        self.server.storage.create_bucket(self.bucket)
        self.registry = open_registry({"STORAGE_URL": self.server.url, "REGISTRY_BUCKET": self.bucket}, deadline=10)
        self.blobs = {}
        self.versions = {}  # (axis, name) → digests in order
        self.alias = Alias("", 0)
        self.claims = {}

    def teardown(self):
        self.server.faults.clear()

    def together(self, works):
        """Run all at once; their results in order."""
        start = threading.Barrier(len(works))

        def go(work):
            start.wait()
            return work()

        with ThreadPoolExecutor(len(works)) as pool:
            return list(pool.map(go, works))

    @rule(faults=FAULTS)
    def trouble_ahead(self, faults):
        self.server.faults.clear()
        for kind, method, skip in faults:
            self.server.faults.order(kind, method, skip=skip)

    @rule(contents=st.lists(CONTENT, min_size=1, max_size=3))
    def put_blobs(self, contents):
        digests = self.together([lambda data=data: self.registry.put_blob(data) for data in contents])
        self.blobs.update(zip(digests, contents, strict=True))

    @precondition(lambda self: self.blobs)
    @rule(data=st.data())
    def get_blob(self, data):
        digest = data.draw(st.sampled_from(sorted(self.blobs)))
        assert self.registry.get_blob(digest) == self.blobs[digest]

    @rule(axis=AXIS, name=NAME, contents=st.lists(st.integers(0, 5), min_size=1, max_size=4))
    def add_versions(self, axis, name, contents):
        line = self.versions.setdefault((axis, name), [])
        digests = [f"sha256:{content:064x}" for content in contents]
        made = self.together(
            [lambda digest=digest: self.registry.add_version(axis, name, digest, {}) for digest in digests]
        )
        for version, digest in zip(made, digests, strict=True):
            assert version.digest == digest
            if digest in line:
                assert version.number == line.index(digest) + 1
        fresh = {version.number: version.digest for version in made if version.digest not in line}
        assert sorted(fresh) == list(range(len(line) + 1, len(line) + 1 + len(set(digests) - set(line))))
        line.extend(fresh[number] for number in sorted(fresh))

    @rule(locks=st.lists(st.integers(0, 9), min_size=1, max_size=3), stale=st.booleans())
    def swap_alias(self, locks, stale):
        expected = self.alias.generation - 1 if stale and self.alias.generation else self.alias.generation

        def swap(lock):
            digest = f"sha256:{lock:064x}"
            try:
                return Alias(digest, self.registry.set_alias("s", "serving", digest, expected))
            except YardError as error:
                if error.code != Exit.CONFLICT:
                    raise
                return None

        won = [alias for alias in self.together([lambda lock=lock: swap(lock) for lock in locks]) if alias]
        if expected == self.alias.generation:
            assert len(won) == 1
            (self.alias,) = won
        else:
            assert won == []

    @rule(key=st.sampled_from(["a", "b"]), owners=st.lists(st.sampled_from("xyz"), min_size=1, max_size=3))
    def claim(self, key, owners):
        got = self.together([lambda owner=owner: self.registry.claim(key, owner) for owner in owners])
        winner = self.claims.setdefault(key, next((o for o, won in zip(owners, got, strict=True) if won), None))
        assert got == [owner == winner for owner in owners]

    @invariant()
    def the_store_says_the_same(self):
        storage = self.server.storage
        for (axis, name), line in self.versions.items():
            names = [found.name for found in storage.list(self.bucket, prefix=f"{axis}/{name}/versions/").objects]
            assert names == [f"{axis}/{name}/versions/{number:06}.json" for number in range(1, len(line) + 1)]
        blobs = storage.list(self.bucket, prefix="blobs/").objects
        assert {f"sha256:{found.name[-64:]}" for found in blobs} == set(self.blobs)
        assert all(found.sha256 == found.name[-64:] for found in blobs)

    @invariant()
    def the_alias_is_what_it_was_set_to(self):
        self.server.faults.clear()
        assert self.registry.get_alias("s", "serving") == (self.alias if self.alias.generation else None)


@pytest.mark.usefixtures("storage_server")
def test_the_registry_keeps_its_promises(storage_server):
    Machine.server = storage_server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=15,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
