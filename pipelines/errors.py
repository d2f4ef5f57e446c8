"""Errors that a user sees, and the one table of exit codes."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `yard` and of every step; docs/architecture.md explains them, the retry rules use them."""

    OK = 0
    BUG = 1  # anything not foreseen: please report it
    USAGE = 2  # the command line is wrong (click's own code)
    INVALID = 3  # a file, a payload or a value that the user gave is wrong
    NOT_FOUND = 4  # what was asked for does not exist
    CONFLICT = 5  # somebody else wrote first, and differently
    UNAVAILABLE = (
        6  # something did not answer or was full; trying again may help. The only code that steps are retried on
    )
    REFUSED = 7  # the gate said no
    REVERTED = 8  # a release did not prove itself and was taken back
    FAILED = 9  # the user's own code failed, or wrote something that cannot be used


class YardError(Exception):
    """A failure told in three parts: what is wrong, where (file:line or field), what to do next.

    `str()` is one to three lines, fit for a terminal. Never shown with a traceback.
    """

    def __init__(self, what: str, *, where: str = "", todo: str = "", code: Exit = Exit.INVALID) -> None:
        super().__init__(what)
        self.what, self.where, self.todo, self.code = what, where, todo, code

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  → {self.todo}" if self.todo else text
