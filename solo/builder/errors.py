"""What goes wrong with an image, told to the person who wrote the Dockerfile or the manifest."""

from __future__ import annotations


class ImageError(Exception):
    """What is wrong, where (`Dockerfile:3`, `image x`), and what to do next; `str()` is all three."""

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}\n  → {todo}" if todo else text)
