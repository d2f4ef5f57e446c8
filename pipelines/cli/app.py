"""The commands of `yard`. Each imports what it needs when it runs: `yard check` does not wait for an HTTP client."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from pipelines.errors import Exit, YardError

GROUP = "trainyard.commands"

# \\b keeps the lines as they are
ENVIRONMENT = """
\b
Without --server, commands speak to the solo of this checkout. For a cluster, from the environment:
  ARGO_SERVER                the Argo Server, such as https://argo.example.com or localhost:2746
  ARGO_TOKEN                 its token, "Bearer ...", for nobody else
  ARGO_INSECURE_SKIP_VERIFY  true: do not check its certificate (a port-forward, a self-signed one)
  SSL_CERT_FILE              better than that: the certificates to trust, a PEM file
  KUBERNETES_URL             the Kubernetes API, for trace (`kubectl proxy`: http://127.0.0.1:8001)
  KUBERNETES_TOKEN           its token, if it wants one
  TRAINYARD_PLATFORM         another platform.yaml than the checkout's
Each address in platform.yaml's endpoints can be set by its name, as REGISTRY_CREDENTIALS can (for models)
and REGISTRY_AUTH (a Docker config.json, for verify-image; without it, your own).
"""

Server = Annotated[str, typer.Option("--server", envvar="ARGO_SERVER", help="Argo Server; without it, solo's.")]
Service = Annotated[str, typer.Option("--service", help="Only this service.")]
Sha = Annotated[str, typer.Argument(metavar="SHA", help="A commit: full, abbreviated, or a name such as HEAD.")]

app = typer.Typer(
    help="From git push to a deployed model: what ran, what it said, what serves.",
    epilog=ENVIRONMENT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

environments = typer.Typer(help="The environments of the services.", no_args_is_help=True)
app.add_typer(environments, name="env")


def run(argv: list[str]) -> int:
    """Parse and run one command line; returns the exit code."""
    _mount(argv)
    try:
        result = get_command(app).main(argv, prog_name="yard", standalone_mode=False)
    except TyperException as error:
        error.show()  # type: ignore[attr-defined]  # every one that parsing raises has it
        return error.exit_code
    except SystemExit as error:
        # typer turns a BrokenPipeError into this
        return 141 if error.code == 1 else Exit.BUG
    return result if isinstance(result, int) else Exit.OK


def _mount(argv: list[str]) -> None:
    """Add the commands that other packages offer; a package is imported only for its own command or the list of all."""
    own = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    words = [word for word in argv if not word.startswith("-")]
    for point in entry_points(group=GROUP):
        if not words or point.name == words[0]:
            if point.name in own:
                raise YardError(f"the command {point.name!r} exists already", where=point.value, code=Exit.CONFLICT)
            group = _load(point, asked=bool(words))
            if group is not None:
                app.add_typer(group, name=point.name)


def _load(point: EntryPoint, *, asked: bool) -> typer.Typer | None:
    try:
        group = point.load()
    except ImportError as error:
        if not asked:
            return None
        todo = f"pip install 'trainyard[{point.name}]'"
        raise YardError(f"`yard {point.name}` needs {error.name}", todo=todo, code=Exit.NOT_FOUND) from None
    if not isinstance(group, typer.Typer):
        raise TypeError(f"{point.value}: not a typer.Typer")
    return group


@app.command()
def runs(
    server: Server = "",
    service: Service = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
) -> None:
    """What ran and what is running."""
    from pipelines.cli import show
    from pipelines.cli.addresses import find
    from pipelines.cli.argo import Argo

    show.runs(Argo(find(server)), service, limit)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run, as `yard runs` names it.")],
    server: Server = "",
    step: Annotated[str, typer.Option("--step", "-s", help="Only this step.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """What the steps of a run printed."""
    from pipelines.cli.addresses import find
    from pipelines.cli.argo import Argo
    from pipelines.cli.logs import logs

    logs(Argo(find(server)), name, step, follow=follow)


@app.command()
def models(server: Server = "", service: Service = "") -> None:
    """The registered models of each service, and which one serves."""
    from pipelines.cli import show
    from pipelines.cli.addresses import find

    show.models(find(server), service)


@app.command()
def trace(sha: Sha, server: Server = "") -> None:
    """How far a commit came, link by link, and where it stopped."""
    from pipelines.cli.addresses import find
    from pipelines.cli.trace import trace

    trace(find(server), sha)


@environments.command("diff")
def env_diff(
    first: Annotated[str, typer.Argument(metavar="A", help="An environment: dev, stage or prod.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    server: Server = "",
    service: Service = "",
) -> int:
    """What differs between two environments: in mlops.yaml, and in what is released to them.

    Read from Git: the services' branches and the releases repository. Exit code 9 if anything differs.
    """
    from pipelines.cli.environments import diff

    return diff(server, first, second, service)


@app.command()
def rerun(sha: Sha, server: Server = "", service: Service = "") -> None:
    """Run a commit again on purpose, as a new attempt."""
    from pipelines.cli.addresses import find
    from pipelines.cli.rerun import rerun

    rerun(find(server), sha, service)


@app.command("verify-image")
def verify_image(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="HOST/NAME@sha256:…, or HOST/NAME:TAG.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", envvar="SIGNING_PUBLIC_KEY", help="The public key, in PEM; without it, solo's."),
    ] = None,
    server: Server = "",
) -> None:
    """Whether the platform released a model made with this image: its signature, and what software is in it."""
    from pipelines.cli.addresses import find
    from pipelines.cli.verify_image import verify_image

    verify_image(find(server), image, key)


@app.command()
def watch(
    words: Annotated[list[str], typer.Argument(metavar="[REPO] SHA", help="The commit to follow.")],
    server: Server = "",
    ref: Annotated[str, typer.Option("--ref", help="What was pushed, as in refs/heads/main.")] = "",
) -> int:
    """Follow a commit until it serves or stops: a line for every finished step.

    The exit code says how it ended: 0 deployed (or nothing to do), 7 refused by the gate, 8 taken back,
    9 the service's own code failed.
    """
    from pipelines.cli.addresses import find
    from pipelines.cli.watch import watch

    if len(words) > 2:
        raise YardError("expected [REPO] SHA", todo="yard watch --help", code=Exit.USAGE)
    return watch(find(server), words[0] if len(words) == 2 else "", words[-1], ref)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="mlops.yaml, or the directory it is in.")] = Path(),
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of mlops.yaml instead.")] = False,
) -> None:
    """Whether mlops.yaml is right: what the platform would say to a push."""
    from pipelines.cli.service import check
    from pipelines.config import schema as of_mlops_yaml

    if schema:
        print(json.dumps(of_mlops_yaml(), indent=2))
    else:
        check(path)


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A new directory; the service has its name.")],
) -> None:
    """Write a service that works at once into PATH, and say how to deploy it."""
    from pipelines.cli.service import new

    new(path)


@app.command()
def parity(
    workflows: Annotated[
        list[Path], typer.Argument(metavar="WORKFLOW…", help="Files with one Workflow each, or folders of them.")
    ],
    server: Annotated[str, typer.Option("--server", envvar="ARGO_SERVER", help="The cluster's Argo Server.")] = "",
    solo: Annotated[str, typer.Option("--solo", help="Solo's address; without it, that of this checkout.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where to run them, on both.")] = "mlops",
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds that one run may take.")] = 300,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
) -> int:
    """Run the same Workflows on solo and on a cluster, and compare what became of them.

    Nodes, types, phases, messages, inputs, outputs and more are compared; docs/solo.md lists what may differ. Exit code
    9 if anything else does. What is run is deleted afterwards.
    """
    from pipelines.cli.parity import parity

    return parity(workflows, server=server, solo=solo, namespace=namespace, timeout=timeout, markdown=markdown)


@app.command()
def doctor(
    record: Annotated[Path | None, typer.Option("--record", metavar="FILE", help="Also write what was seen.")] = None,
    source: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Judge what --record wrote.")] = None,
) -> int:
    """Whether this machine is fit for k3s and the platform: a look before the installation, which changes nothing.

    Each check that is not ok says what to do. Exit code 3 if one failed. docs/install-openeuler.md lists the checks.
    """
    from pipelines.cli.doctor import doctor

    return doctor(record, source)


@app.command()
def demo() -> None:
    """The whole story on this machine: a push becomes a model that answers; a worse one is stopped."""
    from pipelines.cli.addresses import home
    from pipelines.cli.demo import demo

    demo(home())


# ---- the box

Cluster = Annotated[bool, typer.Option("--cluster", help="In the cluster that KUBECONFIG names; k3s is not touched.")]


@app.command()
def up(
    cluster: Cluster = False,
    join: Annotated[str, typer.Option("--join", metavar="URL", help="Be a node of the server https://BOX:6443.")] = "",
    skip_checks: Annotated[bool, typer.Option("--skip-checks", help="Do not look at this machine first.")] = False,
) -> int:
    """Install the platform on this machine: k3s, Argo CD, and by it all else. Again, it changes nothing.

    docs/install-openeuler.md has all steps. Exit code 6 if something is not healthy at the end.
    """
    from pipelines.cli import box

    if cluster and join:
        raise YardError("--cluster and --join exclude each other", todo="yard up --help", code=Exit.USAGE)
    return box.up(cluster=cluster, skip_checks=skip_checks, join=join)


@app.command()
def verify(
    hello: Annotated[bool, typer.Option("--hello/--no-hello", help="Also run WorkflowTemplate hello.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Whether each part of the platform is healthy, or why not. Exit code 6 if one is not.

    It asks the cluster that KUBECONFIG names; on the box, that of k3s.
    """
    from pipelines.cli import health, kubectl
    from pipelines.cli.addresses import settings

    platform = settings()
    if platform is None:
        raise YardError("no platform.yaml", todo="run it in a checkout of the platform", code=Exit.NOT_FOUND)
    return health.verify(kubectl.find(), platform, hello=hello, as_json=as_json)


@app.command()
def down(
    cluster: Cluster = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove the platform from this machine, after it asked. It says before what stays; buckets and Git do."""
    from pipelines.cli import box

    box.down(cluster=cluster, yes=yes)


# ---- secrets

secrets_app = typer.Typer(
    help="The platform's secret values: what is needed, and how it comes into the cluster. docs/secrets.md explains.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(secrets_app, name="secrets")

SecretName = Annotated[str, typer.Argument(metavar="NAME", help="A Secret, as `yard secrets list` names it.")]
SecretKey = Annotated[str, typer.Argument(metavar="[KEY]", help="Its key, if it has more than one.")]


@secrets_app.command("list")
def secrets_list() -> None:
    """Each value that platform.yaml asks for: who makes it, where it is, and how to get what is missing."""
    from pipelines.cli import secrets

    secrets.show()


# a value that somebody gives as an argument all the same must not be repeated in a message
@secrets_app.command("set", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def secrets_set(
    context: typer.Context,
    name: SecretName,
    key: SecretKey = "",
    source: Annotated[Path | None, typer.Option("--from-file", metavar="FILE", help="Read it from there.")] = None,
) -> None:
    """Put a value into secrets.enc.yaml, encrypted. It is read from the standard input, a prompt, or a file."""
    from pipelines.cli import secrets

    if context.args:
        what = "a value is never an argument: your shell's history has it now, and every user saw it in `ps`"
        raise YardError(what, todo="take it out of use; give a new one on the standard input", code=Exit.USAGE)
    secrets.set_value(name, key, source)


@secrets_app.command("apply")
def secrets_apply() -> None:
    """Bring the values into the cluster, and make those that can be made and are not there yet."""
    from pipelines.cli import secrets

    secrets.apply()


@secrets_app.command("rotate")
def secrets_rotate(name: SecretName, key: SecretKey = "") -> None:
    """Make a value anew, in every namespace alike."""
    from pipelines.cli import secrets

    secrets.rotate(name, key)


@secrets_app.command("check")
def secrets_check() -> None:
    """Whether secrets.enc.yaml is encrypted, whole, for the keys of .sops.yaml."""
    from pipelines.cli import secrets

    secrets.check()


@secrets_app.command("init")
def secrets_init() -> None:
    """Make an age key of your own outside the repository, and .sops.yaml with its public part."""
    from pipelines.cli import secrets

    secrets.init()
