"""Every value of the platform that must stay secret: who makes it, where it is needed, what a leak means.

VALUES is the table; `yard secrets`, the rules of `make lint`, docs/secrets.md and docs/addons.md read it. A part of the
platform that needs another value adds an entry, with a condition of its own. What a controller makes by itself
(cert-manager, CloudNativePG) is with the add-on that it belongs to. No value is here, and none is in Git but in
`secrets.enc.yaml`, encrypted.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from pipelines.platform import Platform

SERVICES = "<service>-<environment>"  # the namespace of each service in each of its environments

Name = tuple[str, str]  # a Secret and a key of it, by which a person names a value: git-write token
Values = Mapping[Name, str]


class Place(NamedTuple):
    """One key of one Secret in one namespace."""

    namespace: str
    secret: str
    key: str


class When(NamedTuple):
    words: str
    holds: Callable[[Platform], bool]
    addon: str = ""  # the one that asks for it


class Made(NamedTuple):
    """How the platform makes a value by itself: at random, once; or, with `of`, from other values and the settings,
    which it then follows.

    One that is not made of others can be given as well, to keep it when the cluster is lost: `read` as in Given.
    """

    words: str
    make: Callable[[Platform, Values], str]
    of: tuple[Name, ...] | None = None
    read: Callable[[Platform, str], str] | None = None


class Given(NamedTuple):
    """How a person gets a value, step by step, and what becomes of the text that was typed.

    `read` raises ValueError with what is wrong; it must not say what was typed.
    """

    steps: tuple[str, ...]
    read: Callable[[Platform, str], str]


class Value(NamedTuple):
    secret: str
    key: str
    namespaces: tuple[str, ...]
    purpose: str
    source: Made | Given
    leak: str  # what who has it can do
    rotate: str  # what else is to be done when it changes
    when: When
    optional: bool = False
    fixed: bool = False  # a new one would not open what was locked with the old one
    also: tuple[Place, ...] = ()  # where the same value goes by another name
    type: str = "Opaque"
    labels: tuple[tuple[str, str], ...] = ()  # of the Secret, by which a controller finds it

    @property
    def name(self) -> Name:
        return self.secret, self.key

    def places(self, platform: Platform) -> list[Place]:
        """Everywhere that the value is needed."""
        found = []
        for namespace in self.namespaces:
            for where in _services(platform) if namespace == SERVICES else (namespace,):
                found.append(Place(where, self.secret, self.key))
        return [*found, *self.also]


def needed(platform: Platform, named: Iterable[Name] = ()) -> list[Value]:
    """The values that these settings ask for, each after those that it is made of; and those of services among `named`:
    what a service needs stands in its own repository.
    """
    found = [value for value in VALUES if value.when.holds(platform)]
    return found + [value for name in named if (value := of_service(platform, *name))]


def of_service(platform: Platform, secret: str, key: str) -> Value | None:
    """The value that `deploy.<environment>.secrets` of a service's mlops.yaml names: a variable of its serving process,
    a key of the Secret <service>-secrets. `secret` is that with its namespace: digits-dev/digits-secrets.
    """
    known = {f"{s.name}-{environment}/{s.name}-secrets" for s in platform.services for environment in s.environments}
    if secret not in known or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        return None
    namespace, _, name = secret.partition("/")
    return Value(
        secret,
        key,
        namespaces=(),
        also=(Place(namespace, name, key),),
        purpose="the service's own",
        source=Given(("the service's authors know",), _text),
        leak="the service's authors know",
        rotate=f"`kubectl -n {namespace} rollout restart deployment/{name.removesuffix('-secrets')}`",
        when=ALWAYS,
        optional=True,
    )


def places(platform: Platform) -> set[Place]:
    """Every key of every Secret that is known, needed or not: add-ons are rendered when they are off, too."""
    return {place for value in VALUES for place in value.places(platform)}


def _services(platform: Platform) -> Iterator[str]:
    return (f"{service.name}-{environment}" for service in platform.services for environment in service.environments)


# ---- when


def _addon(name: str) -> When:
    return When(f"add-on `{name}`", lambda platform: name in platform.addons.on(), name)


def _own_harbor(platform: Platform) -> bool:
    return platform.addons.harbor and platform.endpoints.REGISTRY.startswith(f"{platform.host('harbor')}/")


ALWAYS = When("always", lambda _: True)
GITHUB = When("`git.provider: github`", lambda platform: platform.git.provider == "github")
GITLAB = When("`git.provider: gitlab`", lambda platform: platform.git.provider == "gitlab")
STORE, HARBOR, MONITORING, TUNNEL = map(_addon, ("storage", "harbor", "monitoring", "tunnel"))
NO_STORE = When("no add-on `storage`", lambda platform: not platform.addons.storage)
GOOGLE = When("Google Cloud Storage", lambda platform: not platform.endpoints.STORAGE_URL)
CLOUDFLARE = When("Let's Encrypt", lambda platform: platform.tls.issuer.startswith("letsencrypt"))
OWN_REGISTRY = When("images go to add-on `harbor`", _own_harbor, "harbor")
OTHER_REGISTRY = When("images go elsewhere", lambda platform: not _own_harbor(platform))
BACKUP = When("add-on `backup`", lambda platform: bool(platform.addons.backup and not platform.addons.harbor), "backup")
BACKUP_HARBOR = When(
    "add-ons `backup`, `harbor`", lambda platform: bool(platform.addons.backup and platform.addons.harbor), "backup"
)
LOGIN = When("`login`", lambda platform: platform.login is not None)


# ---- what is made


def _token(_: Platform, __: Values) -> str:
    return secrets.token_urlsafe(32)


def _letters(count: int) -> Made:
    """For programs that want a length, which they take as a key."""

    def exact(_: Platform, text: str) -> str:
        found = text.strip()
        if not re.fullmatch(rf"[A-Za-z0-9]{{{count}}}", found):
            raise ValueError(f"it has to be {count} letters and digits")
        return found

    return Made(f"at random, {count} letters and digits", lambda _, __: _random(count), read=exact)


def _random(count: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(count))


def _harbor_password(_: Platform, __: Values) -> str:
    while True:
        found = _random(32)
        if _fits_harbor(found):
            return found


def _fits_harbor(password: str) -> bool:
    """Harbor takes no other: of an account, of a robot."""
    kinds = ("[A-Z]", "[a-z]", "[0-9]")
    return 8 <= len(password) <= 128 and all(re.search(kind, password) for kind in kinds)


def _htpasswd(_: Platform, values: Values) -> str:
    """The salt follows from the password, which is random and long enough to need none: the same line each time."""
    import bcrypt

    password = values[HARBOR_REGISTRY].encode()
    salt = base64.b64encode(hashlib.sha256(password).digest()[:16], altchars=b"./").rstrip(b"=")
    line = bcrypt.hashpw(password, b"$2b$10$" + salt[:21] + b".")
    return f"{HARBOR_USER}:{line.decode()}"


def _robot_login(robot: Name) -> Made:
    user = f"robot${robot[1]}"

    def login(platform: Platform, values: Values) -> str:
        return _docker_config(platform, f"{user}:{values[robot]}")

    return Made(f"of `{' '.join(robot)}`", login, of=(robot,))


def _docker_config(platform: Platform, login: str) -> str:
    host = platform.endpoints.REGISTRY.partition("/")[0]
    return json.dumps({"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}})


def _ec_key(_: Platform, __: Values) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _client_id(platform: Platform, _: Values) -> str:
    return platform.login.client if platform.login else ""


def _storage_tokens(platform: Platform, values: Values) -> str:
    """Argo's client gives no token to a store of ours, so the scratch bucket is open to whom the network lets in."""
    rules = {"write": [values[REGISTRY]], "read": [values[REGISTRY_READ]]}
    buckets = platform.endpoints
    return json.dumps({buckets.REGISTRY_BUCKET: rules, buckets.SCRATCH_BUCKET: "open"})


