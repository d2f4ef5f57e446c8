"""The add-on `monitoring`: Prometheus for one box, rules that tell a person what to do, and a dashboard.

By upstream's operator, and no chart around it: all of it can be checked without a network. Full disks are seen through
the kubelet, so nothing runs on the node itself. Alerts go to Alertmanager; where it sends them is a person's to say, in
the Secret `alertmanager`. Grafana is at `grafana.<domain>`, with a login.
"""

from __future__ import annotations

from typing import Any

from pipelines.platform import Platform
from pipelines.templates import namespaces
from pipelines.templates._parts import Images
from pipelines.templates.addons import _objects as k
from pipelines.templates.addons._addon import Addon, Manifest, Pins, Secret
from pipelines.templates.addons.dashboard import dashboard
from pipelines.templates.addons.rules import groups
from pipelines.templates.base import ingress, remote

NAME = "monitoring"
COMPONENT = "prometheus-operator"
GRAFANA, STATE = "grafana", "kube-state-metrics"
GRAFANA_PORT, STATE_PORT, STATE_TELEMETRY = 3000, 8080, 8081
PROMETHEUS_PORT, ALERTMANAGER_PORT, OPERATOR_PORT = 9090, 9093, 8080
NOBODY, GRAFANA_USER = 65534, 472
API = "monitoring.coreos.com/v1"
# what rules and dashboard read of Kubernetes' objects; Secrets and ConfigMaps are not among it
RESOURCES = {"": ["pods", "persistentvolumeclaims"], "apps": ["deployments"], "batch": ["cronjobs", "jobs"]}
# job → namespace, labels of the pods, name of the port; the pods of services are in namespaces of their own
PODS: dict[str, tuple[str, dict[str, str], str]] = {
    "workflow-controller": ("argo", {"app": "workflow-controller"}, "metrics"),
    "eventsource": ("argo-events", {"controller": "eventsource-controller"}, "metrics"),
    "sensor": ("argo-events", {"controller": "sensor-controller"}, "metrics"),
    "eventbus": ("argo-events", {"controller": "eventbus-controller"}, "metrics"),
    "cert-manager": ("cert-manager", {"app.kubernetes.io/component": "controller"}, "http-metrics"),
    "kube-state-metrics": (NAME, k.selector(STATE), "http-metrics"),
    "postgresql-archive": ("argo", {"cnpg.io/cluster": "archive"}, "metrics"),
    "postgresql-harbor": ("harbor", {"cnpg.io/cluster": "harbor"}, "metrics"),
    "tunnel": ("tunnel", k.selector("tunnel"), "metrics"),
}


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    version = pins.components[COMPONENT]
    names = ["prometheus.yaml", "alertmanager.yaml", "rules.yaml", "monitors.yaml", "state.yaml", "grafana.yaml"]
    return {
        "kustomization.yaml": [
            k.kustomization(
                remote(platform, "prometheus-operator/prometheus-operator", "", version),
                "namespace.yaml",
                *names,
                # upstream's bundle says `default`, and its ClusterRoleBinding is told as well. What names its
                # namespace itself keeps it: all of ours is in this one
                namespace=NAME,
            )
        ],
        "namespace.yaml": [*namespaces.manifests(NAME), _callers()],
        "prometheus.yaml": _prometheus(pins),
        "alertmanager.yaml": [_alertmanager(pins)],
        "rules.yaml": [_rules()],
        "monitors.yaml": _monitors(platform),
        "state.yaml": _state(pins),
        "grafana.yaml": _grafana(platform, pins),
    }


def _callers() -> Manifest:
    """Nobody from outside but through Grafana's Ingress."""
    return k.from_namespaces(NAME, NAME, {}, {"": [], "kube-system": [GRAFANA_PORT]})


