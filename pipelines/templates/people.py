"""What people may do in the Argo UI, and with its API: four service accounts, which a login's groups or a token stand
for.

RIGHTS is the table. Each row holds for the roles from its own on. Nobody may start a command in a pod, or read a Secret
but that of the scratch bucket: the Argo Server reads the logs of pods that are gone with the rights of who asks.
Templates, Sensors and schedules come from Git, so nobody changes them here.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pipelines.platform import Login, Platform
from pipelines.templates.namespaces import RUNS

Manifest = dict[str, Any]

HOME = "argo"  # where the Argo Server looks for accounts
ROLES = ("viewer", "trainer", "approver", "admin")  # from the fewest rights to the most
READ = ("get", "list", "watch")
PIPELINES = tuple(name for name in RUNS if name != "mlops-release")
RBAC = {"apiVersion": "rbac.authorization.k8s.io/v1"}


class Right(NamedTuple):
    role: str  # the first that has it
    namespaces: tuple[str, ...]
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()


def rights(platform: Platform) -> list[Right]:
    """The table. A start is `create`; stop, suspend, resume are `patch` or `update`; a retry deletes failed pods."""
    table = [
        Right("viewer", RUNS, "argoproj.io", ("workflows", "workflowtemplates", "cronworkflows"), READ),
        Right("viewer", RUNS, "", ("pods", "pods/log", "events"), READ),
        Right("viewer", ("argo-events",), "argoproj.io", ("eventbus", "eventsources", "sensors"), READ),
        Right("viewer", ("argo-events",), "", ("pods", "pods/log"), READ),
        Right("trainer", PIPELINES, "argoproj.io", ("workflows",), ("create", "update", "patch")),
        Right("trainer", PIPELINES, "", ("pods",), ("delete",)),
        # releases: by hand, or once more
        Right("approver", ("mlops-release",), "argoproj.io", ("workflows",), ("create", "update", "patch")),
        Right("approver", ("mlops-release",), "", ("pods",), ("delete",)),
        Right("admin", RUNS, "argoproj.io", ("workflows",), ("delete",)),
        # suspending a schedule, which Argo CD takes back at its next sync
        Right("admin", RUNS, "argoproj.io", ("cronworkflows",), ("update", "patch")),
    ]
    if not platform.endpoints.STORAGE_URL:
        # not for viewers: whoever can read this key can write to the bucket
        table.append(Right("trainer", RUNS, "", ("secrets",), ("get",), ("scratch",)))
    return table


def manifests(platform: Platform) -> list[Manifest]:
    """The accounts, and their Roles in each namespace."""
    made: list[Manifest] = []
    for role in ROLES:
        made += _account(role, platform.login)
    for namespace in sorted({where for right in rights(platform) for where in right.namespaces}):
        for role in ROLES:
            rules = rules_of(platform, role, namespace)
            if rules:
                made += _grant(role, namespace, rules)
    return made


def rules_of(platform: Platform, role: str, namespace: str) -> list[Manifest]:
    """The rules of the Role of that name in a namespace: all that it may there, what lesser roles may included."""
    return [
        {
            "apiGroups": [right.group],
            "resources": list(right.resources),
            **({"resourceNames": list(right.names)} if right.names else {}),
            "verbs": list(right.verbs),
        }
        for right in rights(platform)
        if namespace in right.namespaces and ROLES.index(right.role) <= ROLES.index(role)
    ]


def _account(role: str, login: Login | None) -> list[Manifest]:
    """With a login, the groups that it stands for and the token that the Argo Server then uses; without, people ask
    for a token of their own, which ends.
    """
    groups: list[str] = getattr(login, role) if login else []
    annotations = {
        "workflows.argoproj.io/rbac-rule": " || ".join(f"{json.dumps(group)} in groups" for group in groups),
        "workflows.argoproj.io/rbac-rule-precedence": str(ROLES.index(role)),
    }
    meta: Manifest = {"name": role, "namespace": HOME, **({"annotations": annotations} if groups else {})}
    made = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}]
    if groups:
        token = {
            "name": f"{role}.service-account-token",
            "namespace": HOME,
            "annotations": {"kubernetes.io/service-account.name": role},
        }
        made.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": token, "type": "kubernetes.io/service-account-token"}
        )
    return made


def _grant(role: str, namespace: str, rules: list[Manifest]) -> list[Manifest]:
    meta = {"name": role, "namespace": namespace}
    return [
        {**RBAC, "kind": "Role", "metadata": meta, "rules": rules},
        {
            **RBAC,
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": HOME}],
        },
    ]


def server_rights() -> list[Manifest]:
    """What the Argo Server itself may in the whole cluster: keep lists of what it shows. It acts with the rights of who
    asks; upstream's could read every Secret, start Workflows and commands in pods.
    """
    kinds = ["workflows", "workflowtemplates", "clusterworkflowtemplates", "cronworkflows"]
    return [
        {"apiGroups": ["argoproj.io"], "resources": kinds, "verbs": list(READ)},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": list(READ)},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ]


def server_secrets(platform: Platform) -> list[Manifest]:
    """The Secrets that the Argo Server reads for itself: the database's, the login's, and the accounts' tokens."""
    names = ["archive-app"] if platform.addons.postgresql else []
    if platform.login:
        tokens = (f"{role}.service-account-token" for role in ROLES if getattr(platform.login, role))
        names += ["argo-sso", "sso", *tokens]
    if not names:
        return []
    rules: list[Manifest] = [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]}]
    if platform.login:
        # `sso`, the key of the sessions, which it makes itself; no rule can give a name to what is created
        rules.append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]})
    return _grant("argo-server", HOME, rules)
