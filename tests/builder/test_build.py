"""Kaniko's stand-in as pods run it: arguments in, an image out, by content."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from solo.builder.images import ImageTable, Platform
from solo.builder.store import ImageStore

PYTHON = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


class Builder:
    def __init__(self, tmp: Path, home: str = "home") -> None:
        self.tmp, self.context = tmp, tmp / "context"
        self.context.mkdir(exist_ok=True)
        self.home = tmp / home
        self.home.mkdir()
        self.table = ImageTable(self.home, {"trainyard/pipelines": Platform()})
        self.store = ImageStore(self.home / "images")

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.context / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def start(self, *flags: str) -> subprocess.Popen[str]:
        image = self.table.resolve("ghcr.io/osscontainertools/kaniko:v1.28.5")
        command = [*image.entrypoint, f"--context=dir://{self.context}", *flags]
        return subprocess.Popen(
            command, env=dict(image.env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, dockerfile: str, *flags: str, tag: str = "solo.invalid/acme/digits:1") -> tuple[int, str]:
        (self.context / "Dockerfile").write_text(dockerfile)
        process = self.start("--dockerfile=Dockerfile", f"--destination={tag}", *flags)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def build(self, dockerfile: str, *flags: str) -> str:
        """Must succeed; the digest."""
        code, output = self.run(dockerfile, *flags, f"--digest-file={self.tmp}/digest")
        assert code == 0, output
        return (self.tmp / "digest").read_text()

    def root(self, digest: str) -> Path:
        return self.store.root / digest.removeprefix("sha256:") / "rootfs"


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def wheel(directory: Path, name: str, module: str, script: bool = False) -> Path:
    """A small package, as pip would download it."""
    files = {
        f"{name}/__init__.py": module,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    }
    files[f"{name}-1.0.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    if script:
        files[f"{name}-1.0.dist-info/entry_points.txt"] = f"[console_scripts]\n{name} = {name}:main\n"
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items()
    )
    files[f"{name}-1.0.dist-info/RECORD"] = record + f"{name}-1.0.dist-info/RECORD,,\n"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, text in files.items():
            archive.writestr(entry, text)
    return path


SERVICE = f"""
ARG BASE_IMAGE={PYTHON}
FROM ${{BASE_IMAGE}}
WORKDIR /app
COPY wheels ./wheels
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes --no-index --find-links /app/wheels -r requirements.txt
COPY . .
ENV GREETING="hello there"
USER 1000
EXPOSE 8080
LABEL a=b
CMD ["python", "main.py"]
"""


def service(builder: Builder, main: str = "import tiny; print(tiny.NAME)") -> None:
    path = wheel(
        builder.context / "wheels", "tiny", "NAME = 'tiny'\ndef main():\n    print('from script')\n", script=True
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    builder.write(**{"requirements.txt": f"tiny==1.0 --hash=sha256:{digest}\n", "main.py": main, "data__x.txt": "x"})


def test_a_service_is_built_and_its_python_runs(builder: Builder) -> None:
    service(builder)
    code, output = builder.run(
        SERVICE,
        "--cache=true",
        "--cache-repo=solo.invalid/cache",
        "--reproducible",
        "--snapshot-mode=redo",
        f"--image-name-with-digest-file={builder.tmp}/name",
        f"--image-name-tag-with-digest-file={builder.tmp}/tagged",
    )
    assert code == 0, output
    name = (builder.tmp / "name").read_text()
    assert name.startswith("solo.invalid/acme/digits@sha256:")
    assert (builder.tmp / "tagged").read_text().startswith("solo.invalid/acme/digits:1@sha256:")
    image = builder.table.resolve(name)
    assert image == builder.table.resolve("solo.invalid/acme/digits:1")
    assert (image.kind, image.workdir, image.cmd, image.user) == ("built", "/app", ("python", "main.py"), "1000")
    assert image.env["GREETING"] == "hello there"
    assert set(image.paths) == {"/usr/local", "/app", "/root"}
    root = image.root
    assert root is not None
    python = root / "usr/local/bin/python"
    assert subprocess.check_output([python, "main.py"], cwd=root / "app", text=True) == "tiny\n"
    assert subprocess.check_output([root / "usr/local/bin/tiny"], text=True) == "from script\n"
    assert (root / "app/data/x.txt").read_text() == "x"


def test_the_same_inputs_give_the_same_digest_in_another_place_and_time(tmp_path: Path) -> None:
    first, second = Builder(tmp_path, "one"), Builder(tmp_path, "elsewhere/two".replace("/", "-"))
    service(first)
    digest = first.build(SERVICE)
    for path in first.context.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode & 0o700 | (0o700 if path.is_dir() else 0o600))
    assert second.build(SERVICE) == digest
    (first.context / "main.py").write_text("print('changed')")
    assert second.build(SERVICE) != digest


def test_unchanged_layers_come_from_the_cache(builder: Builder) -> None:
    service(builder)
    builder.build(SERVICE, "--cache=true")
    builder.write(**{"main.py": "print('second')"})
    started = time.monotonic()
    code, output = builder.run(SERVICE, "--cache=true", "--cache-ttl=336h")
    assert code == 0
    assert "Using caching version of cmd: RUN pip install" in output
    assert time.monotonic() - started < 5
    builder.write(**{"requirements.txt": (builder.context / "requirements.txt").read_text() + "# more\n"})
    code, output = builder.run(SERVICE, "--cache=true")
    assert code == 0
    assert "Using caching version" not in output
    assert "Using caching version" not in builder.run(SERVICE, "--cache=false")[1]
    assert "Using caching version" not in builder.run(SERVICE, "--cache=true", "--cache-ttl=0s")[1]


def test_a_build_argument_belongs_to_the_cache_key(builder: Builder) -> None:
    source = f"FROM {PYTHON}\nARG WHO=nobody\nRUN mkdir -p /out && echo $WHO > /out/who\n"
    assert (builder.root(builder.build(source, "--cache")) / "out/who").read_text() == "nobody\n"
    assert (builder.root(builder.build(source, "--cache", "--build-arg=WHO=me")) / "out/who").read_text() == "me\n"
    assert not Path("/out").exists()


def test_run_works_in_a_copy_and_never_in_stored_layers(builder: Builder) -> None:
    first = f"FROM {PYTHON}\nRUN mkdir /data && echo one > /data/a && echo keep > /data/b\n"
    digest = builder.build(first, "--cache")
    changed = builder.build(first + "RUN echo two >> /data/a && rm /data/b && ln -s a /data/l\n", "--cache")
    assert (builder.root(digest) / "data/a").read_text() == "one\n"
    assert (builder.root(digest) / "data/b").exists()
    assert (builder.root(changed) / "data/a").read_text() == "one\ntwo\n"
    assert not (builder.root(changed) / "data/b").exists()
    assert (builder.root(changed) / "data/l").read_text() == "one\ntwo\n"


def test_a_built_image_is_a_base(builder: Builder) -> None:
    service(builder)
    parent = builder.build(SERVICE)
    child = builder.build(f"FROM solo.invalid/acme/digits@{parent}\nRUN tiny > /app/out.txt\nCOPY main.py copy.py\n")
    assert (builder.root(child) / "app/out.txt").read_text() == "from script\n"
    assert (builder.root(child) / "app/copy.py").exists()


def test_packages_of_two_layers_are_merged_and_one_layers_are_shared(builder: Builder) -> None:
    wheel(builder.context / "w", "alpha", "A = 1\n")
    wheel(builder.context / "w", "beta", "B = 2\n")
    install = "RUN pip install --no-index --find-links=/w "
    digest = builder.build(
        f"FROM {PYTHON}\nCOPY w /w\n{install}alpha\n{install}beta\nRUN python -c 'import alpha, beta'"
    )
    packages = next(builder.root(digest).glob("usr/local/lib/python3.*/site-packages"))
    assert (packages / "alpha").is_symlink()
    python = builder.root(digest) / "usr/local/bin/python"
    assert subprocess.check_output([python, "-c", "import alpha, beta; print(alpha.A + beta.B)"]) == b"3\n"


def test_copy_follows_dockers_rules(builder: Builder) -> None:
    builder.write(
        **{
            "a.txt": "a",
            "b.txt": "b",
            "dir__c.txt": "c",
            "dir__deep__d.pyc": "x",
            "secret__key": "k",
            "secret__public.txt": "p",
            ".dockerignore": "# no\n**/*.pyc\nsecret\n!secret/public.txt\nDockerfile\n",
        }
    )
    digest = builder.build(
        f"FROM {PYTHON}\nWORKDIR /app\nCOPY *.txt texts/\nCOPY dir moved\nCOPY a.txt renamed.txt\n"
        'COPY --chown=1000 ["b.txt", "/app/"]\nCOPY . all\n'
    )
    app = builder.root(digest) / "app"
    names = {path.relative_to(app).as_posix() for path in app.rglob("*") if path.is_file()}
    assert names == {
        "texts/a.txt", "texts/b.txt", "moved/c.txt", "renamed.txt", "b.txt",
        "all/a.txt", "all/b.txt", "all/dir/c.txt", "all/secret/public.txt", "all/.dockerignore",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("COPY ../x /app/", "Dockerfile:2: COPY ../x leaves the context"),
        ("COPY nothing /app/", "Dockerfile:2: COPY nothing: no such file in the context"),
        ("COPY link /app/", "Dockerfile:2: COPY link: the link leads to /etc/passwd, outside the context"),
        ("COPY f /etc/f", "Dockerfile:2: /etc/f belongs to this host"),
        ("COPY *.txt /one", "Dockerfile:2: COPY of 2 files to /one"),
        ("RUN echo before; exit 3", "Dockerfile:2: RUN echo before; exit 3 exited 3"),
        ('RUN ["no-such-program"]', 'Dockerfile:2: RUN ["no-such-program"]: no-such-program: No such file'),
        ("RUN true && apt-get install -y gcc", "Dockerfile:2: RUN apt-get: solo cannot install system packages"),
        ("RUN pip install --no-index nothing-of-the-kind", "Dockerfile:2: RUN pip install --no-index"),
        ("RUN pip wheel .", "solo cannot run pip wheel"),
        ("ADD x /", "Dockerfile:2: ADD is not supported"),
    ],
)
def test_errors_name_the_line(builder: Builder, source: str, says: str) -> None:
    builder.write(f="f", **{"x.txt": "", "y.txt": ""})
    (builder.context / "link").symlink_to("/etc/passwd")
    code, output = builder.run(f"FROM {PYTHON}\n{source}\n")
    assert code == 1
    assert says in output
    assert "Traceback" not in output
    assert list((builder.store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--frobnicate"], 2, "unknown flag: --frobnicate"),
        (["--target=x", "--no-push"], 2, "unknown flag: --target"),
        (["--digest-file"], 2, "--digest-file needs a value"),
        (["file"], 2, "unexpected argument 'file'"),
        (["--cache=maybe"], 2, "--cache=maybe: true or false"),
        ([], 2, "no --destination"),
        (["--no-push", "--dockerfile=Nope"], 1, "--dockerfile: no such file"),
        (["--no-push", "--context=s3://bucket"], 1, "solo reads directories"),
    ],
)
def test_the_command_line_is_checked(builder: Builder, flags: list[str], code: int, says: str) -> None:
    builder.write(Dockerfile=f"FROM {PYTHON}\n")
    process = builder.start(*flags)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, says in output) == (code, True), output


def test_what_changes_nothing_is_noted(builder: Builder) -> None:
    code, output = builder.run(
        "FROM python:3.99-slim\nUSER me\nCMD true\n",
        "--insecure",
        "--skip-tls-verify",
        "--log-format=json",
        "--build-arg=X=1",
    )
    assert code == 0
    for noted in (
        "--insecure",
        "--skip-tls-verify",
        "--log-format",
        "USER me",
        "python:3.99-slim asked",
        "no ARG declares --build-arg X",
    ):
        assert noted in output
    assert builder.run(f"FROM {PYTHON}\n", "--verbosity=warn") == (0, "")


def test_an_unknown_base_is_refused_with_what_there_is(builder: Builder) -> None:
    code, output = builder.run("FROM ubuntu:24.04\n")
    assert code == 1
    assert "Dockerfile:1: no base image ubuntu:24.04 on this host" in output
    code, output = builder.run("ARG BASE\nFROM $BASE\n")
    assert "Dockerfile:2: $BASE is empty" in output


def test_the_network_settings_reach_pip_only(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://user:secret@index.invalid/packages")
    code, output = builder.run(f"FROM {PYTHON}\nRUN env\n")
    assert code == 0
    assert "secret" not in output
    assert "SOLO_IMAGES" not in output


@pytest.mark.slow
def test_two_builds_at_once_and_killed_builds_do_no_harm(builder: Builder) -> None:
    service(builder)
    source = SERVICE + "RUN seq 1 1000 > /app/numbers\n"
    (builder.context / "Dockerfile").write_text(source)
    rng = random.Random(1)
    for _ in range(4):
        process = builder.start("--destination=solo.invalid/x:1", "--cache")
        time.sleep(rng.random() * 0.6)
        process.kill()
        process.communicate()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = [
            builder.start("--destination=solo.invalid/x:1", "--cache", f"--digest-file={builder.tmp}/d{n}")
            for n in range(3)
        ]
        for job, output in zip(jobs, pool.map(lambda job: job.communicate(timeout=60)[0], jobs), strict=True):
            assert job.returncode == 0, output
    digests = {(builder.tmp / f"d{n}").read_text() for n in range(3)}
    assert len(digests) == 1
    time.sleep(1.1)  # what was just made is spared
    builder.store.sweep()
    assert list((builder.store.root / "tmp").iterdir()) == []
    assert builder.build(source, "--cache=false") in digests
