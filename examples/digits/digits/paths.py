"""Where the platform puts this service's files, and what it may be tuned with: four environment variables."""

import json
import os
from pathlib import Path
from typing import Any


def directory(name: str) -> Path:
    """DATA_DIR, FEATURES_DIR or MODEL_DIR."""
    return Path(os.environ[name])


def settings() -> tuple[int, dict[str, Any]]:
    """The seed and `params` of mlops.yaml."""
    given = json.loads(Path(os.environ["PARAMS_FILE"]).read_text())
    return given["seed"], given["params"]