def _prometheus(pins: Pins) -> list[Manifest]:
    image = pins.images["prometheus"]
    rules = [
        {"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
    ]
    return [
        k.account("prometheus", NAME),
        *k.reader("prometheus", NAME, rules),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": k.meta("prometheus-token", NAME, **{"kubernetes.io/service-account.name": "prometheus"}),
            "type": "kubernetes.io/service-account-token",
        },
        {
            "apiVersion": API,
            "kind": "Prometheus",
            "metadata": k.meta("prometheus", NAME),
            "spec": {
                "image": image,
                "version": _version(image),
                "replicas": 1,
                "serviceAccountName": "prometheus",
                "automountServiceAccountToken": True,
                "securityContext": k.pod_security(NOBODY),
                "scrapeInterval": "30s",
                "evaluationInterval": "30s",
                "retention": "30d",
                "retentionSize": "8GB",
                "storage": _volume("10Gi"),
                "resources": k.resources("100m", "512Mi", "2Gi"),
                "podMonitorSelector": {"matchLabels": k.selector("trainyard-monitor")},
                "serviceMonitorSelector": {"matchLabels": k.selector("trainyard-monitor")},
                "ruleSelector": {"matchLabels": k.selector("trainyard-rules")},
                "alerting": {
                    "alertmanagers": [{"name": "alertmanager-operated", "namespace": NAME, "port": "web"}],
                },
                # a monitor may not make Prometheus read a file of its own pod, like its token
                "arbitraryFSAccessThroughSMs": {"deny": True},
            },
        },
    ]


def _alertmanager(pins: Pins) -> Manifest:
    image = pins.images["alertmanager"]
    return {
        "apiVersion": API,
        "kind": "Alertmanager",
        "metadata": k.meta("alertmanager", NAME),
        "spec": {
            "image": image,
            "version": _version(image),
            "replicas": 1,
            # without it the operator makes one that sends nothing to nobody
            "configSecret": "alertmanager",
            "securityContext": k.pod_security(NOBODY),
            "storage": _volume("1Gi"),
            "resources": k.resources("10m", "32Mi", "128Mi"),
        },
    }


def _rules() -> Manifest:
    metadata = k.meta("trainyard", NAME) | {"labels": k.labels("trainyard-rules")}
    return {"apiVersion": API, "kind": "PrometheusRule", "metadata": metadata, "spec": groups()}


def _monitors(platform: Platform) -> list[Manifest]:
    """One job a part, named so that a rule can ask whether it is there."""
    found = [_pod_monitor(job, [space], labels, port) for job, (space, labels, port) in PODS.items()]
    served = [f"{service.name}-{env}" for service in platform.services for env in service.environments]
    found.append(_pod_monitor("serving", served, {"app.kubernetes.io/managed-by": "trainyard"}, "http"))
    argocd = {"port": "metrics", **_named("argocd")}
    found.append(_service_monitor("argocd", "argocd", k.selector("argocd-metrics"), [argocd]))
    # upstream's operator keeps the Service `kubelet`; a node signs its kubelet's certificate itself
    kubelet: Manifest = {
        "port": "https-metrics",
        "scheme": "https",
        "honorTimestamps": False,
        "tlsConfig": {"insecureSkipVerify": True},
    }
    volumes = {**kubelet, **_access(), "path": "/metrics", **_named("kubelet", "kubelet_volume_stats_.+")}
    wanted = "container_(fs_(usage|limit)_bytes|memory_working_set_bytes|cpu_usage_seconds_total)"
    containers = {**kubelet, **_access(), "path": "/metrics/cadvisor", **_named("cadvisor", wanted)}
    found.append(_service_monitor("kubelet", "kube-system", k.selector("kubelet"), [volumes, containers]))
    return found


def _access() -> Manifest:
    """The kubelet wants a token; that of Prometheus comes from a Secret, as monitors may read no file."""
    secret = {"name": "prometheus-token", "key": "token"}
    return {"authorization": {"type": "Bearer", "credentials": secret}}


def _named(job: str, keep: str = "") -> Manifest:
    names: list[Manifest] = [{"targetLabel": "job", "replacement": job}]
    kept = [{"sourceLabels": ["__name__"], "regex": keep, "action": "keep"}]
    return {"relabelings": names, **({"metricRelabelings": kept} if keep else {})}


def _pod_monitor(job: str, spaces: list[str], labels: dict[str, str], port: str) -> Manifest:
    return {
        "apiVersion": API,
        "kind": "PodMonitor",
        "metadata": _monitor(job),
        "spec": {
            "namespaceSelector": {"matchNames": spaces},
            "selector": {"matchLabels": labels},
            "podMetricsEndpoints": [{"port": port, **_named(job)}],
        },
    }


def _service_monitor(job: str, space: str, labels: dict[str, str], endpoints: list[Any]) -> Manifest:
    return {
        "apiVersion": API,
        "kind": "ServiceMonitor",
        "metadata": _monitor(job),
        "spec": {
            "namespaceSelector": {"matchNames": [space]},
            "selector": {"matchLabels": labels},
            "endpoints": endpoints,
        },
    }


def _monitor(job: str) -> Manifest:
    return k.meta(job, NAME) | {"labels": k.labels("trainyard-monitor")}


