"""The store: one transaction or none, and watchers that miss nothing."""

from __future__ import annotations

import pytest

from solo.store import AlreadyExistsError, ConflictError, NotFoundError, Store


def thing(name, **labels):
    return {"kind": "Thing", "metadata": {"name": name, "namespace": "a", "labels": labels}, "spec": {}}


def test_a_failed_transaction_leaves_nothing_and_tells_nobody():
    store = Store()
    heard = store.subscribe("Thing")

    def work():
        with store.transaction():
            store.create(thing("one"))
            store.create(thing("one"))

    with pytest.raises(AlreadyExistsError):
        work()
    assert store.list("Thing") == []
    assert heard.empty()


def test_an_inner_transaction_commits_with_the_outer_one():
    store = Store()
    heard = store.subscribe("Thing")
    with store.transaction():
        store.create(thing("one"))
        with store.transaction():
            store.create(thing("two"))
        assert heard.empty()
    assert [heard.get_nowait().object["metadata"]["name"] for _ in range(2)] == ["one", "two"]


def test_a_stale_update_is_refused():
    store = Store()
    old = store.create(thing("one"))
    stale = store.get("Thing", "a", "one")
    store.update(old)
    with pytest.raises(ConflictError):
        store.update(stale, check=True)


def test_apply_keeps_identity_and_status_and_is_silent_when_nothing_changed():
    store = Store()
    first = store.create({**thing("one"), "status": {"phase": "Running"}})
    heard = store.subscribe("Thing")
    store.apply(thing("one"))
    assert heard.empty()
    changed = store.apply({**thing("one"), "spec": {"x": 1}})
    assert changed["metadata"]["uid"] == first["metadata"]["uid"]
    assert changed["status"] == {"phase": "Running"}
    assert heard.get_nowait().type == "MODIFIED"


def test_labels_select_and_follow_changes(tmp_path):
    store = Store(tmp_path / "s.db")
    store.create(thing("one", color="red", size="1"))
    store.create(thing("two", color="red", size="2"))
    assert [o["metadata"]["name"] for o in store.list("Thing", labels={"color": "red", "size": "2"})] == ["two"]
    store.update(thing("two", color="blue"))
    assert [o["metadata"]["name"] for o in store.list("Thing", labels={"color": "red"})] == ["one"]
    store.delete("Thing", "a", "one")
    with pytest.raises(NotFoundError):
        store.delete("Thing", "a", "one")
    store.close()
    again = Store(tmp_path / "s.db")
    assert [o["metadata"]["name"] for o in again.list("Thing")] == ["two"]
    again.close()
