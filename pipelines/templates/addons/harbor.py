"""The add-on `harbor`: the container registry at `harbor.<domain>`, by upstream's chart.

Its database is a CloudNativePG cluster. Every secret is given: a chart that makes one at random would differ at each
rendering, and Argo CD would see a change for ever. What only Harbor's API can set (projects, retention, scan on push,
robot accounts, the cache of Docker Hub) is set by the step `harbor`: a Job after each sync, and each night again.
"""

from __future__ import annotations

from typing import Any

from pipelines.platform import Platform
from pipelines.templates import certificates, namespaces
from pipelines.templates._parts import Images
from pipelines.templates.addons import _objects as k
from pipelines.templates.addons._addon import Addon, Chart, Manifest, Pins, Secret
from pipelines.templates.addons.postgresql import PORT, callers, cluster
from pipelines.templates.base import ISSUER

NAME = "harbor"
KEYS, ADMIN, ROBOT, TOKENS, CREDENTIALS = (f"harbor-{x}" for x in ("keys", "admin", "robot", "token", "registry-login"))
PASSWORD = "HARBOR_ADMIN_PASSWORD"  # noqa: S105 - a key's name
TEN_YEARS = "87600h"


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    return {
        "kustomization.yaml": [k.kustomization("namespace.yaml", "database.yaml", "token.yaml", "settings.yaml")],
        # the pods of the chart pass `restricted` as far as it was rendered; what is enforced is the next lower level
        "namespace.yaml": [
            *namespaces.manifests(NAME),
            k.from_namespaces(NAME, NAME, {}, {"": [], "kube-system": [], "monitoring": [8001]}),
        ],
        "database.yaml": [
            cluster(platform, pins, NAME, NAME, "5Gi"),
            callers(NAME, NAME, {"": [PORT]}),
        ],
        "token.yaml": _token(),
        "settings.yaml": _settings(platform, images),
        "values.yaml": [values(platform)],
    }


def values(platform: Platform) -> Manifest:
    host = platform.host(NAME)
    return {
        "externalURL": f"https://{host}",
        "expose": {
            "type": "ingress",
            "tls": {"certSource": "secret", "secret": {"secretName": "harbor-tls"}},
            "ingress": {
                "hosts": {"core": host},
                "className": "traefik",
                "annotations": {"cert-manager.io/cluster-issuer": ISSUER},
            },
        },
        # volumes of one writer: the old pod must be gone before the new one starts
        "updateStrategy": {"type": "Recreate"},
        "persistence": {
            "resourcePolicy": "keep",
            "persistentVolumeClaim": {
                "registry": {"size": "50Gi"},
                "jobservice": {"jobLog": {"size": "1Gi"}},
                "redis": {"size": "1Gi"},
                "trivy": {"size": "5Gi"},
            },
        },
        "existingSecretAdminPassword": ADMIN,
        "existingSecretAdminPasswordKey": PASSWORD,
        "existingSecretSecretKey": KEYS,
        "core": {
            "existingSecret": KEYS,
            "existingXsrfSecret": KEYS,
            "existingXsrfSecretKey": "CSRF_KEY",
            "secretName": TOKENS,
            "resources": k.resources("100m", "256Mi", "512Mi"),
        },
        "jobservice": {
            "existingSecret": KEYS,
            "existingSecretKey": "JOBSERVICE_SECRET",
            "maxJobWorkers": 3,
            "resources": k.resources("50m", "128Mi", "512Mi"),
        },
        "registry": {
            "existingSecret": KEYS,
            "existingSecretKey": "REGISTRY_HTTP_SECRET",
            "credentials": {"username": "harbor_registry_user", "existingSecret": CREDENTIALS},
            "registry": {"resources": k.resources("100m", "256Mi", "1Gi")},
            "controller": {"resources": k.resources("20m", "64Mi", "256Mi")},
        },
        "portal": {"resources": k.resources("10m", "32Mi", "128Mi")},
        "trivy": {"enabled": True, "resources": k.resources("100m", "256Mi", "1Gi")},
        "database": {
            "type": "external",
            "external": {
                "host": f"{NAME}-rw.{NAME}.svc",
                "port": str(PORT),
                "username": NAME,
                "coreDatabase": NAME,
                "existingSecret": f"{NAME}-app",
                "sslmode": "require",
            },
            # of the 100 that the database takes
            "maxIdleConns": 10,
            "maxOpenConns": 40,
        },
        "redis": {"type": "internal", "internal": {"resources": k.resources("20m", "64Mi", "256Mi")}},
        "metrics": {"enabled": platform.addons.monitoring},
        "exporter": {"resources": k.resources("10m", "32Mi", "128Mi")},
    }


def _token() -> list[Manifest]:
    """The key that signs the tokens of pushes and pulls. It stays the same: pods that read it at their start would
    otherwise disagree.
    """
    return [
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Issuer",
            "metadata": k.meta(TOKENS, NAME),
            "spec": {"selfSigned": {}},
        },
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": k.meta(TOKENS, NAME),
            "spec": {
                "secretName": TOKENS,
                "commonName": "harbor-token-ca",
                "duration": TEN_YEARS,
                "privateKey": {"algorithm": "RSA", "encoding": "PKCS1", "size": 4096, "rotationPolicy": "Never"},
                "issuerRef": {"name": TOKENS, "kind": "Issuer"},
            },
        },
    ]


def _settings(platform: Platform, images: Images) -> list[Manifest]:
    """The same pod as a Job after each sync, and each night: what somebody clicked away comes back."""
    project = platform.endpoints.REGISTRY.split("/")[1]
    pod = k.step_pod(
        images.pipelines,
        "harbor",
        # inside the cluster: no certificate, no way out and in again
        f"--url=http://{NAME}-core.{NAME}.svc",
        f"--project={project}",
        env=[
            k.secret_env(PASSWORD, ADMIN, PASSWORD),
            k.secret_env("HARBOR_PUSH_SECRET", ROBOT, "push"),
            k.secret_env("HARBOR_PULL_SECRET", ROBOT, "pull"),
        ],
    )
    name = f"{NAME}-settings"
    nightly = k.cron_job(name, NAME, "30 2 * * *", pod, minutes=10)
    hook = {"argocd.argoproj.io/hook": "PostSync", "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation"}
    spec: dict[str, Any] = nightly["spec"]["jobTemplate"]["spec"]
    after = {"apiVersion": "batch/v1", "kind": "Job", "metadata": k.meta(f"{name}-sync", NAME, **hook)}
    # an hour of tries: Harbor's first start makes its tables
    job = {key: value for key, value in spec.items() if key != "ttlSecondsAfterFinished"}
    return [nightly, after | {"spec": {**job, "backoffLimit": 6, "activeDeadlineSeconds": 3600}}]


ADDON = Addon(
    NAME,
    files,
    destination=NAME,
    namespaces=(NAME,),
    wave=1,
    needs=("postgresql",),
    chart=Chart(NAME, "https://helm.goharbor.io", NAME),
    secrets=(
        Secret(NAME, f"{NAME}-app", ("username", "password"), "the database's login", "CloudNativePG"),
        Secret(NAME, TOKENS, ("tls.crt", "tls.key"), "signs tokens", "cert-manager"),
        Secret(NAME, "harbor-tls", ("tls.crt", "tls.key"), "the address's certificate", "cert-manager"),
        *(
            Secret(where, "registry-ca", ("ca.crt",), "the CA of that certificate, if it is our own", "cert-manager")
            for where in certificates.REGISTRY_CALLERS
        ),
    ),
    unchecked="that Harbor itself starts with these values: no image of it is here",
)