def _state(pins: Pins) -> list[Manifest]:
    """What Kubernetes' own objects say, as numbers."""
    rules = [
        {"apiGroups": [group], "resources": names, "verbs": ["list", "watch"]} for group, names in RESOURCES.items()
    ]
    container = {
        "name": STATE,
        "image": pins.images[STATE],
        "command": ["/kube-state-metrics"],
        "args": [
            f"--port={STATE_PORT}",
            f"--telemetry-port={STATE_TELEMETRY}",
            f"--resources={','.join(name for names in RESOURCES.values() for name in names)}",
        ],
        "ports": [
            {"name": "http-metrics", "containerPort": STATE_PORT},
            {"name": "telemetry", "containerPort": STATE_TELEMETRY},
        ],
        "readinessProbe": k.probe("/readyz", "telemetry"),
        "livenessProbe": k.probe("/livez", "http-metrics"),
        "resources": k.resources("10m", "64Mi", "256Mi"),
        "securityContext": k.closed(),
    }
    pod = {
        "serviceAccountName": STATE,
        "automountServiceAccountToken": True,
        "securityContext": k.pod_security(NOBODY),
        "containers": [container],
    }
    return [k.account(STATE, NAME), *k.reader(STATE, NAME, rules), k.deployment(STATE, NAME, pod)]


def _grafana(platform: Platform, pins: Pins) -> list[Manifest]:
    host = platform.host(GRAFANA)
    files = {
        "datasources.yaml": (
            "apiVersion: 1\ndatasources:\n- name: Prometheus\n  uid: prometheus\n  type: prometheus\n"
            f"  isDefault: true\n  url: http://prometheus-operated.{NAME}.svc:{PROMETHEUS_PORT}\n"
        ),
        "dashboards.yaml": (
            "apiVersion: 1\nproviders:\n- name: trainyard\n  type: file\n  options:\n    path: /etc/dashboards\n"
        ),
        "trainyard.json": dashboard(),
    }
    mounts = {
        "/etc/grafana/provisioning/datasources/datasources.yaml": "datasources.yaml",
        "/etc/grafana/provisioning/dashboards/dashboards.yaml": "dashboards.yaml",
        "/etc/dashboards/trainyard.json": "trainyard.json",
    }
    env = {
        "GF_SERVER_ROOT_URL": f"https://{host}",
        "GF_SECURITY_ADMIN_PASSWORD__FILE": "/var/run/grafana/password",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",  # fetches plugins at its start otherwise
    }
    container = {
        "name": GRAFANA,
        "image": pins.images[GRAFANA],
        "command": ["/run.sh"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "ports": [{"name": "http", "containerPort": GRAFANA_PORT}],
        "readinessProbe": k.probe("/api/health", "http"),
        "livenessProbe": k.probe("/api/health", "http", failures=6),
        "resources": k.resources("50m", "128Mi", "512Mi"),
        "securityContext": k.closed(),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/grafana"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "password", "mountPath": "/var/run/grafana", "readOnly": True},
            *({"name": "files", "mountPath": path, "subPath": key, "readOnly": True} for path, key in mounts.items()),
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": k.pod_security(GRAFANA_USER),
        "containers": [container],
        # all that it shows comes from Git, so that it may forget
        "volumes": [
            {"name": "data", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "password", "secret": {"secretName": GRAFANA}},
            {"name": "files", "configMap": {"name": GRAFANA}},
        ],
    }
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": k.meta(GRAFANA, NAME), "data": files},
        k.deployment(GRAFANA, NAME, pod),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": k.meta(GRAFANA, NAME),
            "spec": {
                "selector": k.selector(GRAFANA),
                "ports": [{"name": "http", "port": GRAFANA_PORT, "targetPort": GRAFANA_PORT}],
            },
        },
        ingress(platform, GRAFANA, GRAFANA, (NAME, GRAFANA, "http")),
    ]


def _volume(size: str) -> Manifest:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"volumeClaimTemplate": {"spec": spec}}


def _version(image: str) -> str:
    return image.rpartition(":")[2]


ADDON = Addon(
    NAME,
    files,
    destination=NAME,
    namespaces=(NAME,),
    wave=1,
    secrets=(
        Secret(NAME, "prometheus-token", ("token",), "Prometheus' own token, for the kubelet", "Kubernetes"),
        Secret(NAME, "grafana-tls", ("tls.crt", "tls.key"), "the address's certificate", "cert-manager"),
    ),
    unchecked="the pods that the operator makes of Prometheus and Alertmanager",
)
