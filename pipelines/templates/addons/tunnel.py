"""The add-on `tunnel`: webhooks reach a box without a public address through a Cloudflare tunnel.

One way in, and no other: `hooks.<domain>` to the EventSource that hears the Git host. A person makes the tunnel with
`cloudflared tunnel create`: the routes of one that is made in Cloudflare's dashboard would come from there, not from
Git.
"""

from __future__ import annotations

from pipelines.platform import Platform
from pipelines.templates import namespaces
from pipelines.templates._parts import Images
from pipelines.templates.addons import _objects as k
from pipelines.templates.addons._addon import Addon, Manifest, Pins

NAME = "tunnel"
METRICS = 2000
HOOKS = 12000  # where the EventSources `github` and `gitlab` listen
TOKEN = "/var/run/tunnel"  # noqa: S105 - a folder
CONFIG = "/etc/cloudflared"


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    return {
        "kustomization.yaml": [k.kustomization("namespace.yaml", "tunnel.yaml")],
        "namespace.yaml": namespaces.manifests(NAME),
        "tunnel.yaml": [
            k.from_namespaces(NAME, NAME, {}, {"monitoring": [METRICS]}),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": k.meta(NAME, NAME),
                "data": {"config.yaml": _routes(platform)},
            },
            k.deployment(NAME, NAME, _pod(pins.images["cloudflared"])),
        ],
    }


def _routes(platform: Platform) -> str:
    source = platform.git.provider
    return (
        f"# what else is asked for gets 404\n"
        f"ingress:\n"
        f"- hostname: {platform.host('hooks')}\n"
        f"  service: http://{source}-eventsource-svc.argo-events.svc:{HOOKS}\n"
        f"- service: http_status:404\n"
    )


def _pod(image: str) -> Manifest:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": k.pod_security(),
        "containers": [
            {
                "name": NAME,
                "image": image,
                "command": ["cloudflared"],
                "args": [
                    "tunnel",
                    "--no-autoupdate",  # versions.yaml says which version runs
                    f"--config={CONFIG}/config.yaml",
                    f"--metrics=0.0.0.0:{METRICS}",
                    "run",
                    f"--token-file={TOKEN}/token",
                ],
                "ports": [{"name": "metrics", "containerPort": METRICS}],
                # ready: there is a connection to Cloudflare. Without one a restart helps no more than waiting does
                "readinessProbe": k.probe("/ready", "metrics"),
                "livenessProbe": k.probe("/metrics", "metrics", failures=6),
                "resources": k.resources("20m", "64Mi", "128Mi"),
                "securityContext": k.closed(),
                "volumeMounts": [
                    {"name": "config", "mountPath": CONFIG, "readOnly": True},
                    {"name": "token", "mountPath": TOKEN, "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": NAME}},
            {"name": "token", "secret": {"secretName": NAME}},
        ],
    }


ADDON = Addon(
    NAME,
    files,
    destination=NAME,
    namespaces=(NAME,),
    wave=1,
    unchecked="the tunnel itself: it needs an account at Cloudflare",
)
