"""What every pipeline is made of: a platform step as a container, the user's own command as a container, and the
Workflow around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hera.workflows import Artifact, Container, Parameter, RawArtifact, Task, WorkflowTemplate
from hera.workflows import models as m
from hera.workflows.models.io.k8s.apimachinery.pkg.api.resource import Quantity
from hera.workflows.models.io.k8s.apimachinery.pkg.util.intstr import IntOrString

from pipelines.errors import Exit
from pipelines.manifests import GPU_LABEL, TRAIN_LABEL
from pipelines.steps._step import INPUTS, OUTPUTS, Step, signature

PYTHON = ["python", "-m", "pipelines.steps"]
USER = 65532
WEEK = 7 * 24 * 3600
USER_CODE = {"trainyard/code": "user"}  # label of the pods that run the user's own code
TO = "trainyard/to-"


def reaches(*places: str) -> dict[str, str]:
    """Labels that open the way to places beyond those that every pod reaches; network.py says what each is."""
    return {f"{TO}{place}": "yes" for place in places}


CLOSED = m.SecurityContext(
    allow_privilege_escalation=False,
    read_only_root_filesystem=True,
    capabilities=m.Capabilities(drop=["ALL"]),
)
NON_ROOT = m.PodSecurityContext(
    run_as_non_root=True,
    run_as_user=USER,
    run_as_group=USER,
    fs_group=USER,
    seccomp_profile=m.SeccompProfile(type="RuntimeDefault"),
)


class Images(NamedTuple):
    """The images that our templates name, by digest or exact version."""

    pipelines: str
    serving: str
    storage: str
    kaniko: str


class Credential(NamedTuple):
    """A Secret that a step needs: mounted as a file, its path in an environment variable, never its value. `place` is
    where it is good for, if not the object store, which every pod reaches.
    """

    secret: str
    key: str
    env: str
    place: str = ""
    optional: bool = False


REGISTRY = Credential("registry", "credentials", "REGISTRY_CREDENTIALS")
REGISTRY_PUSH = Credential("registry-push", ".dockerconfigjson", "REGISTRY_AUTH", "registry", optional=True)
# the CA of a registry whose certificate the cluster signed itself
REGISTRY_CA = Credential("registry-ca", "ca.crt", "REGISTRY_CA", optional=True)
SIGNING = Credential("signing", "key.pem", "SIGNING_KEY")
STAGES = Credential("stages-token", "token", "STAGES_TOKEN_FILE", "events")
GIT_READ = Credential("git-read", "token", "GIT_TOKEN_FILE", "git", optional=True)
GIT_WRITE = Credential("git-write", "token", "GIT_TOKEN_FILE", "git", optional=True)
GIT_STATUS = Credential("git-status", "token", "GIT_TOKEN_FILE", "git", optional=True)

# A pod that went: its node died (Error), it was killed, by hand or for its memory (SIGKILL), or it had to leave as its
# node was drained (SIGTERM). One whose time was over ends the same way, and would be over again.
LOST = (
    f"(lastRetry.status == 'Error' || lastRetry.exitCode in ['{128 + 9}', '{128 + 15}'])"
    " && !(lastRetry.message contains 'deadline')"
)

# a step is tried again only when trying again can help: the pod was lost, or something did not answer
RETRY = m.RetryStrategy(
    limit=IntOrString(root="3"),
    retry_policy="Always",
    expression=f"lastRetry.exitCode == '{int(Exit.UNAVAILABLE)}' || {LOST}",
    backoff=m.Backoff(duration="1s", factor=IntOrString(root="3"), max_duration="2m"),
)

# of the user's own code only a lost or killed pod is tried again: a failure of its own would fail again, and costs time
RETRY_LOST = m.RetryStrategy(
    limit=IntOrString(root="2"),
    retry_policy="Always",
    expression=LOST,
)


def platform(
    name: str, step: Step, images: Images, *credentials: Credential, minutes: int = 10, to: str = "", **more: Any
) -> Container:
    """A template that runs one of the platform's steps; inputs and outputs come from the function's signature. It
    reaches what its credentials are good for, and `to`.
    """
    wanted = signature(step)
    places = [place for place in (*(c.place for c in credentials), to) if place]
    tmp = [m.VolumeMount(name="tmp", mount_path="/tmp")]  # noqa: S108
    mounts = [m.VolumeMount(name=c.secret, mount_path=f"/var/run/{c.secret}", read_only=True) for c in credentials]
    return Container(
        name=name,
        image=images.pipelines,
        command=[*PYTHON, step.__name__.replace("_", "-")],
        args=[
            *(f"--{key}={{{{inputs.parameters.{key}}}}}" for key in wanted.parameters),
            *(f"--{key}={INPUTS}/{key}" for key in wanted.inputs),
            *(f"--{key}={OUTPUTS}/{key}" for key in wanted.outputs),
            *([f"--outputs={OUTPUTS}"] if wanted.results else []),
        ],
        env_from=[
            m.EnvFromSource(config_map_ref=m.ConfigMapEnvSource(name="endpoints")),
            m.EnvFromSource(config_map_ref=m.ConfigMapEnvSource(name="platform")),
        ],
        env=[m.EnvVar(name=c.env, value=f"/var/run/{c.secret}/{c.key}") for c in credentials],
        inputs=[
            *(Parameter(name=key) for key in wanted.parameters),
            *(Artifact(name=key, path=f"{INPUTS}/{key}") for key in wanted.inputs),
        ],
        outputs=[
            *(Parameter(name=key, value_from=m.ValueFrom(path=f"{OUTPUTS}/{key}")) for key in wanted.results),
            *(Artifact(name=key, path=f"{OUTPUTS}/{key}") for key in wanted.outputs),
        ],
        volumes=[secret_volume(c) for c in credentials],
        volume_mounts=[*tmp, *mounts],
        resources=resources("100m", "256Mi", "1Gi"),
        security_context=CLOSED,
        retry_strategy=RETRY,
        active_deadline_seconds=minutes * 60,
        labels=reaches(*places) or None,
        **more,
    )


def user(
    name: str,
    *,
    inputs: Sequence[str] = (),
    output: str | None = None,
    env: dict[str, str] | None = None,
    params: bool = True,
    workdir: str | None = None,
    patch: bool = False,
    source: str = "",
    **more: Any,
) -> Container:
    """A template that runs the user's own command in the user's own image: no token, no credentials, no root.

    Artifacts lie at the directories that `env` names (that of the output is there, empty); the parameters file holds
    `{"seed": …, "params": {…}}`.
    """
    variables = dict(env or {})
    artifacts: list[Artifact] = [Artifact(name=key, path=f"{INPUTS}/{key}") for key in inputs]
    parameters = [Parameter(name="image"), Parameter(name="command"), Parameter(name="timeout")]
    if params:
        parameters.append(Parameter(name="params"))
        variables["PARAMS_FILE"] = f"{INPUTS}/params.json"
        artifacts.append(RawArtifact(name="params", path=f"{INPUTS}/params.json", data="{{inputs.parameters.params}}"))
    if patch:
        parameters.append(Parameter(name="patch"))
        more["pod_spec_patch"] = "{{inputs.parameters.patch}}"
    return Container(
        name=name,
        image="{{inputs.parameters.image}}",
        command=["sh", "-c"],
        args=[(f"mkdir -p {OUTPUTS}/{output}\n" if output else "") + "{{inputs.parameters.command}}"],
        env=[
            m.EnvVar(name="HOME", value="/tmp"),  # noqa: S108
            *(m.EnvVar(name=key, value=value) for key, value in variables.items()),
        ],
        inputs=[*parameters, *artifacts],
        outputs=[Artifact(name=output, path=f"{OUTPUTS}/{output}")] if output else None,
        volume_mounts=[m.VolumeMount(name="tmp", mount_path="/tmp")],  # noqa: S108
        resources=None if patch else resources("500m", "512Mi", "2Gi"),
        security_context=CLOSED,
        retry_strategy=RETRY_LOST,
        active_deadline_seconds="{{inputs.parameters.timeout}}",
        labels=USER_CODE,
        **more,
    )


def pipeline(
    name: str, namespace: str, parameters: Sequence[Parameter], *, status: Container | None, minutes: int, **more: Any
) -> WorkflowTemplate:
    """The WorkflowTemplate of one pipeline; with `status` its end is told to the Git host, whatever the end was."""
    return WorkflowTemplate(
        name=name,
        namespace=namespace,
        entrypoint="main",
        on_exit="exit" if status else None,
        arguments=list(parameters),
        service_account_name="pipeline",
        automount_service_account_token=False,
        executor=m.ExecutorConfig(service_account_name="executor"),
        security_context=NON_ROOT,
        active_deadline_seconds=minutes * 60,
        ttl_strategy=m.TTLStrategy(seconds_after_completion=WEEK),
        pod_gc=m.PodGC(strategy="OnPodCompletion"),
        affinity=nodes(),
        archive_logs=True,
        volumes=[m.Volume(name="tmp", empty_dir=m.EmptyDirVolumeSource())],
        workflow_metadata=m.WorkflowMetadata(labels={"trainyard/pipeline": name}),
        **more,
    )


def inputs(*names: str, **values: str) -> list[Parameter]:
    """Arguments taken from the Workflow's parameters of the same names, then those given."""
    own = [Parameter(name=name, value=f"{{{{workflow.parameters.{name}}}}}") for name in names]
    return [*own, *(Parameter(name=name, value=value) for name, value in values.items())]


