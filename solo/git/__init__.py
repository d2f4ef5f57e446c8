"""The git host of solo: bare repositories, push deliveries as GitHub sends them, and commit statuses."""

from solo.git.deliveries import Deliverer, deliveries
from solo.git.repos import clone_url, create_repo, path_of, repos
from solo.git.statuses import status_routes, statuses

__all__ = [
    "Deliverer",
    "clone_url",
    "create_repo",
    "deliveries",
    "path_of",
    "repos",
    "status_routes",
    "statuses",
]
