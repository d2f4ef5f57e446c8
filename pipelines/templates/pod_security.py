"""What Kubernetes' Pod Security standards would say of a pod: https://kubernetes.io/docs/concepts/security/pod-security-standards/

Only what our pods may have is judged; a field of a securityContext that stands in no table here is an offence too, so
that nothing passes unread. What opens the node (host paths, ports, namespaces, privileged) has a lint rule of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]

LEVELS = ("baseline", "restricted")
# what a container has anyway, and may therefore ask for
_DEFAULT_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP"),
    *("SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"),
    "secret",
}
_KNOWN = {
    *("allowPrivilegeEscalation", "capabilities", "fsGroup", "fsGroupChangePolicy", "privileged", "runAsGroup"),
    *("readOnlyRootFilesystem", "runAsNonRoot", "runAsUser", "seccompProfile"),
}


def offences(level: str, spec: Body, containers: list[tuple[str, Body]]) -> Iterator[tuple[str, str]]:
    """(field, what is wrong) of each. `spec` is the pod's but for its containers, which come with their fields."""
    whole = spec.get("securityContext", {})
    yield from (("securityContext", what) for what in _anywhere(whole))
    for field, container in containers:
        own = container.get("securityContext", {})
        at = f"{field}.securityContext"
        yield from ((at, what) for what in _anywhere(own))
        if level == "restricted":
            yield from ((at, what) for what in _restricted(whole | own, own))
    if level == "restricted":
        for volume in spec.get("volumes", []):
            for kind in sorted(volume.keys() - {"name"} - _VOLUMES):
                yield f"volumes[{volume['name']}]", f"a volume of type {kind}"


def _anywhere(context: Body) -> Iterator[str]:
    """What no level but `privileged` takes."""
    yield from (f"{key}: not judged" for key in sorted(context.keys() - _KNOWN))
    added = set(context.get("capabilities", {}).get("add", []))
    yield from (f"capabilities.add: {name}" for name in sorted(added - _DEFAULT_CAPABILITIES))
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile: every system call"


def _restricted(context: Body, own: Body) -> Iterator[str]:
    """`context`: as it holds for the container; `own`: what only a container can say."""
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "runAsNonRoot: may be root"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation: may gain rights"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities: keeps some"
    if "seccompProfile" not in context:
        yield "seccompProfile: not set"
