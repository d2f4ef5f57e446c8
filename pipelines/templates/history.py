"""`python -m pipelines.templates.history`: no secret in Git, in no commit that leads to this one, nor about to be.

gitleaks looks; `.gitleaks.toml` says what may look like a secret, and why. What it found is not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines import sops
from pipelines.errors import YardError

ROOT = Path(__file__).parents[2]
CONFIG = ".gitleaks.toml"
# merges as well: what only resolving a conflict brought in is in no other commit
LOG = "--full-history --diff-merges=first-parent --diff-filter=tuxdb HEAD"
LOOKS = ((f"--log-opts={LOG}",), ("--pre-commit",), ("--pre-commit", "--staged"))


class Found(NamedTuple):
    file: str
    line: int
    commit: str  # empty: not committed yet
    rule: str

    def __str__(self) -> str:
        where = f"in commit {self.commit[:12]}" if self.commit else "not committed yet"
        todo = "take it out of use, whoever has cloned has it" if self.commit else "take it out"
        what = f"{self.file}:{self.line}: looks like a secret ({self.rule}), {where}"
        return f"{what}\n  → {todo}; if it is none, {CONFIG} says so with a reason"


def scan(root: Path = ROOT) -> Iterator[Found]:
    """What looks like a secret, each place once. Raises YardError without gitleaks, or if it fails."""
    program = sops.find("gitleaks", ROOT)
    seen = set()
    for look in LOOKS:
        command = [program, "git", "--no-banner", "--log-level=error", "--redact", "--exit-code=0"]
        command += ["--ignore-gitleaks-allow"]  # a remark beside it gives no reason
        command += ["--report-format=json", "--report-path=-", f"--config={ROOT / CONFIG}", *look, str(root)]
        done = subprocess.run(command, capture_output=True, text=True)
        # it ends well when git failed, and says so only in its log
        if done.returncode or done.stderr.strip():
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise YardError(f"gitleaks failed: {last[:300]}", where=str(root), todo="is it a Git checkout?")
        for entry in json.loads(done.stdout or "[]"):
            found = Found(entry["File"], entry["StartLine"], entry["Commit"], entry["RuleID"])
            if found not in seen:
                seen.add(found)
                yield found


def unseen(root: Path = ROOT) -> str:
    """What to say of a clone that has not the whole history; nothing of one that has."""
    if _git(root, "rev-parse", "--is-shallow-repository") != "true":
        return ""
    count = _git(root, "rev-list", "--count", "HEAD")
    return f"a shallow clone: only its {count} newest commits were looked at; `git fetch --unshallow` brings the others"


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True).stdout.strip()


def main(root: Path = ROOT) -> int:
    """Exit code 1 if something was found, and says where."""
    try:
        found = list(scan(root))
    except YardError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    for one in found:
        print(one, file=sys.stderr)
    if note := unseen(root):
        print(note)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
