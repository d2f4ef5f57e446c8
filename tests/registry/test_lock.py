from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.errors import Exit, YardError
from pipelines.registry import AXES, Lock, LockedVersion
from pipelines.registry.lock import parse_lock

DIGEST = "sha256:" + "a" * 64


def lock(**changes):
    fields = {
        "service": "digits",
        "repo": "team/digits",
        "branch": "main",
        "sha": "b" * 40,
        "attempt": 1,
        "image": f"registry/digits@{DIGEST}",
        "versions": {axis: LockedVersion(name="digits", number=7, digest=DIGEST) for axis in AXES},
        "platform": {"version": "1", "templates": DIGEST, "image": "p", "architecture": "x86_64"},
        "seed": 1,
        "params": {"c": 1e-05, "n": 10, "name": "ü"},
        "params_digest": DIGEST,
        "metrics": {"accuracy": 0.1 + 0.2},
        "thresholds": {"metrics": {"accuracy": {"min": 1.0}}},
        "decision": {"accepted": True},
        "workflows": {"ct": {"name": "ct-1", "uid": "u"}},
    }
    return Lock(**{**fields, **changes})


def test_a_lock_comes_back_and_is_the_same_blob_each_time(registry):
    digest = registry.put_lock(lock())
    assert registry.put_lock(lock()) == digest
    assert registry.get_lock(digest) == lock()
    assert registry.put_lock(registry.get_lock(digest)) == digest
    assert registry.put_lock(lock(seed=2)) != digest


def test_the_order_of_keys_does_not_matter():
    backwards = dict(reversed(lock().params.items()))
    assert lock(params=backwards).canonical() == lock().canonical()
    assert b": " not in lock().canonical()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_parameters_come_back_as_they_are(params):
    try:
        data = lock(params=params).canonical()
    except YardError:  # lone surrogates are no text
        return
    again = parse_lock(data, DIGEST)
    assert again.canonical() == data
    assert json.dumps(again.params, sort_keys=True) == json.dumps(params, sort_keys=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(YardError, match="cannot be written as JSON") as caught:
        lock(metrics={"accuracy": value}).canonical()
    assert caught.value.code == Exit.INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"sha": "main"},
        {"attempt": 0},
        {"versions": {}},
        {"params_digest": "x"},
        {"extra": 1},
        {"platform": {"version": "1"}},
    ],
    ids=str,
)
def test_a_lock_that_is_incomplete_is_refused(changes):
    with pytest.raises(ValidationError):
        lock(**changes)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"service": 1}'])
def test_a_blob_that_is_no_lock(registry, data):
    digest = registry.put_blob(data)
    with pytest.raises(YardError, match="is not a lock") as caught:
        registry.get_lock(digest)
    assert caught.value.code == Exit.CONFLICT