def out(task: Task | str, name: str) -> str:
    """The tag of a task's output parameter."""
    return f"{{{{tasks.{task if isinstance(task, str) else task.name}.outputs.parameters.{name}}}}}"


def artifact(name: str, task: Task | str, output: str | None = None) -> Artifact:
    """An artifact argument taken from a task's output of the same name, or of `output`."""
    source = task if isinstance(task, str) else task.name
    return Artifact(name=name, from_=f"{{{{tasks.{source}.outputs.artifacts.{output or name}}}}}")


def nodes(*, gpu: bool = False) -> m.Affinity:
    """Where a pipeline's pods may run: not on nodes that only serve; with a GPU, or rather not beside one."""
    allowed = m.NodeSelectorRequirement(key=TRAIN_LABEL, operator="NotIn", values=["false"])
    with_gpu = m.NodeSelectorRequirement(key=GPU_LABEL, operator="Exists")
    without = m.NodeSelectorRequirement(key=GPU_LABEL, operator="DoesNotExist")
    term = m.NodeSelectorTerm(match_expressions=[allowed, *([with_gpu] if gpu else [])])
    rather = m.PreferredSchedulingTerm(weight=100, preference=m.NodeSelectorTerm(match_expressions=[without]))
    return m.Affinity(
        node_affinity=m.NodeAffinity(
            required_during_scheduling_ignored_during_execution=m.NodeSelector(node_selector_terms=[term]),
            preferred_during_scheduling_ignored_during_execution=None if gpu else [rather],
        )
    )


def resources(cpu: str, memory: str, limit: str) -> m.ResourceRequirements:
    return m.ResourceRequirements(
        requests={"cpu": Quantity(root=cpu), "memory": Quantity(root=memory)}, limits={"memory": Quantity(root=limit)}
    )


def secret_volume(c: Credential) -> m.Volume:
    """That key of the Secret, and no other."""
    items = [m.KeyToPath(key=c.key, path=c.key)]
    source = m.SecretVolumeSource(secret_name=c.secret, items=items, optional=True if c.optional else None)
    return m.Volume(name=c.secret, secret=source)
