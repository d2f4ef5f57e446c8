"""A Google Cloud Storage emulator on disk: the JSON API that google-cloud-storage speaks, and the same in-process.

`Storage` is the store, used directly by solo's pods; `app` serves it over HTTP; `python -m solo.storage` runs it alone.
"""

from solo.storage.access import CLOSED, Tokens
from solo.storage.core import Storage
from solo.storage.errors import StorageError
from solo.storage.http import app
from solo.storage.objects import Conditions, Listing, Object

__all__ = ["CLOSED", "Conditions", "Listing", "Object", "Storage", "StorageError", "Tokens", "app"]