# ---- what a person types


def _line(_: Platform, text: str) -> str:
    """A token: what an editor or a clipboard puts around it is not part of it."""
    found = text.strip()
    if not found or re.search(r"\s", found):
        raise ValueError("a token is one word")
    return found


def _text(_: Platform, text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text.removesuffix("\n")


def _credentials(platform: Platform, text: str) -> str:
    """What opens a bucket: a service account's key, or the bearer token of another store than Google's."""
    return _line(platform, text) if platform.endpoints.STORAGE_URL else _account_key(platform, text)


def _account_key(_: Platform, text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("not JSON: a service account's key is a JSON file") from None
    if not isinstance(found, dict) or found.get("type") != "service_account" or "private_key" not in found:
        raise ValueError("not a service account's key (type service_account, private_key)")
    return json.dumps(found)


def _ec_private_key(_: Platform, text: str) -> str:
    try:
        key = load_pem_private_key(text.encode(), None)
    except (ValueError, TypeError):
        raise ValueError("not a private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError("not an EC P-256 key")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _registry_login(platform: Platform, text: str) -> str:
    """`USER:PASSWORD`, or a whole Docker config.json."""
    text = text.strip()
    if text.startswith("{"):
        try:
            auths = json.loads(text)["auths"]
            base64.b64decode(next(iter(auths.values()))["auth"], validate=True)
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
            raise ValueError('not a Docker config.json: {"auths": {HOST: {"auth": …}}}') from None
        return text
    user, _, password = text.partition(":")
    if not user or not password or re.search(r"\s", text):
        raise ValueError("write USER:PASSWORD, or a whole Docker config.json")
    return _docker_config(platform, text)


def _password(platform: Platform, text: str) -> str:
    found = _line(platform, text)
    if not _fits_harbor(found):
        raise ValueError("Harbor wants 8 to 128 characters, with a capital letter, a small one and a digit")
    return found


def _alertmanager(_: Platform, text: str) -> str:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError("not YAML") from None
    if not isinstance(found, dict) or not {"route", "receivers"} <= found.keys():
        raise ValueError("not Alertmanager's configuration: it has route and receivers")
    return text


def read(value: Value, platform: Platform, text: str) -> str:
    """What is stored when a person gives `text`. Raises ValueError, which does not say what it was."""
    if isinstance(value.source, Given):
        return value.source.read(platform, text)
    if value.source.of is not None:
        raise ValueError(f"it is made {value.source.words}: nobody gives it")
    return (value.source.read or _line)(platform, text)


# ---- the table

TOKEN = Made("at random, 256 bits", _token)
EC_KEY = Made("at random, an EC P-256 private key", _ec_key, read=_ec_private_key)
PASSWORD = Made("at random, 32 letters and digits of each kind", _harbor_password, read=_password)
HARBOR_REGISTRY, HARBOR_USER = ("harbor-registry-login", "REGISTRY_PASSWD"), "harbor_registry_user"
ROBOT_PUSH, ROBOT_PULL = ("harbor-robot", "push"), ("harbor-robot", "pull")
REPOSITORIES = ("argocd-repositories", "password")
REGISTRY, REGISTRY_READ = ("registry", "credentials"), ("registry-read", "credentials")
_GITHUB = "GitHub, as the bot's own user: Settings ▸ Developer settings ▸ Fine-grained tokens; with an expiry date"
_GITLAB = "GitLab: the project's Settings ▸ Access tokens; with an expiry date"
_OLD_KEY = "make a new key, apply, then `gcloud iam service-accounts keys delete` the old one"
_OLD_TOKEN = "make a new token, apply, then delete the old one where it was made"  # noqa: S105 - words
_RESTART_STORE = "`kubectl -n storage rollout restart deployment/storage`: the store reads its tokens at its start"
_RUNS = ("mlops-build", "mlops", "mlops-release")
_PUSH = ("mlops-build", "mlops-release")
_DOCKER = ".dockerconfigjson"
_DOCKER_TYPE = "kubernetes.io/dockerconfigjson"
_PUSH_LEAK = "images can be replaced under their tags; releases name digests that are signed, so none of these changes"


def _google(account: str, role: str, bucket: str) -> tuple[str, ...]:
    """How to get a service account's key that opens one bucket."""
    mail = f"{account}@PROJECT.iam.gserviceaccount.com"
    return (
        f"`gcloud iam service-accounts create {account}`",
        f"`gcloud storage buckets add-iam-policy-binding gs://{bucket} --role roles/{role} "
        f"--member serviceAccount:{mail}`",
        f"`gcloud iam service-accounts keys create ~/key.json --iam-account {mail}`",
    )


def _webhook(host: str, name: str) -> Value:
    show = f"kubectl -n argo-events get secret {name} -o jsonpath='{{.data.secret}}' | base64 -d"
    return Value(
        name,
        "secret",
        namespaces=("argo-events",),
        also=(Place("argocd", "argocd-secret", f"webhook.{host.lower()}.secret"),),
        purpose=f"signs {host}'s webhooks: EventSource `{host.lower()}`, and Argo CD for the releases repository",
        source=TOKEN,
        leak="whoever reaches the webhooks' address can start pipelines for commits that are in your repositories",
        rotate=f"put it into the webhooks of every repository and restart the EventSource: `{show}`",
        when=GITHUB if host == "GitHub" else GITLAB,
    )


def _harbor(
    secret: str, key: str, source: Made, purpose: str, *, leak: str = "", rotate: str = "", fixed: bool = False
) -> Value:
    """As the chart's values name them; without them it makes new ones each time that it is rendered."""
    return Value(
        f"harbor-{secret}",
        key,
        namespaces=("harbor",),
        purpose=purpose,
        source=source,
        leak=leak or "whoever is inside the cluster's network can speak to Harbor's parts as one of them",
        rotate=rotate or "`kubectl -n harbor rollout restart deployment`",
        when=HARBOR,
        fixed=fixed,
    )


def _robot(robot: Name, purpose: str, leak: str) -> Value:
    rotate = "Harbor refuses the new one until it is told: "
    rotate += "`kubectl -n harbor create job --from=cronjob/harbor-settings settings-$(date +%s)`, or at night"
    return _harbor("robot", robot[1], PASSWORD, purpose, leak=leak, rotate=rotate)


def _backup(when: When, *namespaces: str) -> Value:
    return Value(
        "backup",
        "credentials",
        namespaces=namespaces,
        purpose="copies of the databases: a service account's key that may create objects in the bucket",
        source=Given(_google("trainyard-backup", "storage.objectCreator", "BACKUP_BUCKET"), _account_key),
        leak="more copies can be put there; none can be read, changed or deleted",
        rotate=_OLD_KEY,
        when=when,
    )


def _repositories(key: str, source: Made | Given, purpose: str, leak: str, rotate: str) -> Value:
    """Argo CD finds them by the label."""
    return Value(
        REPOSITORIES[0],
        key,
        namespaces=("argocd",),
        purpose=purpose,
        source=source,
        leak=leak,
        rotate=rotate,
        when=ALWAYS,
        optional=True,
        labels=(("argocd.argoproj.io/secret-type", "repo-creds"),),
    )


def _follows(words: str, make: Callable[[Platform], str]) -> Made:
    return Made(words, lambda platform, _: make(platform), of=(REPOSITORIES,))


def _git_user(platform: Platform) -> str:
    """Neither looks at it when it gets a token."""
    return {"github": "x-access-token", "gitlab": "oauth2"}[platform.git.provider]


VALUES = (
    _webhook("GitHub", "github-webhook"),
    _webhook("GitLab", "gitlab-webhook"),
    Value(
        "stages-token",
        "token",
        namespaces=("argo-events", "mlops-build", "mlops"),
        purpose="EventSource `stages`, and the steps that post to it",
        source=TOKEN,
        leak="whoever is inside the cluster's network can start a training or a release of an earlier run's result",
        rotate="restart EventSource `stages`: `kubectl -n argo-events delete pod -l eventsource-name=stages`",
        when=ALWAYS,
    ),
    Value(
        "signing",
        "key.pem",
        namespaces=("mlops-release",),
        purpose="signs the images that a release names",
        source=EC_KEY,
        leak="any image can be signed as if the platform had tested it",
        rotate="publish the new public half; release every service again, as the old signatures are no longer checked",
        when=ALWAYS,
    ),
    Value(
        *REGISTRY,
        namespaces=_RUNS,
        purpose="platform steps that write the registry bucket: a service account's key",
        source=Given(_google("trainyard-registry", "storage.objectUser", "REGISTRY_BUCKET"), _credentials),
        leak="models and run records can be added or deleted in the registry bucket, and all of it read",
        rotate=_OLD_KEY,
        when=NO_STORE,
    ),
    Value(
        *REGISTRY_READ,
        namespaces=(SERVICES,),
        purpose="the init container that fetches a model bundle: a service account's key that can only read",
        source=Given(_google("trainyard-serving", "storage.objectViewer", "REGISTRY_BUCKET"), _credentials),
        leak="all models and run records can be read",
        rotate=_OLD_KEY,
        when=NO_STORE,
    ),
    Value(
        "scratch",
        "credentials",
        namespaces=_RUNS,
        purpose="Argo's executor, for artifacts and logs in Google Cloud Storage",
        source=Given(_google("trainyard-scratch", "storage.objectUser", "SCRATCH_BUCKET"), _account_key),
        leak="data between steps and logs can be read, and changed while a run goes on",
        rotate=_OLD_KEY,
        when=GOOGLE,
    ),
    Value(
        *REGISTRY,
        namespaces=_RUNS,
        purpose="platform steps that write the registry bucket: a bearer token of the store",
        source=TOKEN,
        leak="whoever is inside the cluster's network can add or delete models in the registry bucket",
        rotate=_RESTART_STORE,
        when=STORE,
    ),
    Value(
        *REGISTRY_READ,
        namespaces=(SERVICES,),
        purpose="the init container that fetches a model bundle: a bearer token that can only read",
        source=TOKEN,
        leak="whoever is inside the cluster's network can read all models",
        rotate=_RESTART_STORE,
        when=STORE,
    ),
    Value(
        "storage-tokens",
        "tokens.json",
        namespaces=("storage",),
        purpose="`applications/storage`: who may use which bucket",
        source=Made("of `registry` and `registry-read`", _storage_tokens, of=(REGISTRY, REGISTRY_READ)),
        leak="as `registry`",
        rotate="rotate `registry` and `registry-read`: it follows them",
        when=STORE,
    ),
    Value(
        "git-write",
        "token",
        namespaces=("mlops-release",),
        purpose="release and verify push to the releases repository",
        source=Given(
            (
                f"{_GITHUB}; only the releases repository, Contents: read and write",
                f"{_GITLAB}; of releases, role Maintainer, write_repository",
            ),
            _line,
        ),
        leak="whoever has it decides what is deployed; it cannot change the platform or what Argo CD allows",
        rotate=_OLD_TOKEN,
        when=ALWAYS,
    ),
    Value(
        "git-status",
        "token",
        namespaces=_RUNS,
        purpose="commit statuses of the services' repositories",
        source=Given(
            (
                f"{_GITHUB}; the services' repositories, Commit statuses: read and write",
                f"{_GITLAB}; of each service's group, role Developer, api",
            ),
            _line,
        ),
        leak="commits can be marked as passed or failed",
        rotate=_OLD_TOKEN,
        when=ALWAYS,
        optional=True,
    ),
    Value(
        "git-read",
        "token",
        namespaces=_RUNS,
        purpose="checkout of private repositories, and more requests an hour for `reconcile`",
        source=Given(
            (
                f"{_GITHUB}; the services' repositories and releases, Contents: read",
                f"{_GITLAB}; of the group, role Reporter, read_repository",
            ),
            _line,
        ),
        leak="the services' code can be read",
        rotate=_OLD_TOKEN,
        when=ALWAYS,
        optional=True,
    ),
    _repositories(
        REPOSITORIES[1],
        Given(
            (
                f"{_GITHUB}; this repository and releases, Contents: read",
                f"{_GITLAB}; of the group of this repository and releases, role Reporter, read_repository",
            ),
            _line,
        ),
        "Argo CD reads this repository and releases, if they are private",
        "what is deployed, and how, can be read",
        _OLD_TOKEN,
    ),
    _repositories(
        "url",
        _follows("from `endpoints.GIT_URL`", lambda platform: platform.endpoints.GIT_URL),
        "which repositories the token is for: all that begin so",
        "nothing",
        "change platform.yaml, apply",
    ),
    _repositories("username", _follows("from `git.provider`", _git_user), "goes with the token", "nothing", "nothing"),
    _repositories("type", _follows("`git`", lambda _: "git"), "goes with the token", "nothing", "nothing"),
    Value(
        "registry-push",
        _DOCKER,
        namespaces=_PUSH,
        purpose="the container registry: build, sbom, sign",
        source=Given(
            (
                "Google Artifact Registry: user _json_key_base64, password the key in base64; "
                "Harbor ▸ the project of `REGISTRY` ▸ Robot Accounts ▸ New: push and pull repositories",
                "give it as USER:PASSWORD, or as a whole Docker config.json",
            ),
            _registry_login,
        ),
        leak=_PUSH_LEAK,
        rotate="make a new account, apply, then delete the old one",
        when=OTHER_REGISTRY,
        optional=True,
        type=_DOCKER_TYPE,
    ),
    Value(
        "registry-pull",
        _DOCKER,
        namespaces=_RUNS,
        purpose="nodes pull the images of steps, if the registry asks for a login",
        source=Given(
            ("as for `registry-push`: an account that can only read", "give it in the same form"), _registry_login
        ),
        leak="images, and the code in them, can be read",
        rotate="make a new account, apply, then delete the old one",
        when=OTHER_REGISTRY,
        optional=True,
        type=_DOCKER_TYPE,
    ),
    _harbor(
        "admin",
        "HARBOR_ADMIN_PASSWORD",
        PASSWORD,
        "Harbor's user `admin`: the first password, and that of the Job `harbor-settings`",
        leak="all of Harbor",
        rotate="Harbor takes it at its first start only: change it there, then `yard secrets set harbor-admin`, apply",
        fixed=True,
    ),
    _harbor(
        "keys",
        "secretKey",
        _letters(16),
        "encrypts what Harbor keeps in its database",
        leak="with a copy of the database: the passwords of other registries and of robot accounts",
        rotate="never: Harbor could not read what it has",
        fixed=True,
    ),
    _harbor("keys", "secret", _letters(16), "Harbor's core, to its other parts"),
    _harbor("keys", "JOBSERVICE_SECRET", _letters(16), "Harbor's jobs, to its other parts"),
    _harbor("keys", "REGISTRY_HTTP_SECRET", _letters(16), "Harbor's registry: the state of an upload"),
    _harbor("keys", "CSRF_KEY", _letters(32), "Harbor's pages, against requests that another site makes"),
    _harbor("registry-login", HARBOR_REGISTRY[1], _letters(32), "Harbor's core, to its registry"),
    _harbor(
        "registry-login",
        "REGISTRY_HTPASSWD",
        Made("of `REGISTRY_PASSWD`", _htpasswd, of=(HARBOR_REGISTRY,)),
        "the same, as the registry reads it",
        leak="nothing: it cannot be turned round",
        rotate="rotate `harbor-registry-login REGISTRY_PASSWD`: it follows",
    ),
    _robot(ROBOT_PUSH, "Harbor's account `robot$push`", _PUSH_LEAK),
    _robot(ROBOT_PULL, "Harbor's account `robot$pull`", "images, and the code in them, can be read"),
    Value(
        "registry-push",
        _DOCKER,
        namespaces=_PUSH,
        purpose="the container registry: build, sbom, sign",
        source=_robot_login(ROBOT_PUSH),
        leak="as `harbor-robot push`",
        rotate="rotate `harbor-robot push`: it follows",
        when=OWN_REGISTRY,
        type=_DOCKER_TYPE,
    ),
    Value(
        "registry-pull",
        _DOCKER,
        namespaces=_RUNS,
        purpose="nodes pull the images of steps",
        source=_robot_login(ROBOT_PULL),
        leak="as `harbor-robot pull`",
        rotate="rotate `harbor-robot pull`: it follows",
        when=OWN_REGISTRY,
        type=_DOCKER_TYPE,
    ),
    Value(
        "grafana",
        "password",
        namespaces=("monitoring",),
        purpose="Grafana's user `admin`",
        source=TOKEN,
        leak="the platform's numbers can be read, and Prometheus asked",
        rotate="`kubectl -n monitoring rollout restart deployment/grafana`",
        when=MONITORING,
    ),
    Value(
        "alertmanager",
        "alertmanager.yaml",
        namespaces=("monitoring",),
        purpose="where alerts are sent to",
        source=Given(("write a file: https://prometheus.io/docs/alerting/latest/configuration",), _alertmanager),
        leak="whoever has it can write where alerts go: a mail account, a chat",
        rotate="nothing: Alertmanager takes it by itself",
        when=MONITORING,
        optional=True,
    ),
    Value(
        "tunnel",
        "token",
        namespaces=("tunnel",),
        purpose="opens the Cloudflare tunnel",
        source=Given(
            (
                "`cloudflared tunnel login`, `cloudflared tunnel create trainyard`, "
                "`cloudflared tunnel route dns trainyard hooks.DOMAIN`",
                "`cloudflared tunnel token trainyard` prints it",
            ),
            _line,
        ),
        leak="webhooks can be led away and read; none can be made up, as they are signed",
        rotate="make another tunnel (`route dns --overwrite-dns`), apply, `kubectl -n tunnel rollout restart "
        "deployment/tunnel`, then `cloudflared tunnel delete` the old one",
        when=TUNNEL,
    ),
    _backup(BACKUP, "argo"),
    _backup(BACKUP_HARBOR, "argo", "harbor"),
    Value(
        "cloudflare-token",
        "api-token",
        namespaces=("cert-manager",),
        purpose="cert-manager proves to Let's Encrypt that the domain is yours (DNS-01)",
        source=Given(
            (
                "Cloudflare ▸ My Profile ▸ API Tokens ▸ Create ▸ Edit zone DNS: this zone alone, with Zone DNS: edit "
                "and Zone Zone: read",
            ),
            _line,
        ),
        leak="names in the zone can be changed: traffic can be led away, and certificates had for it",
        rotate=_OLD_TOKEN,
        when=CLOUDFLARE,
    ),
    Value(
        "argo-sso",
        "client-secret",
        namespaces=("argo",),
        also=(Place("argocd", "argocd-secret", "oidc.clientSecret"),),
        purpose="the Argo UI and Argo CD prove to the identity provider who they are",
        source=Given(
            (
                "the identity provider: a confidential OpenID Connect client, with the id `login.client` and the "
                "redirect addresses `https://argo.<domain>/oauth2/callback`, `https://argocd.<domain>/auth/callback`",
            ),
            _line,
        ),
        leak="another site can pretend to be the platform's login, if it gets people to come by",
        rotate="make a new one at the provider, apply, restart both: `kubectl -n argo rollout restart "
        "deployment/argo-server`, `kubectl -n argocd rollout restart deployment/argocd-server`",
        when=LOGIN,
    ),
    Value(
        "argo-sso",
        "client-id",
        namespaces=("argo",),
        purpose="the Argo Server takes it from a Secret only; it is none",
        source=Made("from `login.client`", _client_id, of=()),
        leak="nothing",
        rotate="change `login.client` in platform.yaml, apply",
        when=LOGIN,
    ),
)


# ---- docs/secrets.md


def markdown() -> str:
    """Who makes each value, where it is needed, what a leak means: docs/secrets.md."""
    lines = [_TEXT, "## What there is", ""]
    lines += ["| Secret | key | namespaces | when | who makes it | for |", "| --- | --- | --- | --- | --- | --- |"]
    for value in VALUES:
        where = ", ".join(f"`{namespace}`" for namespace in value.namespaces)
        where += "".join(f"; `{p.secret}`, key `{p.key}`, in `{p.namespace}`" for p in value.also)
        who = f"made {value.source.words}" if isinstance(value.source, Made) else "a person"
        when = value.when.words + ("; optional" if value.optional else "")
        lines.append(f"| `{value.secret}` | `{value.key}` | {where} | {when} | {who} | {value.purpose} |")
    lines += ["", "## If one leaks, and when it changes", ""]
    lines += ["| Secret, key | a leak means | when it changes |", "| --- | --- | --- |"]
    for value in VALUES:
        which = "" if value.when is ALWAYS else f" ({value.when.words})"
        rotate = value.rotate.replace("|", "\\|")
        lines.append(f"| `{value.secret}` `{value.key}`{which} | {value.leak} | {rotate} |")
    lines += ["", "## How a person gets them", ""]
    told = {value.name + value.source.steps: value.source for value in VALUES if isinstance(value.source, Given)}
    for (secret, *_), source in told.items():
        lines += [f"- `{secret}`", *(f"    - {step}" for step in source.steps)]
    return "\n".join([*lines, ""])


_TEXT = """\
# Secrets

Made by `make render` from `pipelines/secret_values.py`.

Most secret values are made in the cluster and nobody ever sees them. The few that a person has to get elsewhere stand
in `secrets.enc.yaml`, encrypted with [SOPS](https://github.com/getsops/sops) for the
[age](https://age-encryption.org) keys that `.sops.yaml` names; it is committed. Nothing secret is in Git otherwise:
`make lint` looks through the whole history.

`sops` and `age-keygen` are two programs without dependencies: put the versions of `versions.yaml` on PATH, from their
release pages, or build them with `make tools`, which needs Go. The cluster is the one that KUBECONFIG names.

```sh
yard secrets init                     # once a person: an age key outside the repository, .sops.yaml
yard secrets list                     # what platform.yaml asks for, where it is, how to get what is missing
yard secrets set git-write token      # asks for the value; or --from-file FILE, or from a pipe
git add .sops.yaml secrets.enc.yaml && git commit -m "The bot's token"
yard secrets apply                    # makes what is to be made, brings the rest; again, it changes nothing
```

- **What counts.** What is in the file comes before what is in the cluster, and that before a new value. `apply`
  writes what is not there or not right, namespaces included, and leaves keys that others put into the same Secret. It
  can be stopped at any point and run again. No value is printed or given to a program as an argument.
- **Rotate** what is made: `yard secrets rotate NAME`; it is the same in all namespaces afterwards. What a person
  supplied: get a new one, `set`, `apply`. Steps take Secrets when their pods start; the table below says what has to
  be restarted.
- **Another person.** `yard secrets init` prints the public part of their key; who can read the file adds it to
  `.sops.yaml` and runs `sops updatekeys secrets.enc.yaml`. Taking somebody out is the same; they know the values, so
  rotate what is in the file.
- **Keep** the age key in a second place. To get a lost cluster back with the same made values, put these into the
  file as well: `kubectl -n mlops-release get secret signing -o jsonpath='{.data.key\\.pem}' | base64 -d | yard
  secrets set signing key.pem`.
- **A service's own** variables (`deploy.<environment>.secrets` of its mlops.yaml):
  `yard secrets set digits-dev/digits-secrets API_TOKEN`.
- **A leak**: rotate first, then ask how. Taking a value out of Git's history is no remedy: whoever has cloned has it.
- **Solo** makes its own values and reads none of this.
"""
