"""Solo's Argo Workflows controller: `operate` is the whole of its logic, `Runner` the loop around it."""

from solo.workflows.actions import (
    create_template,
    delete,
    delete_template,
    finished,
    resume,
    stop,
    submit,
    submit_from,
    suspend,
    terminate,
)
from solo.workflows.operate import Result, operate
from solo.workflows.operation import Settings
from solo.workflows.runner import Runner
from solo.workflows.validate import ValidationError, validate

__all__ = [
    "Result",
    "Runner",
    "Settings",
    "ValidationError",
    "create_template",
    "delete",
    "delete_template",
    "finished",
    "operate",
    "resume",
    "stop",
    "submit",
    "submit_from",
    "suspend",
    "terminate",
    "validate",
]
