from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.errors import Exit, YardError
from pipelines.registry import AXES, Alias, open_registry


def digest(number):
    return f"sha256:{number:064x}"


def test_versions_are_numbered_from_one_on_each_line_of_its_own(registry, storage_server, bucket):
    assert registry.add_version("model", "digits", digest(1), {"metrics": {"accuracy": 0.5}}).number == 1
    assert registry.add_version("model", "digits", digest(2), {}).number == 2
    assert registry.add_version("model", "other", digest(2), {}).number == 1
    assert registry.add_version("data", "digits", digest(2), {}).number == 1
    assert [str(version) for version in registry.versions("model", "digits")] == ["model/digits/v1", "model/digits/v2"]
    assert registry.get_version("model", "digits", 1).info == {"metrics": {"accuracy": 0.5}}
    assert registry.latest("model", "digits").digest == digest(2)
    assert registry.names("model") == ["digits", "other"]
    assert storage_server.storage.get(bucket, "model/digits/versions/000002.json")


def test_the_same_content_is_the_same_version(registry):
    first = registry.add_version("data", "d", digest(1), {"note": "first"})
    registry.add_version("data", "d", digest(2), {})
    assert registry.add_version("data", "d", digest(1), {"note": "again"}) == first


def test_nothing_is_there_yet(registry):
    assert registry.latest("app", "none") is None
    assert registry.versions("app", "none") == []
    assert registry.names("app") == []
    with pytest.raises(YardError, match="no version app/none/v1") as caught:
        registry.get_version("app", "none", 1)
    assert caught.value.code == Exit.NOT_FOUND


def test_an_axis_has_only_versions_among_its_names(registry):
    registry.set_alias("digits", "serving", digest(1), 0)
    assert registry.versions("model", "digits") == []
    assert registry.latest("model", "digits") is None


@pytest.mark.parametrize("kind", ["lost", "after", "before"])
def test_a_version_whose_answer_was_lost_is_made_once(registry, faults, kind):
    fault = faults.order(kind, "POST", "/upload/")
    assert registry.add_version("model", "m", digest(1), {}).number == 1
    assert fault.hits == 1
    assert [version.number for version in registry.versions("model", "m")] == [1]


def test_writers_at_once_leave_no_gap_and_no_twin(storage_server, bucket):
    env = {"STORAGE_URL": storage_server.url, "REGISTRY_BUCKET": bucket}
    contents = [1, 2, 3, 4] * 2

    def add(content):
        return open_registry(env).add_version("model", "m", digest(content), {}).number

    with ThreadPoolExecutor(len(contents)) as pool:
        numbers = list(pool.map(add, contents))
    assert sorted(set(numbers)) == [1, 2, 3, 4]
    assert numbers[:4] == numbers[4:]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "-a", "a-", "a b", "ä", "a\n", "x" * 201], ids=lambda name: repr(name[:5])
)
def test_names_that_are_none(registry, faults, name):
    with pytest.raises(YardError, match="not a name"):
        registry.add_version("model", name, digest(1), {})
    with pytest.raises(YardError, match="not a service"):
        registry.get_alias(name, "serving")
    assert faults.requests == []


def test_an_axis_that_is_none(registry):
    with pytest.raises(YardError, match=f"one of {', '.join(AXES)}"):
        registry.add_version("modell", "m", digest(1), {})


def test_a_foreign_object_among_versions_is_named(registry, storage_server, bucket):
    storage_server.storage.put(bucket, "model/m/versions/latest", b"")
    with pytest.raises(YardError, match="model/m/versions/latest"):
        registry.latest("model", "m")


def test_an_alias_is_changed_by_who_has_seen_it(registry):
    assert registry.get_alias("s", "serving") is None
    one = registry.set_alias("s", "serving", digest(1), 0)
    assert registry.get_alias("s", "serving") == Alias(digest(1), one)
    two = registry.set_alias("s", "serving", digest(2), one)
    assert two > one
    for stale in (0, one):
        with pytest.raises(YardError, match="changed by somebody else") as caught:
            registry.set_alias("s", "serving", digest(3), stale)
        assert caught.value.code == Exit.CONFLICT
    assert registry.get_alias("s", "serving") == Alias(digest(2), two)
    assert registry.get_alias("s", "candidate") is None


@pytest.mark.parametrize("kind", ["lost", "after"])
def test_an_alias_whose_answer_was_lost_is_changed_once(registry, faults, kind):
    one = registry.set_alias("s", "serving", digest(1), 0)
    fault = faults.order(kind, "POST", "/upload/")
    two = registry.set_alias("s", "serving", digest(2), one)
    assert fault.hits == 1
    assert registry.get_alias("s", "serving") == Alias(digest(2), two)


def test_setting_the_same_lock_twice_from_one_generation_is_a_conflict(registry):
    """Equal content is no proof of having written it: only the writer's own mark is."""
    registry.set_alias("s", "serving", digest(1), 0)
    with pytest.raises(YardError, match="changed by somebody else"):
        registry.set_alias("s", "serving", digest(1), 0)


def test_moving_an_alias(registry, faults):
    first = registry.move_alias("s", "serving", digest(1))
    assert registry.move_alias("s", "serving", digest(1)) == first
    assert registry.move_alias("s", "serving", digest(2)).generation > first.generation
    assert registry.get_alias("s", "serving").lock == digest(2)


def test_an_unreadable_alias_is_not_taken_for_none(registry, storage_server, bucket):
    storage_server.storage.put(bucket, "model/s/aliases/serving.json", b"{}")
    with pytest.raises(YardError, match="not an alias"):
        registry.get_alias("s", "serving")
