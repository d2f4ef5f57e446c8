"""What an EventSource takes, what it refuses, and with which status."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo.events import RefusedError, history
from solo.events.sources import canonical, github_body

PUSH, MISSED = "http://solo:12000/push", "http://solo:12001/missed"
BEARER = {"Authorization": "Bearer stage-token"}


def test_a_signed_push_is_committed_to_the_bus_before_the_answer(world):
    assert world.push(delivery="abc") == 200
    entry = world.last()
    assert (entry["state"], entry["delivery"], entry["repository"]) == ("waiting", "abc", "acme/digits")
    assert entry["sha"] == "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"X-Hub-Signature-256": "sha256=" + "0" * 64}, "payload signature check failed"),
        ({"X-Hub-Signature-256": ""}, "missing signature"),
        ({"X-Hub-Signature-256": "md5=00"}, "unknown hash type"),
        ({"X-Hub-Signature-256": "sha256=ü"}, "payload signature check failed"),
        ({"Content-Type": "text/plain"}, "unsupported Content-Type"),
    ],
)
def test_a_push_that_github_did_not_sign_is_refused_and_recorded(world, headers, why):
    status = world.request(
        PUSH, b"{}", {k: v.encode() for k, v in {"Content-Type": "application/json", **headers}.items()}
    )
    assert status == 400
    assert world.last()["state"] == "refused"
    assert why in world.last()["refused"]


def test_a_wrong_secret_is_refused(world):
    assert world.push(secret="guess") == 400


def test_the_old_sha1_signature_counts_too(world):
    digest = hmac.new(b"hook-secret", b"{}", hashlib.sha1).hexdigest()
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Hub-Signature": f"sha1={digest}"}
    assert world.request(PUSH, b"{}", headers) == 200


@pytest.mark.parametrize(
    "body", [b"", b"broken", b'["list"]', b'"text"', b"null", b"7", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000]
)
def test_a_signed_body_that_is_no_json_object_is_refused(world, body):
    assert world.push(body) == 400


def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_not(world):
    frame = len(b'{"a":""}')
    assert world.push(b'{"a":"' + b"x" * ((1 << 20) - frame) + b'"}') == 200
    assert world.push(b'{"a":"' + b"x" * ((1 << 20) - frame + 1) + b'"}') == 400
    assert "too large" in world.last()["refused"]


def test_the_github_source_filters_no_repository_and_no_event(world):
    assert world.push({"repository": {"full_name": "somebody/else"}}) == 200
    assert world.push({}, **{"X-GitHub-Event": "issues"}) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (BEARER, 200),
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "stage-token"}, 401),
        ({"Authorization": "bearer stage-token"}, 401),
        ({"Authorization": "Bearer  stage-token"}, 401),
    ],
)
def test_the_webhook_wants_its_token_letter_by_letter(world, headers, status):
    assert world.request(MISSED, b"{}", headers) == status


def test_the_token_is_not_in_the_event():
    assert canonical([("authorization", "Bearer x")]) == {"Authorization": ["*** Masked Auth Secret ***"]}


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("PUT", MISSED, 400),
        ("GET", MISSED, 400),
        ("POST", "http://solo:12001/missed/", 404),
        ("POST", "http://solo:12001/other", 404),
        ("POST", "http://solo:12001//missed", 301),
        ("GET", "http://solo:12001/health", 200),
        ("POST", "http://solo:12001/push", 404),
    ],
)
def test_method_and_path_must_be_those_of_the_event(world, method, url, status):
    assert world.request(url, b"{}", BEARER, method) == status


def test_the_webhook_takes_any_json_and_nothing_else(world):
    wanted = [(b'{"a": 1}', 200), (b"[1]", 200), (b"null", 200), (b"", 400), (b"a=b", 400), (b"x" * 4097, 400)]
    assert [world.request(MISSED, body, BEARER) for body, _ in wanted] == [status for _, status in wanted]


def test_without_its_secret_a_source_lets_nobody_in(world):
    world.store.delete("Secret", "argo-events", "github-webhook")
    world.store.delete("Secret", "argo-events", "stages-token")
    assert world.push(secret="") == 500
    assert world.request(MISSED, b"{}", {"Authorization": "Bearer "}) == 500


def test_a_changed_event_source_counts_at_once(world):
    source = world.store.get("EventSource", "argo-events", "stages")
    source["spec"]["webhook"]["push"]["endpoint"] = "/elsewhere"
    world.store.update(source)
    assert world.request("http://solo:12001/elsewhere", b"{}", BEARER) == 200


def test_refused_requests_are_kept_up_to_a_bound(world):
    for _ in range(103):
        world.bus.refuse("argo-events", "github", "push", "no", None)
    assert len(history(world.store, limit=1000)) == 100


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), st.text(min_size=1), st.text(min_size=1))
def test_only_the_holder_of_the_secret_can_sign(payload, secret, guess):
    body = json.dumps(payload).encode()
    signature = "sha256=" + hmac.new(guess.encode("utf-8", "replace"), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": ["application/json"], "X-Hub-Signature-256": [signature]}
    if guess.encode("utf-8", "replace") == secret.encode("utf-8", "replace"):
        assert github_body(headers, body, guess).keys() >= payload.keys() - {"X-GitHub-Event", "X-GitHub-Delivery"}
    else:
        with pytest.raises(RefusedError):
            github_body(headers, body, secret)
