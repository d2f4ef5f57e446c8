"""`python -m solo …` is `yard solo …`."""

from solo.cli import app

app()
