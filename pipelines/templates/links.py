"""The links of the two UIs: from a run to its commit, release, application and models; from a release to its run."""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.platform import Platform

Manifest = dict[str, Any]


def of_runs(platform: Platform) -> list[Manifest]:
    """For the Argo UI (`links` of the controller's configuration), on the page of each run.

    All that they need is in the run's labels and annotations. What a run does not have is left out by the UI, and the
    link leads to a longer list: a `verify` is of no one service.
    """
    service = "${workflow.metadata.labels.trainyard/service}"
    sha, repo = "${workflow.metadata.labels.trainyard/sha}", "${workflow.metadata.annotations.trainyard/repo}"
    git = platform.endpoints.GIT_URL
    between = "/-" if platform.git.provider == "gitlab" else ""
    urls = {
        "Commit": f"{git}/{repo}{between}/commit/{sha}",
        "Releases": f"{git}/{platform.releases}{between}/commits/main/services/{service}",
        "Argo CD": f"https://{platform.host('argocd')}/applications?search={service}",
    }
    if not platform.endpoints.STORAGE_URL:
        bucket = platform.endpoints.REGISTRY_BUCKET
        urls["Models"] = f"https://console.cloud.google.com/storage/browser/{bucket}/model/{service}"
    return [{"name": name, "scope": "workflow", "url": url} for name, url in urls.items()]


def of_releases(platform: Platform) -> dict[str, str]:
    """For Argo CD (deep links, in ConfigMap `argocd-cm`): on a service's Application the runs that released it, on its
    release record the very run.
    """
    runs = f"{platform.endpoints.ARGO_URL}/workflows/mlops-release"
    service = '{{ index (splitList "/" .app.spec.source.path) 1 }}'
    links = {
        "application.links": {
            "title": "Runs",
            "url": f"{runs}?label=trainyard%2Fservice%3D{service}",
            "if": 'app.spec.project == "services"',
        },
        "resource.links": {
            "title": "Run",
            "url": f"{runs}/{{{{ .resource.data.workflow }}}}",
            "if": 'resource.kind == "ConfigMap" && resource.metadata.name endsWith "-release"',
        },
    }
    return {key: yaml.safe_dump([link], sort_keys=False, width=200) for key, link in links.items()}
