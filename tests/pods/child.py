"""Solo's pod runtime as a process of its own, to be killed: `python -m tests.pods.child DIRECTORY`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.pods.world import World

if __name__ == "__main__":
    asyncio.run(World(Path(sys.argv[1])).runtime.run())
