"""`python -m pipelines.steps NAME --key=value …`: what the containers of our templates run.

Only the module of the asked step is imported: a step starts in the time of its own imports.
"""

import importlib
import sys

from pipelines.steps import MODULES
from pipelines.steps._step import run

name = sys.argv[1] if len(sys.argv) > 1 else ""
if name in MODULES:
    importlib.import_module(f"pipelines.steps.{MODULES[name]}")
sys.exit(run(sys.argv[1:]))
