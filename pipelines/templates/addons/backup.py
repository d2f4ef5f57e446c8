"""The add-on `backup`: each database as a file in a bucket, on a schedule.

Nothing else of the box is a loss: what is deployed is in Git, models and data are in the registry's bucket, and Secrets
are where `yard secrets` has them. A dump says itself whether it is whole, and fits any PostgreSQL of this version or a
newer one. Old copies go by the bucket's lifecycle rule, for what may delete copies is not in the cluster.
"""

from __future__ import annotations

from pipelines.platform import Backup, Platform
from pipelines.templates import network
from pipelines.templates._parts import Images
from pipelines.templates.addons import _objects as k
from pipelines.templates.addons._addon import Addon, Manifest, Pins
from pipelines.templates.addons.harbor import NAME as HARBOR
from pipelines.templates.addons.postgresql import ARCHIVE, ARGO, PORT

NAME = "backup"
POSTGRES = 26  # the user of CloudNativePG's images
# whole, or the container fails: pg_restore reads the list of contents back
# k3s lets a new pod through a NetworkPolicy a moment after it starts; the Job's deadline ends the wait
READY = "until pg_isready --quiet --timeout=2; do sleep 1; done\n"
DUMP = f"""set -eu
{READY}pg_dump --format=custom --file="/dump/$PGDATABASE"
pg_restore --list "/dump/$PGDATABASE" >/dev/null
"""


def files(platform: Platform, images: Images, pins: Pins) -> dict[str, list[Manifest]]:
    given = platform.addons.backup or Backup(bucket=k.OFF)
    wanted = ["archive.yaml", *(["harbor.yaml"] if platform.addons.harbor else [])]
    return {
        "kustomization.yaml": [k.kustomization(*wanted)],
        "archive.yaml": [_job(given, images, pins, ARCHIVE, ARGO), _way(ARCHIVE, ARGO)],
        "harbor.yaml": [_job(given, images, pins, HARBOR, HARBOR), _way(HARBOR, HARBOR)],
    }


def _job(given: Backup, images: Images, pins: Pins, database: str, namespace: str) -> Manifest:
    login = f"{database}-app"
    dump = {
        "name": "dump",
        "image": pins.images["postgresql"],
        "command": ["sh", "-c"],
        "args": [DUMP],
        "env": [
            {"name": "PGHOST", "value": f"{database}-rw.{namespace}.svc"},
            {"name": "PGDATABASE", "value": database},
            {"name": "PGSSLMODE", "value": "require"},
            k.secret_env("PGUSER", login, "username"),
            k.secret_env("PGPASSWORD", login, "password"),
        ],
        "resources": k.resources("100m", "128Mi", "512Mi"),
        "securityContext": k.closed(),
        "volumeMounts": [{"name": "dump", "mountPath": "/dump"}],
    }
    pod = k.step_pod(
        images.pipelines,
        NAME,
        f"--file=/dump/{database}",
        f"--into=databases/{database}",
        env=[
            {"name": "BACKUP_BUCKET", "value": given.bucket},
            {"name": "BACKUP_CREDENTIALS", "value": "/var/run/backup/credentials"},
        ],
        initContainers=[dump],
        securityContext=k.pod_security(POSTGRES),
        mounts=[
            {"name": "dump", "mountPath": "/dump", "readOnly": True},
            {"name": NAME, "mountPath": "/var/run/backup", "readOnly": True},
        ],
        volumes=[
            {"name": "dump", "emptyDir": {"sizeLimit": "10Gi"}},
            {"name": NAME, "secret": {"secretName": NAME}},
        ],
    )
    return k.cron_job(f"{NAME}-{database}", namespace, given.schedule, pod, minutes=60)


def _way(database: str, namespace: str) -> Manifest:
    """It reaches the database and Google, and nobody calls it."""
    pods = {"matchLabels": k.selector(f"{NAME}-{database}")}
    base = network._to([network._pods({"cnpg.io/cluster": database})], PORT)
    store = network._to([network.OUTSIDE], 443)
    return k.from_namespaces(f"{NAME}-{database}", namespace, pods, {}, network._dns(), base, store)


ADDON = Addon(
    NAME,
    files,
    destination=ARGO,
    namespaces=(),
    wave=1,
    needs=("postgresql",),
)
