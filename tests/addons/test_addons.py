"""Add-ons: what is off has no Application; what is on has what it needs, and its manifests fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines import platform as settings
from pipelines.errors import YardError
from pipelines.secret_values import needed, places
from pipelines.templates import addons, render
from pipelines.templates._parts import Images

ROOT = Path(__file__).parents[2]
ALL = {
    "harbor": True,
    "postgresql": True,
    "nfs": {"server": "nas.lan", "path": "/exports/ml"},
    "gpu": True,
    "monitoring": True,
    "storage": True,
    "tunnel": True,
    "backup": {"bucket": "acme-copies", "schedule": "15 4 * * *"},
}
VERSIONS = yaml.safe_load((ROOT / "versions.yaml").read_text())
PINS = addons.Pins.of(VERSIONS)
IMAGES = Images(**{name: VERSIONS["images"][name] for name in Images._fields})


def platform(**more) -> settings.Platform:
    body = {
        "apiVersion": "trainyard/v1",
        "domain": "ml.acme.org",
        "repository": "acme/box",
        "branch": "live",
        "releases": "acme/releases",
        "services": [{"repo": "acme/digits", "name": "digits", "environments": ["dev", "prod"]}],
        "nodes": [{"name": "box"}, {"name": "gpu-1", "gpu": True}],
    }
    return settings.load(yaml.safe_dump(body | more))


def files(given: settings.Platform):
    return addons.files(given, IMAGES, PINS)


def objects(given: settings.Platform, kind: str, name: str = ""):
    found = [body for part in files(given).values() for body in part if body.get("kind") == kind]
    return [body for body in found if name in ("", body["metadata"]["name"])]


def one(given: settings.Platform, kind: str, name: str):
    (found,) = objects(given, kind, name)
    return found


def pod(body):
    spec = body["spec"].get("jobTemplate", body)["spec"]
    return spec["template"]["spec"]


def test_every_option_of_platform_yaml_is_an_add_on_and_no_other():
    assert set(addons.ADDONS) == set(settings.Addons.model_fields)


def test_what_is_off_has_no_application():
    assert addons.on(platform()) == []
    assert [addon.name for addon in addons.on(platform(addons={"tunnel": True}))] == ["tunnel"]
    assert {addon.name for addon in addons.on(platform(addons=ALL))} == set(ALL)


ARCHIVE = {  # with a database Argo Workflows keeps what ran
    "argo-workflows/config/workflow-controller-configmap.yaml",
    "argo-workflows/install/kustomization.yaml",
    "argocd/applications/argo-workflows.yaml",
}


TUNNEL = {"namespaces/argo-events.yaml"}  # through which webhooks come in


@pytest.mark.parametrize(("name", "follows"), [("tunnel", TUNNEL), ("monitoring", set()), ("postgresql", ARCHIVE)])
def test_what_is_on_leaves_the_core_alone(name, follows, tmp_path):
    off, on = tmp_path / "off.yaml", tmp_path / "on.yaml"
    body = yaml.safe_load((ROOT / "platform.yaml").read_text())
    off.write_text(yaml.safe_dump(body))
    on.write_text(yaml.safe_dump(body | {"addons": {name: ALL[name]}}))
    before, after = render.render(off), render.render(on)
    outside = [path for path in before if not path.startswith(addons.OWNED)]
    project = "argocd/projects/platform.yaml"
    assert {path for path in outside if before[path] != after[path]} == {project, "docs/waves.md"} | follows
    was, now = yaml.safe_load(before[project]), yaml.safe_load(after[project])
    new = [where["namespace"] for where in now["spec"]["destinations"] if where not in was["spec"]["destinations"]]
    assert new == list(addons.ADDONS[name].namespaces)
    now["spec"]["destinations"] = [where for where in now["spec"]["destinations"] if where["namespace"] not in new]
    assert now == was  # the project of the platform gets the add-on's namespaces, and no more rights


@pytest.mark.parametrize("addon", addons.ADDONS.values(), ids=lambda addon: addon.name)
def test_an_add_on_makes_the_namespaces_that_it_names_and_lists_its_files(addon):
    given = platform(addons=ALL)
    made = {name: body for name, body in files(given).items() if name.startswith(f"applications/{addon.name}/")}
    everything = [body for part in made.values() for body in part]
    namespaces = {body["metadata"]["name"] for body in everything if body.get("kind") == "Namespace"}
    if addon.name == "postgresql":
        namespaces.add("cnpg-system")  # upstream's manifests make it
    assert namespaces == set(addon.namespaces)
    listed = made[f"applications/{addon.name}/kustomization.yaml"][0]["resources"]
    written = {name.rpartition("/")[2] for name in made} - {"kustomization.yaml", "values.yaml"}
    assert {name for name in listed if "//" not in name} == written
    assert (f"applications/{addon.name}/values.yaml" in made) == (addon.chart is not None)


@pytest.mark.parametrize("addon", addons.ADDONS.values(), ids=lambda addon: addon.name)
def test_an_application_reads_this_repository_and_a_pinned_chart(addon):
    given = platform(addons=ALL)
    here, *charts = addon.sources(given, PINS)
    assert here["repoURL"] == "https://github.com/acme/box.git"
    assert (here["targetRevision"], here["path"]) == ("live", f"applications/{addon.name}")
    for chart in charts:
        assert re.fullmatch(r"\d+\.\d+\.\d+", chart["targetRevision"])
        assert chart["helm"]["valueFiles"] == [f"$values/applications/{addon.name}/values.yaml"]
        assert here["ref"] == "values"


def test_a_site_without_internet_names_its_own_chart_repository_and_git():
    given = platform(addons=ALL, mirror={"charts": "https://charts.lan", "git": "http://git.lan"})
    assert addons.ADDONS["harbor"].sources(given, PINS)[1]["repoURL"] == "https://charts.lan"
    remote = [
        resource
        for part in files(given).values()
        for body in part
        if body.get("kind") == "Kustomization"
        for resource in body["resources"]
        if "//" in resource
    ]
    assert len(remote) == 2
    assert all(resource.startswith("http://git.lan/") for resource in remote)


def test_no_file_shares_a_part_with_itself():
    # PyYAML would write &id001 and *id001, which no reader of a manifest expects
    for name, text in render.render().items():
        if name.startswith(addons.OWNED):
            assert "&id0" not in text, name


@pytest.mark.parametrize("name", ["postgresql", "monitoring"])
def test_upstreams_folder_comes_from_the_mirror_in_the_way_of_the_core(name):
    given = platform(addons=ALL, mirror={"git": "http://git.lan"})
    (base,) = [
        entry for entry in files(given)[f"applications/{name}/kustomization.yaml"][0]["resources"] if "//" in entry
    ]
    # `.git//` is what docs/operations.md looks for when it fills a mirror
    assert re.match(r"http://git\.lan/[\w-]+/[\w-]+\.git//[\w/]*\?timeout=90&ref=v", base)


def test_each_pin_is_used():
    text = "\n".join(str(body) for part in files(platform(addons=ALL)).values() for body in part)
    for name in ("postgresql", "cloudflared", "prometheus", "alertmanager", "kube-state-metrics", "grafana"):
        assert PINS.images[name] in text, name
    for name in ("cloudnative-pg", "prometheus-operator"):
        assert f"ref=v{PINS.components[name]}" in text, name
    assert {addon.chart.name for addon in addons.ADDONS.values() if addon.chart} == set(PINS.charts)


# what names a Secret in a manifest or a chart's values, and what names its key beside it
NAMES = re.compile(r"(secretName|configSecret|existing\w*Secret\w*)")
MADE = ("CloudNativePG", "cert-manager", "Kubernetes")


def named(node, at=""):
    """(Secret, key) in a manifest; a key of "" is any."""
    if isinstance(node, list):
        for entry in node:
            yield from named(entry, at)
        return
    if not isinstance(node, dict):
        return
    if at in ("secretKeyRef", "credentials") and {"name", "key"} <= node.keys():
        yield node["name"], node["key"]
    for key, value in node.items():
        if isinstance(value, str) and NAMES.fullmatch(key) and not key.endswith("Key"):
            yield value, node.get(f"{key}Key", "")
        elif isinstance(value, str) and key == "existingSecretSecretKey":  # the chart's name for a Secret
            yield value, "secretKey"
        yield from named(value, key)


def test_every_secret_that_an_add_on_names_is_in_the_table_or_some_controller_makes_it():
    given = platform(addons=ALL)
    known = {tuple(place) for value in needed(given) for place in value.places(given)}
    for secret in addons.secrets():
        assert secret.maker in MADE
        assert not {name for name in known if name[:2] == (secret.namespace, secret.name)}, "it has two makers"
        known |= {(secret.namespace, secret.name, key) for key in secret.keys}
    known |= {(space, name, "") for space, name, _ in known}
    found = set()
    for file, bodies in files(given).items():
        addon = addons.ADDONS[file.split("/")[1]]
        for body in bodies:
            space = body.get("metadata", {}).get("namespace") or addon.destination
            found |= {(space, *use) for use in named(body)}
    assert found - known == set()
    # none is made for nothing: but for what Harbor's chart reads under keys that it names itself, and other namespaces
    unused = {name[:2] for name in known if name[0] in ("harbor", "monitoring", "tunnel", "storage")}
    assert unused - {name[:2] for name in found} == set()
    assert {key for _, secret, key in found if secret == "harbor-keys" and key} == {
        "CSRF_KEY",
        "JOBSERVICE_SECRET",
        "REGISTRY_HTTP_SECRET",
        "secretKey",
    }


def test_the_secrets_in_the_document_are_those_of_the_table():
    text = addons.markdown(PINS)
    for secret in addons.secrets():
        assert f"- Secret `{secret.name}` in {secret.namespace}, {secret.what}: {secret.maker} makes it" in text
    tunnel = text.partition("## tunnel")[2].partition("\n## ")[0]
    assert "- Secrets that a person supplies ([secrets.md](secrets.md)): `tunnel`" in tunnel
    assert "`harbor-keys`, `harbor-registry-login`, `harbor-robot`" in text


# ---- each


def test_the_nfs_class_is_never_the_default_and_keeps_what_is_in_it():
    found = one(platform(addons=ALL), "StorageClass", "nfs")
    assert found["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "false"
    assert found["parameters"]["server"] == "nas.lan"
    assert found["parameters"]["share"] == "/exports/ml"
    assert found["reclaimPolicy"] == "Retain"
    values = files(platform(addons=ALL))["applications/nfs/values.yaml"][0]
    assert values["storageClass"] == {"create": False}


def test_the_device_plugin_runs_on_the_nodes_with_a_gpu_and_on_no_other():
    values = files(platform(addons=ALL))["applications/gpu/values.yaml"][0]
    for part in (values, values["nfd"]["worker"]):
        (term,) = part["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert term["matchExpressions"] == [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["gpu-1"]}]
    assert values["gfd"]["enabled"] is True
    assert values["runtimeClassName"] == "nvidia"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"addons": {"gpu": True}, "nodes": [{"name": "box"}]}, "no node has a GPU"),
        ({"addons": {"backup": {"bucket": "acme-copies"}}}, "there is no database to copy"),
        ({"addons": {"harbor": True}}, "harbor needs a database"),
    ],
)
def test_an_add_on_that_cannot_work_is_refused(wrong, told):
    with pytest.raises(YardError, match=told):
        platform(**wrong)


def test_a_database_has_three_instances_where_three_nodes_are():
    small, large = platform(addons=ALL), platform(addons=ALL, nodes=[{"name": n, "gpu": True} for n in "abc"])
    for name, space in (("archive", "argo"), ("harbor", "harbor")):
        database = one(small, "Cluster", name)
        assert database["metadata"]["namespace"] == space
        assert (database["spec"]["instances"], database["spec"]["enablePDB"]) == (1, False)
        database = one(large, "Cluster", name)
        assert (database["spec"]["instances"], database["spec"]["enablePDB"]) == (3, True)


def test_the_databases_are_not_taken_away_without_a_person():
    for database in objects(platform(addons=ALL), "Cluster"):
        options = database["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]
        assert set(options.split(",")) == {"Delete=confirm", "Prune=confirm"}


def test_harbor_is_given_each_secret_that_its_chart_would_make():
    values = files(platform(addons=ALL))["applications/harbor/values.yaml"][0]
    table = {place.secret for place in places(platform(addons=ALL)) if place.namespace == "harbor"}
    told = table | {secret.name for secret in addons.secrets() if secret.namespace == "harbor"}
    given = {
        values["existingSecretAdminPassword"],
        values["existingSecretSecretKey"],
        values["core"]["existingSecret"],
        values["core"]["existingXsrfSecret"],
        values["core"]["secretName"],
        values["jobservice"]["existingSecret"],
        values["registry"]["existingSecret"],
        values["registry"]["credentials"]["existingSecret"],
        values["database"]["external"]["existingSecret"],
        values["expose"]["tls"]["secret"]["secretName"],
    }
    assert given <= told
    assert values["expose"]["tls"]["certSource"] == "secret"
    assert values["externalURL"] == "https://harbor.ml.acme.org"
    assert values["database"]["external"]["host"] == "harbor-rw.harbor.svc"


def test_harbors_project_is_where_images_go():
    given = platform(addons=ALL, endpoints={"REGISTRY": "harbor.ml.acme.org/models"})
    nightly, after = one(given, "CronJob", "harbor-settings"), one(given, "Job", "harbor-settings-sync")
    for job in (nightly, after):
        assert "--project=models" in pod(job)["containers"][0]["args"]
    assert after["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PostSync"


@pytest.mark.parametrize("provider", ["github", "gitlab"])
def test_the_tunnel_leads_to_the_webhooks_and_nowhere_else(provider):
    config = one(platform(addons=ALL, git={"provider": provider}), "ConfigMap", "tunnel")["data"]["config.yaml"]
    assert yaml.safe_load(config)["ingress"] == [
        {"hostname": "hooks.ml.acme.org", "service": f"http://{provider}-eventsource-svc.argo-events.svc:12000"},
        {"service": "http_status:404"},
    ]


def test_each_database_is_copied_where_and_when_platform_yaml_says():
    given = platform(addons=ALL)
    for name in ("archive", "harbor"):
        job = one(given, "CronJob", f"backup-{name}")
        assert (job["spec"]["schedule"], job["spec"]["timeZone"]) == ("15 4 * * *", "Etc/UTC")
        assert job["metadata"]["namespace"] == one(given, "Cluster", name)["metadata"]["namespace"]
        environment = {entry["name"]: entry.get("value") for entry in pod(job)["containers"][0]["env"]}
        assert environment["BACKUP_BUCKET"] == "acme-copies"
        assert "STORAGE_URL" not in environment  # the store of a development cluster is on the same disk
    without = platform(addons=ALL | {"harbor": False})
    listed = files(without)["applications/backup/kustomization.yaml"][0]["resources"]
    assert listed == ["archive.yaml"]


def test_the_monitors_fit_the_pods_that_are_ours():
    given = platform(addons=ALL)
    found = {body["metadata"]["name"]: body["spec"] for body in objects(given, "PodMonitor")}
    assert found["serving"]["namespaceSelector"]["matchNames"] == ["digits-dev", "digits-prod"]
    for monitor, deployment in (("kube-state-metrics", "kube-state-metrics"), ("tunnel", "tunnel")):
        template = one(given, "Deployment", deployment)["spec"]["template"]
        assert found[monitor]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for c in template["spec"]["containers"] for port in c["ports"]}
        assert found[monitor]["podMetricsEndpoints"][0]["port"] in ports
    selector = one(given, "Prometheus", "prometheus")["spec"]["podMonitorSelector"]["matchLabels"].items()
    assert all(selector <= body["metadata"]["labels"].items() for body in objects(given, "PodMonitor"))


def test_the_dashboard_is_one_that_grafana_takes():
    given = platform(addons=ALL)
    body = json.loads(one(given, "ConfigMap", "grafana")["data"]["trainyard.json"])
    taken = set()
    for panel in body["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not taken & cells
        taken |= cells
        assert panel["targets"][0]["datasource"]["uid"] == "prometheus"
    assert len({panel["id"] for panel in body["panels"]}) == len(body["panels"])
    sources = yaml.safe_load(one(given, "ConfigMap", "grafana")["data"]["datasources.yaml"])
    assert sources["datasources"][0]["uid"] == "prometheus"
