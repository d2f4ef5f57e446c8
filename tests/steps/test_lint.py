"""Each rule over the committed manifests stops what it is there for, and stops nothing that is committed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines import platform as settings
from pipelines import secret_values
from pipelines.errors import YardError
from pipelines.templates import lint
from pipelines.templates.namespaces import RUNS

ROOT = Path(__file__).parents[2]
GONE = object()
GIT = "files in Git"


class Broken(NamedTuple):
    """One small change to what is committed: in `of` (kind/namespace/name) the value at `path` becomes `value`, and the
    rule says `told` about it. A word leads into a list to the entry of that name.
    """

    rule: str
    of: str
    path: tuple[Any, ...]
    value: Any
    told: str


CI, CT, VERIFY = (
    "WorkflowTemplate/mlops-build/ci",
    "WorkflowTemplate/mlops/ct",
    "WorkflowTemplate/mlops-release/verify",
)
SENSOR, BUS = "Sensor/argo-events/ci", "EventSource/argo-events/stages"
JETSTREAM = ("spec", "jetstream")
ENFORCE = "pod-security.kubernetes.io/enforce"
EVENT_BUS, HOOKS = "EventBus/argo-events/default", "EventSource/argo-events/github"
INGRESS = "Ingress/argo-events/hooks"
BACKEND = ("spec", "rules", 0, "http", "paths", 0, "backend", "service")
# the token is there, and Argo Events does not look at it
GITLAB = {"webhook": {"port": "12000", "url": "https://hooks.example.com"}, "secretToken": {"name": "x", "key": "y"}}
SERVED, STORE = "Deployment/digits-dev/digits", "Deployment/storage/storage"
PROJECT, APPLICATION = "AppProject/argocd/services", "Application/argocd/digits-dev"
EXECUTOR = "Secret/mlops-build/executor.service-account-token"
ENDPOINTS = "ConfigMap/mlops-build/endpoints"
PLATFORM, PIPELINES, ITSELF = "AppProject/argocd/platform", "Application/argocd/mlops", "Application/argocd/argocd"
CERTIFICATES = "Application/argocd/cert-manager"
NOTES, WAVE, SYNC = ("metadata", "annotations"), "argocd.argoproj.io/sync-wave", "argocd.argoproj.io/sync-options"
CONTROLLER = "ConfigMap/argo/workflow-controller-configmap"
DEFAULT = "storageclass.kubernetes.io/is-default-class"
ARCHIVE, BACKUP = "Cluster/argo/archive", "CronJob/argo/backup-archive"
CRON_POD = ("spec", "jobTemplate", "spec", "template", "spec")
DUMP, PULLER = (*CRON_POD, "initContainers", "dump", "env"), "ServiceAccount/mlops/pipeline"
CLAIM = ("spec", "templates", "claim")
TEST = ("spec", "templates", "test")
BUILD = ("spec", "templates", "build")
TRAIN = ("spec", "templates", "train-cpu")
MAIN = ("spec", "templates", "main", "dag", "tasks")
TRIGGER = ("spec", "triggers", "ci-digits", "template")
RESOURCE = (*TRIGGER, "k8s", "source", "resource")
POD = ("spec", "template", "spec")
SPREAD = (*POD, "topologySpreadConstraints", 0)
TOKEN = (*POD, "containers", "serving", "env", "TOKEN", "valueFrom", "secretKeyRef")
SCALER, BUDGET = "HorizontalPodAutoscaler/digits-dev/digits", "PodDisruptionBudget/digits-dev/digits"
SHA = "mlops/templates/ci.yaml needs the argument sha"

BROKEN = [
    Broken("known", STORE, ("kind",), "ReplicaSet", "no rule looks into a ReplicaSet"),
    Broken("known", CI, (*MAIN[:3], "dag"), GONE, "spec.templates[main]: no rule looks into a template"),
    Broken("known", STORE, (*POD, "volumes", 0), {"name": "data", "projected": {}}, "a volume of type projected"),
    Broken("arguments", SENSOR, (*RESOURCE, "spec", "arguments", "parameters", "sha"), GONE, SHA),
    Broken(
        "arguments", SENSOR, (*RESOURCE, "spec", "arguments", "parameters", 0, "name"), "servise", "no such argument"
    ),
    Broken(
        "arguments", SENSOR, (*TRIGGER, "k8s", "parameters", 3), GONE, "argument sha is empty, and nothing fills it"
    ),
    Broken(
        "arguments", SENSOR, (*TRIGGER, "k8s", "parameters", 3, "dest"), "spec.arguments.parameters.3", "go nowhere"
    ),
    Broken(
        "arguments", "WorkflowTemplate/mlops/reconcile", ("spec", "arguments"), {"parameters": [{"name": "x"}]}, "x"
    ),
    Broken("events", SENSOR, ("spec", "dependencies", 0, "eventName"), "pushed", "has an event pushed"),
    Broken("events", SENSOR, ("spec", "dependencies", 0, "eventSourceName"), "gitlab", "no EventSource gitlab"),
    Broken("events", BUS, ("spec", "webhook", "built"), GONE, "ct.yaml: spec.dependencies[built-digits]"),
    Broken("events", SENSOR, (*TRIGGER, "conditions"), "pushed", "no dependency is called pushed"),
    Broken(
        "events", SENSOR, (*TRIGGER, "k8s", "parameters", 0, "src", "dependencyName"), "x", "dependency is called x"
    ),
    Broken(
        "template-names", SENSOR, (*RESOURCE, "spec", "workflowTemplateRef", "name"), "cj", "no WorkflowTemplate cj"
    ),
    Broken(
        "template-names", SENSOR, (*RESOURCE, "metadata", "namespace"), "mlops-release", "in namespace mlops-release"
    ),
    Broken("template-names", "WorkflowTemplate/mlops/reconcile", (), GONE, "no WorkflowTemplate reconcile"),
    Broken("template-names", CI, ("spec", "entrypoint"), "mian", "no template 'mian'"),
    Broken("template-names", CI, ("spec", "onExit"), "exlt", "no template 'exlt'"),
    Broken("template-names", CI, (*MAIN, "build", "template"), "biuld", "no template 'biuld'"),
    Broken(
        "template-names",
        CI,
        (*MAIN, "build", "templateRef"),
        {"name": "ct", "template": "x"},
        "no template that exists",
    ),
    Broken("task-arguments", CI, (*MAIN, "build", "arguments", "parameters", "sha"), GONE, "needs sha"),
    Broken("task-arguments", CI, (*MAIN, "build", "arguments", "artifacts"), GONE, "needs source"),
    Broken("task-arguments", CI, (*MAIN, "build", "arguments", "parameters", "sha", "name"), "shaa", "no such input"),
    Broken("tags", CI, (*CLAIM, "inputs", "parameters", "sha"), GONE, "{{inputs.parameters.sha}} stands for nothing"),
    Broken(
        "tags", CI, ("spec", "arguments", "parameters", "sha"), GONE, "{{workflow.parameters.sha}} stands for nothing"
    ),
    Broken("tags", CI, (*BUILD, "outputs", "parameters", "image"), GONE, "{{tasks.build.outputs.parameters.image}}"),
    Broken("tags", CI, (*MAIN, "checkout", "name"), "check-out", "{{tasks.checkout.outputs.artifacts.source}}"),
    Broken("tags", CI, ("spec", "workflowMetadata", "labels", "x"), "{{workflow.nmae}}", "{{workflow.nmae}}"),
    Broken(
        "tags", CT, ("spec", "templates", "train-gpu", "outputs"), GONE, "{{tasks.train-gpu.outputs.artifacts.model}}"
    ),
    Broken(
        "unused", CI, (*CLAIM, "inputs", "parameters", "sha", "name"), "sah", "inputs.parameters[sah]: nothing uses it"
    ),
    Broken(
        "unused", CI, ("spec", "arguments", "parameters", "sha", "name"), "sah", "arguments.parameters[sah]: nothing"
    ),
    Broken("depends", CI, (*MAIN, "test", "depends"), "biuld.Succeeded", "biuld.Succeeded is no task"),
    Broken("depends", CI, (*MAIN, "test", "depends"), "build.Success", "build.Success is no task, or no end"),
    Broken("depends", CI, (*MAIN, "test", "depends"), "claim.Succeeded", "uses what build puts out, and does not wait"),
    Broken("depends", CI, (*MAIN, "claim", "depends"), "built.Succeeded", "it waits for itself"),
    Broken(
        "secrets", CI, (*CLAIM, "volumes", "registry", "secret", "secretName"), "signing", "Secret signing, key credent"
    ),
    Broken("secrets", CI, (*CLAIM, "volumes", "registry", "secret", "secretName"), "regsitry", "Secret regsitry"),
    Broken("secrets", CI, (*CLAIM, "container", "env", 0, "value"), "/var/run/registry/key.json", "key key.json"),
    Broken(
        "secrets", CI, (*BUILD, "volumes", "registry-push", "secret", "items", 0, "key"), "config.json", "config.json"
    ),
    Broken("secrets", CI, (*CLAIM, "container", "envFrom", 0), {"secretRef": {"name": "registry"}}, "key ?"),
    Broken(
        "secrets",
        CI,
        (*CLAIM, "container", "env", 0),
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "signing", "key": "key.pem"}}},
        "Secret signing, key key.pem, in namespace mlops-build",
    ),
    Broken(
        "secrets", SERVED, (*POD, "volumes", "registry", "secret", "secretName"), "registry", "in namespace digits-dev"
    ),
    Broken("secrets", SERVED, (*TOKEN, "name"), "cats-secrets", "Secret cats-secrets, key TOKEN, in namespace digits"),
    Broken("secrets", BUS, ("spec", "webhook", "built", "authSecret", "name"), "token", "Secret token"),
    Broken("secrets", BACKUP, (*CRON_POD, "volumes", "backup", "secret", "secretName"), "registry", "archive.yaml"),
    Broken("secrets", BACKUP, (*DUMP, "PGUSER", "valueFrom", "secretKeyRef", "key"), "user", "archive-app, key user"),
    Broken("secrets", PULLER, ("imagePullSecrets", 0, "name"), "regsitry", "Secret regsitry, key .dockerconfigjson"),
    Broken(
        "secrets",
        CONTROLLER,
        ("data", "artifactRepository"),
        "gcs: {serviceAccountKeySecret: {name: scratch, key: key}}",
        "Secret scratch, key key, in namespace mlops-build",
    ),
    Broken("secrets", CI, ("spec", "volumes", 0), {"name": "tmp2", "secret": {"secretName": "registry"}}, "key ?"),
    Broken(
        "accounts",
        CI,
        ("spec", "serviceAccountName"),
        "pipelines",
        "no ServiceAccount pipelines in namespace mlops-build",
    ),
    Broken("accounts", CI, ("spec", "serviceAccountName"), GONE, "no ServiceAccount default"),
    Broken("accounts", CI, ("spec", "executor", "serviceAccountName"), "x", "no ServiceAccount x"),
    Broken(
        "accounts", CI, (*CLAIM, "serviceAccountName"), "verify", "no ServiceAccount verify in namespace mlops-build"
    ),
    Broken(
        "accounts", "ServiceAccount/argo-events/sensor", (), GONE, "no ServiceAccount sensor in namespace argo-events"
    ),
    Broken("accounts", "ServiceAccount/argo-events/bus", (), GONE, "spec.jetstream.serviceAccountName: there is no"),
    Broken("accounts", STORE, (*POD, "serviceAccountName"), "storage", "no ServiceAccount storage"),
    Broken(
        "accounts",
        "RoleBinding/mlops-build/sensor",
        ("subjects", 0, "namespace"),
        "argo",
        "no ServiceAccount sensor in",
    ),
    Broken("accounts", "Role/mlops-build/sensor", (), GONE, "there is no Role sensor"),
    Broken("accounts", "ClusterRole//trainyard-prometheus", (), GONE, "no ClusterRole trainyard-prometheus"),
    Broken("executors", CI, ("spec", "executor"), GONE, "the account of the code that it runs"),
    Broken("executors", EXECUTOR, (), GONE, "no Secret executor.service-account-token"),
    Broken("executors", EXECUTOR, ("metadata", "annotations"), {}, "no Secret executor.service-account-token"),
    Broken("executors", "RoleBinding/mlops-build/executor", (), GONE, "executor may not report results in mlops-build"),
    Broken(
        "executors", "Role/mlops-build/executor", ("rules", 0, "verbs"), ["create"], "executor may not report results"
    ),
    Broken("config-maps", CI, (*CLAIM, "container", "envFrom", 0, "configMapRef", "name"), "end", "no ConfigMap end"),
    Broken("config-maps", "ConfigMap/digits-dev/endpoints", (), GONE, "no ConfigMap endpoints in namespace digits-dev"),
    Broken("config-maps", "ConfigMap/digits-dev/digits-env", (), GONE, "no ConfigMap digits-env in namespace digits"),
    Broken(
        "config-maps", "ConfigMap/mlops-build/endpoints", ("data", "REGISTRY"), GONE, "$(REGISTRY) is in no variable"
    ),
    Broken(
        "config-maps",
        CI,
        (*CLAIM, "container", "env", 0),
        {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "platform", "key": "X"}}},
        "no ConfigMap platform with X",
    ),
    Broken(
        "mounts", CI, (*CLAIM, "container", "volumeMounts", "registry", "name"), "x", "[x]: no volume has this name"
    ),
    Broken("mounts", CI, ("spec", "volumes"), [], "[claim].container.volumeMounts[tmp]: no volume has this name"),
    Broken(
        "mounts", "PersistentVolumeClaim/storage/storage", (), GONE, "no PersistentVolumeClaim storage in namespace"
    ),
    Broken("mounts", STORE, (*POD, "volumes", 0), {"name": "data", "configMap": {"name": "x"}}, "no ConfigMap x"),
    Broken("services", "Service/digits-dev/digits", ("spec", "selector"), {"app": "x"}, "no pod has the labels"),
    Broken("services", "Service/digits-dev/digits", ("spec", "ports", 0, "targetPort"), 80, "does not listen on 80"),
    Broken(
        "services", "PodDisruptionBudget/digits-dev/digits", ("spec", "selector", "matchLabels"), {"a": "x"}, "no pod"
    ),
    Broken("services", STORE, ("spec", "template", "metadata", "labels"), {"app": "x"}, "storage.yaml: spec.selector"),
    Broken("services", STORE, (*POD, "containers", 0, "ports"), [], "storage does not listen on 4443"),
    Broken("services", BUS, ("spec", "webhook", "built", "port"), "12002", "listens on 12002"),
    Broken("senders", HOOKS, ("spec", "github", "push", "webhookSecret"), GONE, "whoever reaches it can send events"),
    Broken("senders", BUS, ("spec", "webhook", "built", "authSecret"), GONE, "spec.webhook[built].authSecret"),
    Broken("senders", HOOKS, ("spec", "gitlab"), {"push": GITLAB}, "spec.gitlab[push].accessToken"),
    Broken("ingresses", INGRESS, ("spec", "tls"), [], "rules[hooks.example.com]: no certificate"),
    Broken("ingresses", INGRESS, (*BACKEND, "name"), "stages-eventsource-svc", "hooks.example.com]/push: stages-ev"),
    Broken("ingresses", INGRESS, (*BACKEND, "port"), {"name": "https"}, "no port https that the world may reach"),
    Broken("bus", EVENT_BUS, ("spec", "jetstream", "replicas"), 3, "make both numbers of replicas equal"),
    Broken("bus", EVENT_BUS, ("spec", "jetstream", "replicas"), 2, "half of an even number decides nothing"),
    Broken("bus", EVENT_BUS, ("spec", "jetstream", "replicas"), 5, "all copies may be on one node"),
    Broken("default-class", "StorageClass//nfs", ("metadata", "annotations", DEFAULT), "true", "ask for no class"),
    Broken("default-class", "StorageClass//nfs", ("metadata", "annotations"), GONE, "ask for no class"),
    Broken(
        "addresses", BUS, ("spec", "service", "ports", 0, "port"), 80, "EVENTS_URL: no Service is stages-eventsource"
    ),
    Broken("addresses", BUS, ("metadata", "name"), "stage", "data.EVENTS_URL: no Service is stages-eventsource-svc in"),
    Broken(
        "addresses", "Service/digits-dev/digits", ("spec", "ports", 0, "port"), 80, "data.SERVING_URL: no Service is"
    ),
    Broken(
        "addresses", ENDPOINTS, ("data", "STORAGE_URL"), "http://storage.storage.svc:80", "no Service is storage in"
    ),
    Broken(
        "images", CI, (*CLAIM, "container", "image"), "ghcr.io/trainyard/pipelines:0.0.9", "is not in versions.yaml"
    ),
    Broken("images", ARCHIVE, ("spec", "imageName"), "postgres:18", "postgres:18 is not in versions.yaml"),
    Broken(
        "images", SERVED, (*POD, "initContainers", 0, "image"), "busybox:1.37", "busybox:1.37 is not in versions.yaml"
    ),
    Broken("images", "ConfigMap/mlops-build/platform", ("data", "SERVING_IMAGE"), "serving:1", "data.SERVING_IMAGE"),
    Broken("namespaces", "Namespace//mlops", (), GONE, "nothing makes the namespace 'mlops'"),
    Broken(
        "namespaces", CI, ("metadata", "namespace"), "mlop", "metadata.namespace: nothing makes the namespace 'mlop'"
    ),
    Broken("namespaces", SENSOR, (*RESOURCE, "metadata", "namespace"), "ml", "nothing makes the namespace 'ml'"),
    Broken("namespaces", APPLICATION, ("spec", "destination", "namespace"), "x", "spec.destination.namespace: nothing"),
    Broken(
        "applications", APPLICATION, ("spec", "source", "path"), "services/digit/dev", "a release puts nothing there"
    ),
    Broken("applications", PROJECT, ("spec", "namespaceResourceWhitelist", 0), GONE, "does not allow Deployment"),
    Broken("applications", PROJECT, ("spec", "namespaceResourceWhitelist", 4), GONE, "does not allow HorizontalPodA"),
    Broken("projects", APPLICATION, ("spec", "project"), "default", "project default allows everything"),
    Broken("projects", PIPELINES, ("spec", "project"), "plattform", "plattform: no such AppProject"),
    Broken("projects", APPLICATION, ("spec", "source", "repoURL"), "https://github.com/a/b", "does not allow it"),
    Broken("projects", CERTIFICATES, ("spec", "source", "repoURL"), "https://charts.example.com", "does not allow it"),
    Broken("projects", PROJECT, ("spec", "destinations"), [], "spec.destination: argocd/projects/services.yaml does"),
    Broken("allowed", PLATFORM, ("spec", "clusterResourceWhitelist", 0), GONE, "does not allow Namespace"),
    Broken(
        "allowed", "ConfigMap/mlops/endpoints", ("metadata", "namespace"), "kube-system", "the namespace kube-system"
    ),
    Broken("waves", PIPELINES, (*NOTES, WAVE), "0", "wave 0 does not come after argo-workflows"),
    Broken("waves", PIPELINES, NOTES, GONE, "wave 0 does not come after event-sources"),
    Broken("waves", PIPELINES, ("metadata", "name"), "pipelines", "nothing says what it needs"),
    Broken("waves", "CronWorkflow/mlops/reconcile", (*NOTES, WAVE), "0", "does not come after its template"),
    Broken("paths", PIPELINES, ("spec", "source", "path"), "mlop", "mlop/ holds no object"),
    Broken("paths", PIPELINES, ("spec", "source", "directory"), GONE, "its subfolders are not read"),
    Broken("paths", ITSELF, ("spec", "source", "directory"), {"recurse": True}, "not for a folder with a kustom"),
    Broken(
        "deployed",
        PIPELINES,
        ("spec", "source", "path"),
        "mlops/templates",
        "mlops.yaml: file: Argo CD will never deploy",
    ),
    Broken("owners", "ConfigMap/digits-dev/endpoints", ("metadata", "namespace"), "mlops", "mlops deploys the same"),
    Broken("guarded", "Namespace//mlops", NOTES, GONE, "would delete this Namespace"),
    Broken("guarded", "EventBus/argo-events/default", (*NOTES, SYNC), "Prune=true", "would delete this EventBus"),
    Broken("bounded", PIPELINES, ("spec", "syncPolicy", "retry", "limit"), -1, "-1 retries"),
    Broken("bounded", PIPELINES, ("spec", "syncPolicy", "retry"), GONE, "0 retries"),
    Broken("bounded", "Application/argocd/root", ("spec", "syncPolicy", "automated"), GONE, "nobody would sync it"),
    Broken("image-versions", CI, (*CLAIM, "container", "image"), "ghcr.io/trainyard/pipelines", "another one tomorrow"),
    Broken("image-versions", CI, (*CLAIM, "container", "image"), "localhost:5000/pipelines", "another one tomorrow"),
    Broken("image-versions", STORE, (*POD, "containers", 0, "image"), "storage:latest", "storage:latest"),
    Broken("image-versions", CI, (*TEST, "container", "image"), "pipelines@sha256:0", "pipelines@sha256:0"),
    Broken("secret-data", EXECUTOR, ("data",), {"token": "eA=="}, "data: a secret in Git"),
    Broken("secret-data", EXECUTOR, ("stringData",), {"token": "x"}, "stringData: a secret in Git"),
    Broken("host", CI, (*TEST, "volumes"), [{"name": "x", "hostPath": {"path": "/"}}], "a directory of the node"),
    Broken("host", CI, ("spec", "volumes", 0), {"name": "tmp", "hostPath": {"path": "/"}}, "a directory of the node"),
    Broken("host", CI, ("spec", "hostNetwork"), True, "hostNetwork: the pod would have the node's own"),
    Broken("host", CI, (*TEST, "podSpecPatch"), '{"hostPID": true}', "hostPID"),
    Broken("host", STORE, (*POD, "hostIPC"), True, "hostIPC"),
    Broken("host", CI, (*BUILD, "container", "securityContext", "privileged"), True, "more rights than its own"),
    Broken("host", STORE, (*POD, "containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "more rights"),
    Broken("host", STORE, (*POD, "containers", 0, "ports", 0, "hostPort"), 80, "a port of the node"),
    Broken("resources", CI, (*TEST, "container", "resources"), GONE, "test].container.resources"),
    Broken("resources", CI, (*TEST, "container", "resources", "requests", "cpu"), GONE, "set requests (cpu, memory)"),
    Broken(
        "resources", SERVED, (*POD, "initContainers", 0, "resources", "limits"), {"cpu": 1}, "initContainers[fetch]"
    ),
    Broken(
        "resources",
        "EventBus/argo-events/default",
        (*JETSTREAM, "containerTemplate", "resources"),
        GONE,
        "jetstream.con",
    ),
    Broken("resources", SENSOR, ("spec", "template", "container"), GONE, "spec.template.container.resources"),
    Broken("resources", CONTROLLER, ("data", "executor"), "securityContext: {}", "data.executor.resources"),
    Broken("resources", ARCHIVE, ("spec", "resources"), GONE, "archive.yaml: spec.resources"),
    Broken("probes", STORE, (*POD, "containers", 0, "livenessProbe"), GONE, "livenessProbe: nobody asks"),
    Broken("probes", SERVED, (*POD, "containers", 0, "readinessProbe"), GONE, "readinessProbe: nobody asks"),
    Broken("budgets", "PodDisruptionBudget/digits-dev/digits", (), GONE, "deployment.yaml): spec.replicas"),
    Broken("budgets", STORE, ("spec", "replicas"), 2, "storage.yaml: spec.replicas"),
    Broken("budgets", BUDGET, ("spec", "minAvailable"), 1, "spec.minAvailable: where as many pods run as it asks for"),
    Broken("scaling", SERVED, ("spec", "replicas"), 2, "Argo CD would put back what the autoscaler changes"),
    Broken("scaling", SCALER, ("spec", "scaleTargetRef", "name"), "digit", "names no Deployment"),
    Broken("scaling", SCALER, ("spec", "minReplicas"), 5, "is not from 1 to maxReplicas"),
    Broken("settings", "ConfigMap/digits-dev/digits-env", ("data", "THREADS"), "3", "is not the digest of digits-env"),
    Broken(
        "settings", SERVED, ("spec", "template", "metadata", "annotations", lint.SETTINGS), GONE, "would start no pods"
    ),
    Broken("spread", SERVED, (*SPREAD, "labelSelector", "matchLabels"), {"a": "b"}, "does not select its own pod"),
    Broken("spread", SERVED, (*SPREAD, "whenUnsatisfiable"), "DoNotSchedule", "no second pod would start"),
    Broken("wildcards", "Role/mlops-build/executor", ("rules", 0, "verbs"), ["*"], "rules[0].verbs[0]: '*'"),
    Broken("wildcards", "Role/argocd/verify", ("rules", 0, "resources"), ["applications", "pods/*"], "'pods/*'"),
    Broken(
        "wildcards", PROJECT, ("spec", "clusterResourceWhitelist"), [{"group": "*", "kind": "*"}], "spec.clusterRes"
    ),
    Broken(
        "exec", "Role/mlops-build/executor", ("rules", 0, "resources"), ["pods/exec"], "rules[0].resources: pods/exec"
    ),
    Broken(
        "non-root", CI, ("spec", "securityContext", "runAsNonRoot"), GONE, "[claim].container.securityContext.runAs"
    ),
    Broken(
        "non-root", CI, ("spec", "securityContext", "seccompProfile"), GONE, "[build].container.securityContext.secc"
    ),
    Broken("non-root", CI, (*TEST, "podSpecPatch"), '{"securityContext": {"runAsUser": 0}}', "[test].container"),
    Broken("non-root", CI, (*TEST, "container", "securityContext", "runAsNonRoot"), False, "[test].container"),
    Broken("non-root", BUS, ("spec", "template", "securityContext"), GONE, "spec.template.container.securityContext"),
    Broken("non-root", SERVED, (*POD, "securityContext"), GONE, "initContainers[fetch].securityContext.seccompProfile"),
    Broken("pod-security", "Namespace//mlops", ("metadata", "labels", ENFORCE), GONE, "any pod may run here"),
    Broken("pod-security", "Namespace//mlops", ("metadata", "labels", ENFORCE), "privileged", "set it to baseline or"),
    Broken("pod-security", "Namespace//mlops", ("metadata", "labels", f"{ENFORCE}-version"), "latest", "to v1.36"),
    Broken("pod-security", "Namespace//mlops-build", ("metadata", "labels", ENFORCE), "restricted", "build].container"),
    Broken(
        "pod-security", CT, (*TRAIN, "container", "securityContext", "capabilities"), {}, "capabilities: keeps some"
    ),
    Broken(
        "pod-security",
        CT,
        (*TRAIN, "container", "securityContext", "allowPrivilegeEscalation"),
        GONE,
        "may gain rights",
    ),
    Broken("pod-security", CT, ("spec", "securityContext", "runAsNonRoot"), GONE, "runAsNonRoot: may be root"),
    Broken("pod-security", CT, ("spec", "securityContext", "seccompProfile"), GONE, "seccompProfile: not set"),
    Broken("pod-security", CT, (*TRAIN, "volumes"), [{"name": "x", "nfs": {}}], "volumes[x]: mlops is restricted"),
    Broken("pod-security", CT, ("spec", "securityContext", "sysctls"), [], "sysctls: not judged"),
    Broken(
        "pod-security",
        CI,
        (*BUILD, "container", "securityContext", "capabilities"),
        {"add": ["SYS_ADMIN"]},
        "mlops-build is baseline: capabilities.add: SYS_ADMIN",
    ),
    Broken(
        "pod-security",
        CI,
        ("spec", "securityContext", "seccompProfile"),
        {"type": "Unconfined"},
        "mlops-build is baseline: seccompProfile: every system call",
    ),
    Broken(
        "pod-security",
        CONTROLLER,
        ("data", "executor"),
        "resources: {}",
        "data.executor.securityContext: mlops is rest",
    ),
    Broken(
        "pod-security", BUS, ("spec", "template", "securityContext", "x"), 1, "spec.template.securityContext: argo-"
    ),
    Broken("default-deny", "NetworkPolicy/mlops-build/default-deny", (), GONE, "mlops-build.yaml: metadata.name: what"),
    Broken(
        "default-deny",
        "NetworkPolicy/digits-dev/default-deny",
        ("spec", "policyTypes"),
        ["Ingress"],
        "what no policy speaks of is open",
    ),
    Broken(
        "default-deny",
        "NetworkPolicy/storage/default-deny",
        ("spec", "egress"),
        [{}],
        "what no policy speaks of is open",
    ),
    Broken(
        "network",
        "NetworkPolicy/mlops-build/to-git",
        ("spec", "podSelector", "matchLabels"),
        {"trainyard/to-gti": "yes"},
        "to-git: spec.podSelector: holds for no pod",
    ),
    Broken("network", "NetworkPolicy/mlops-build/to-git", (), GONE, "no policy opens trainyard/to-git"),
    Broken(
        "network", CI, (*CLAIM, "metadata"), {"labels": {"trainyard/to-x": "yes"}}, "no policy opens trainyard/to-x"
    ),
    Broken(
        "network",
        "NetworkPolicy/argo-events/source-stages",
        ("spec", "ingress", 0, "from", 0, "podSelector"),
        {"matchLabels": {"a": "b"}},
        "source-stages: spec.ingress: no pod in mlops-build has the labels",
    ),
    Broken("quotas", "ResourceQuota/mlops/bounds", (), GONE, "mlops.yaml: metadata.name: nothing bounds"),
    Broken("quotas", "ResourceQuota/argocd/bounds", ("spec", "hard", "pods"), GONE, "namespaces/argocd.yaml"),
    Broken("limits", "LimitRange/storage/defaults", (), GONE, "storage.yaml: metadata.name: a container"),
    Broken(
        "limits",
        "LimitRange/storage/defaults",
        ("spec", "limits", 0, "default"),
        {"cpu": "1"},
        "may take all of a node",
    ),
    Broken("non-root", BACKUP, (*CRON_POD, "securityContext", "runAsUser"), 0, "initContainers[dump]"),
    Broken("file-size", GIT, ("docs/video.mp4",), 5 * 1024 * 1024 + 1, "docs/video.mp4: size: 5.0 MiB"),
]


@pytest.fixture(scope="module")
def committed() -> lint.Tree:
    return lint.load(ROOT)


def change(tree: lint.Tree, broken: Broken) -> None:
    """The change must be one: what it names is there, and is not so already."""
    kind, _, place = broken.of.partition("/")
    if broken.of == GIT:
        tree.sizes[broken.path[0]] = broken.value
        return
    (manifest,) = (m for m in tree.of(kind) if f"{m.namespace}/{m.name}" == place)
    if not broken.path:
        tree.manifests.remove(manifest)
        return
    where: Any = manifest.body
    *way, last = (*broken.path,)
    for part in way:
        where = where[index(where, part)]
    at = index(where, last)
    if broken.value is GONE:
        del where[at]
    else:
        assert not (isinstance(where, list) or at in where) or where[at] != broken.value
        where[at] = broken.value


def index(where: Any, part: Any) -> Any:
    if isinstance(where, dict) or isinstance(part, int):
        return part
    names = [(entry["template"] if "name" not in entry else entry)["name"] for entry in where]  # a trigger's is inside
    return names.index(part)


def test_what_is_committed_breaks_no_rule(committed):
    assert list(lint.problems(committed)) == []
    assert len(committed.manifests) > 50
    assert {"Deployment", "PodDisruptionBudget"} <= {m.kind for m in committed.manifests if lint.RELEASES in m.file}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: f"{b.rule}-{b.told[:30]}")
def test_a_rule_stops_what_it_is_there_for(committed, broken):
    tree = copy.deepcopy(committed)
    change(tree, broken)
    (rule,) = (rule for rule in lint.RULES if rule.name == broken.rule)
    told = [f"{p.file}: {p.field}: {p.what} → {p.todo}" for _, p in lint.problems(tree, [rule])]
    assert any(broken.told in line for line in told), told


def test_a_kustomization_that_names_nothing_holds_no_object(committed):
    tree = copy.deepcopy(committed)
    (manifest,) = (m for m in tree.manifests if m.file == "argocd/install/kustomization.yaml")
    manifest.body["resources"] = []
    told = [problem.what for _, problem in lint.problems(tree, [r for r in lint.RULES if r.name == "paths"])]
    assert told == ["argocd/install/ holds no object"]


def test_upstreams_crds_are_guarded(committed):
    tree = copy.deepcopy(committed)
    (manifest,) = (m for m in tree.manifests if m.file == "argocd/install/kustomization.yaml")
    manifest.body["patches"].pop()
    ((_, problem),) = lint.problems(tree, [r for r in lint.RULES if r.name == "guarded"])
    assert "would delete upstream's CRDs" in problem.what


def test_each_rule_has_something_that_it_stops():
    assert [rule.name for rule in lint.RULES] == list(dict.fromkeys(broken.rule for broken in BROKEN))


def test_each_exception_is_needed(committed):
    found = {(rule.name, problem.file, problem.field) for rule in lint.RULES for problem in rule.check(committed)}
    assert found == set(lint.EXCEPTIONS)


def test_no_pipeline_has_a_secret_that_it_does_not_use(committed):
    used = {(namespace, name) for _, _, namespace, name, _ in lint._secret_uses(committed)}
    known = secret_values.places(settings.load(ROOT / "platform.yaml"))
    given = {(place.namespace, place.secret) for place in known if place.namespace in RUNS}
    assert given - used == set()


def test_the_command_says_where_what_and_the_next_step(committed, monkeypatch, capsys):
    tree = copy.deepcopy(committed)
    monkeypatch.setattr(lint, "load", lambda: tree)
    assert lint.main() == 0
    change(tree, next(broken for broken in BROKEN if broken.rule == "secret-data"))
    assert lint.main() == 1
    told = capsys.readouterr().err
    assert told.startswith(
        "mlops/accounts/mlops-build-accounts.yaml: data: a secret in Git [secret-data]\n  → remove it"
    )


def test_outside_git_it_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "versions.yaml").write_text((ROOT / "versions.yaml").read_text())
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(YardError, match="not a git repository"):
        lint.load(tmp_path)
