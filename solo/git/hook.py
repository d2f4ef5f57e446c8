"""The post-receive hook: writes what GitHub would send for each ref into the outbox, then shows the progress.

It runs as `python -I -S` in the repository's directory, so it uses the standard library only and starts in
milliseconds. The refs are set already when it begins; nothing it does can fail the push. Signals of a Ctrl-C are
ignored until the deliveries are written.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

CONFIG = "hook.json"
POKE = "outbox.poke"  # a FIFO: solo reads it, so opening it tells whether solo is there
MOST_COMMITS, MOST_FILES, MOST_BYTES = 20, 300, 500_000
_NOBODY = {"author": {"name": "unknown", "email": ""}}


def main() -> None:
    directory = Path.cwd()
    home = directory.parents[2]
    config = json.loads((directory / CONFIG).read_text())
    written = []
    for line in sys.stdin.read().splitlines():
        before, after, ref = line.split(" ", 2)
        if ref.startswith(("refs/heads/", "refs/tags/")):
            delivery = str(uuid.uuid4())
            try:
                payload = push_payload(config, ref, before, after)
                _write(home / "outbox", {"delivery": delivery, "event": "push", "payload": payload})
            except OSError as error:
                print(f"solo: the push is kept, but its delivery could not be written: {error}")
                print("solo: `reconcile` will find it")
                continue
            values = {"repo": config["repository"], "ref": ref, "before": before, "after": after, "delivery": delivery}
            written.append((payload, values))
    if not written:
        return
    if not _poke(home / POKE):
        print("solo: not running; the push is kept")
        print("solo: `yard solo up` picks it up")
        return
    _show(config["progress"], [values for payload, values in written if _built(payload)])


def push_payload(config: dict[str, Any], ref: str, before: str, after: str) -> dict[str, Any]:
    """The body of GitHub's push event, with at most MOST_COMMITS commits."""
    full_name: str = config["repository"]
    owner, name = full_name.split("/")
    created, deleted = not before.strip("0"), not after.strip("0")
    branch = ref.startswith("refs/heads/")
    head = "" if deleted else _git("rev-parse", "--quiet", "--verify", f"{after}^{{commit}}").strip()
    commits = _commits(_range(ref, before, after)) if branch and head else []
    tip = _commit(head) if head else None
    author = (tip or _commit(before) or _NOBODY)["author"]
    pusher = {"name": os.environ.get("GIT_PUSHER") or author["name"], "email": author["email"]}
    payload = {
        "ref": ref,
        "before": before,
        "after": after,
        "created": created,
        "deleted": deleted,
        "forced": not (created or deleted) and not _is_ancestor(before, after),
        "base_ref": None,
        "compare": f"{config['url']}/compare/{before[:12]}...{after[:12]}",
        "repository": {
            "name": name,
            "full_name": full_name,
            "private": False,
            "owner": {"name": owner, "login": owner},
            "html_url": config["url"],
            "clone_url": config["url"],
            "default_branch": _git("symbolic-ref", "--short", "HEAD").strip(),
        },
        "pusher": pusher,
        "sender": {"login": pusher["name"]},
        "commits": commits,
        "head_commit": tip,
    }
    if len(json.dumps(payload)) > MOST_BYTES:  # an EventSource takes 1 MiB; the commits are only there to be read
        payload["commits"] = []
        if tip:
            payload["head_commit"] = {
                **tip,
                "message": tip["message"][:1000],
                "added": [],
                "removed": [],
                "modified": [],
            }
    return payload


def _commit(sha: str) -> dict[str, Any] | None:
    return next(iter(_commits(["-1", sha])), None)


def _range(ref: str, before: str, after: str) -> list[str]:
    if before.strip("0"):
        return [f"-{MOST_COMMITS}", after, f"^{before}"]
    return [f"-{MOST_COMMITS}", after, "--not", f"--exclude={ref.removeprefix('refs/heads/')}", "--branches"]


def _commits(which: list[str]) -> list[dict[str, Any]]:
    """Commits, the oldest first, with the files they touch."""
    form = "%H%x00%T%x00%an%x00%ae%x00%cn%x00%ce%x00%cI%x00%B"
    fields = _git("log", "-z", "--reverse", f"--format={form}", *which, "--").split("\0")
    found = {}
    for i in range(0, len(fields) - 7, 8):
        sha, tree, author, author_email, committer, committer_email, moment, message = fields[i : i + 8]
        found[sha] = {
            "id": sha,
            "tree_id": tree,
            "distinct": True,
            "message": message.rstrip("\n"),
            "timestamp": moment,
            "author": {"name": author, "email": author_email},
            "committer": {"name": committer, "email": committer_email},
            "added": [],
            "removed": [],
            "modified": [],
        }
    _add_files(found)
    return list(found.values())


def _add_files(commits: dict[str, Any]) -> None:
    options = ("--stdin", "-r", "-z", "--root", "--no-renames", "--name-status")
    words = iter(_git("diff-tree", *options, given="".join(f"{sha}\n" for sha in commits)).split("\0"))
    lists = {"A": "added", "D": "removed"}
    commit: dict[str, Any] = {}
    for word in words:
        if word in commits:
            commit = commits[word]
        elif word:
            files = commit[lists.get(word, "modified")]
            path = next(words)
            if len(files) < MOST_FILES:
                files.append(path)


def _is_ancestor(before: str, after: str) -> bool:
    command = ["git", "merge-base", "--is-ancestor", before, after]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def _git(*args: str, given: str = "") -> str:
    done = subprocess.run(["git", *args], input=given.encode(), capture_output=True)
    return done.stdout.decode(errors="replace")


def _write(outbox: Path, delivery: dict[str, Any]) -> None:
    """All or nothing; names sort by time."""
    outbox.mkdir(exist_ok=True)
    name = f"{time.time_ns():020d}-{delivery['delivery']}.json"
    new = outbox / f".{name}"
    new.write_text(json.dumps(delivery))
    new.rename(outbox / name)


def _poke(fifo: Path) -> bool:
    try:
        end = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    with contextlib.suppress(BlockingIOError):  # full: solo has been poked often enough
        os.write(end, b".")
    os.close(end)
    return True


def _built(payload: dict[str, Any]) -> bool:
    return payload["ref"].startswith("refs/heads/") and not payload["deleted"]


def _show(progress: list[str], pushes: list[dict[str, str]]) -> None:
    """Become the progress command for a branch: git passes its lines on as `remote: …`."""
    if not progress or not pushes:
        return
    for name in ("INT", "TERM", "HUP"):
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
    command = progress
    for key, value in pushes[0].items():
        command = [word.replace("{" + key + "}", value) for word in command]
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, env)  # noqa: S606 - to become it, so that a Ctrl-C goes there
    except OSError as error:
        print(f"solo: the push is delivered; its progress cannot be shown: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # the refs are set: nothing may look like a push that failed
        with contextlib.suppress(OSError):
            print(f"solo: the push is kept, but its delivery failed: {error!r}; `reconcile` will find it")
