"""What the end of a process is called, in Argo's words."""

from __future__ import annotations

# argoexec ends with this code when the command cannot be started, or an output cannot be stored
EXECUTOR_ERROR = 64

DEADLINE_EXCEEDED = "Pod was active on the node longer than the specified deadline"
LOST = "pod deleted"


def exit_message(code: int, *, oom: bool = False, detail: str = "") -> str:
    """`Error (exit code 3)`, `OOMKilled (exit code 137)`; "" for 0."""
    if code == 0:
        return ""
    text = f"{'OOMKilled' if oom else 'Error'} (exit code {code})"
    return f"{text}: {detail}" if detail else text
