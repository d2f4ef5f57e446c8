"""ci: from a commit to a tested image, named by its digest.

claim, checkout ▸ validate ▸ build ▸ test, sbom ▸ built

It has a namespace of its own: a Workflow lives in one, and Kaniko's pod passes no policy but `baseline`.
Claim and checkout run side by side: a duplicate costs one checkout more, and every push saves a pod's time.
"""

from __future__ import annotations

from hera.workflows import DAG, Artifact, Container, Parameter, Task, WorkflowTemplate
from hera.workflows import models as m

from pipelines.platform import Platform
from pipelines.steps._step import OUTPUTS
from pipelines.steps.claim import claim
from pipelines.steps.emit import built, status
from pipelines.steps.sbom import sbom
from pipelines.steps.source import checkout, validate_config
from pipelines.templates import _parts as p

SERVICE = ("service", "repo", "branch", "sha", "attempt", "delivery")
DEFAULTS = {"attempt": "1"}
CLAIM = "{{workflow.parameters.service}}/{{workflow.parameters.sha}}-{{workflow.parameters.attempt}}"


def arguments(*names: str) -> list[Parameter]:
    return [Parameter(name=name, value=DEFAULTS[name]) if name in DEFAULTS else Parameter(name=name) for name in names]


def template(images: p.Images, platform: Platform) -> WorkflowTemplate:
    to_host = p.platform("status", status, images, p.REGISTRY, p.GIT_STATUS, minutes=2)
    with p.pipeline("ci", "mlops-build", arguments(*SERVICE), status=to_host, minutes=120) as workflow:
        claims = p.platform("claim", claim, images, p.REGISTRY)
        checks_out = p.platform("checkout", checkout, images, p.GIT_READ)
        validates = p.platform("validate", validate_config, images)
        builds = _kaniko(images, platform)
        tests = p.user("test", params=False)
        lists = p.platform("sbom", sbom, images, p.REGISTRY_PUSH, p.REGISTRY_CA)
        announces = p.platform("built", built, images, p.STAGES)
        exit_handler("ci", to_host, claim=CLAIM)
        with DAG(name="main"):
            claimed = Task(
                name="claim",
                template=claims,
                arguments=p.inputs("service", "sha", "attempt", pipeline="ci", owner="{{workflow.uid}}"),
            )
            source = Task(
                name="checkout",
                template=checks_out,
                arguments=p.inputs("repo", "sha"),
            )
            valid = Task(
                name="validate",
                template=validates,
                arguments=[*p.inputs("service"), p.artifact("source", source)],
                depends="claim.Succeeded && checkout.Succeeded",
                when=f"{p.out(claimed, 'claimed')} == true",
            )
            image = Task(
                name="build",
                template=builds,
                arguments=[
                    *p.inputs("repo", "sha", dockerfile=p.out(valid, "dockerfile")),
                    p.artifact("source", source),
                ],
                depends="validate.Succeeded",
            )
            Task(
                name="test",
                template=tests,
                arguments=p.inputs(
                    image=p.out(image, "image"),
                    command=p.out(valid, "test_command"),
                    timeout=p.out(valid, "test_timeout"),
                ),
                depends="build.Succeeded",
            )
            Task(
                name="sbom", template=lists, arguments=p.inputs(image=p.out(image, "image")), depends="build.Succeeded"
            )
            Task(
                name="built",
                template=announces,
                arguments=p.inputs(*SERVICE, image=p.out(image, "image"), config=p.out(valid, "config")),
                depends="test.Succeeded && sbom.Succeeded",
            )
    return workflow


def exit_handler(pipeline: str, to_host: Container, *, claim: str = "", sha: str = "sha") -> None:
    """A DAG named `exit` that tells the Git host how the Workflow ended; `sha` is the parameter with the commit."""
    with DAG(name="exit"):
        Task(
            name="status",
            template=to_host,
            arguments=p.inputs(
                "repo",
                pipeline=pipeline,
                sha=f"{{{{workflow.parameters.{sha}}}}}",
                state="{{workflow.status}}",
                namespace="{{workflow.namespace}}",
                workflow="{{workflow.name}}",
                claim=claim,
                owner="{{workflow.uid}}",
            ),
        )


def _kaniko(images: p.Images, platform: Platform) -> Container:
    """Kaniko takes the pod apart while it builds, so it alone runs as root with a writable root; it has no token,
    and of our credentials the registry's login alone.
    """
    return Container(
        name="build",
        image=images.kaniko,
        command=["/kaniko/executor"],
        args=[
            "--context=dir:///workspace",
            "--dockerfile={{inputs.parameters.dockerfile}}",
            "--destination=$(REGISTRY)/{{=lower(inputs.parameters.repo)}}:{{inputs.parameters.sha}}",
            "--cache=true",
            "--cache-repo=$(REGISTRY)/cache/{{=lower(inputs.parameters.repo)}}",
            # not --reproducible: it packs every layer again, the base's, too: a minute and 2.7 GB for digits
            *_registry_flags(platform),
            f"--image-name-with-digest-file={OUTPUTS}/image",
        ],
        env_from=[m.EnvFromSource(config_map_ref=m.ConfigMapEnvSource(name="endpoints"))],
        inputs=[
            Parameter(name="repo"),
            Parameter(name="sha"),
            Parameter(name="dockerfile"),
            Artifact(name="source", path="/workspace"),
        ],
        outputs=[Parameter(name="image", value_from=m.ValueFrom(path=f"{OUTPUTS}/image"))],
        volumes=[
            m.Volume(name="outputs", empty_dir=m.EmptyDirVolumeSource()),
            m.Volume(
                name="registry-push",
                secret=m.SecretVolumeSource(
                    secret_name="registry-push",  # noqa: S106 - a name
                    optional=True,
                    items=[m.KeyToPath(key=".dockerconfigjson", path="config.json")],
                ),
            ),
            p.secret_volume(p.REGISTRY_CA),
        ],
        volume_mounts=[
            m.VolumeMount(name="outputs", mount_path=OUTPUTS),
            m.VolumeMount(name="registry-push", mount_path="/kaniko/.docker", read_only=True),
            m.VolumeMount(name=p.REGISTRY_CA.secret, mount_path=f"/kaniko/{p.REGISTRY_CA.secret}", read_only=True),
        ],
        pod_spec_patch='{"securityContext": {"runAsNonRoot": false, "runAsUser": 0, "runAsGroup": 0}}',
        security_context=m.SecurityContext(run_as_non_root=False, run_as_user=0, run_as_group=0),
        resources=p.resources("500m", "1Gi", "4Gi"),
        retry_strategy=p.RETRY_LOST,
        active_deadline_seconds=3600,
        labels=p.reaches("registry", "internet"),
    )


def _registry_flags(platform: Platform) -> list[str]:
    """What Kaniko must be told of a mirror, and of a registry that speaks plain HTTP or that our own CA vouches for."""
    ends = platform.endpoints
    flags = [f"--registry-mirror={ends.REGISTRY_MIRROR}"] if ends.REGISTRY_MIRROR else []
    host = ends.REGISTRY.partition("/")[0]
    if platform.own_registry_ca:
        flags.append(f"--registry-certificate={host}=/kaniko/{p.REGISTRY_CA.secret}/{p.REGISTRY_CA.key}")
    if ends.REGISTRY_URL.startswith("http://"):
        flags += ["--insecure", "--insecure-pull", f"--insecure-registry={host}"]
    return flags
