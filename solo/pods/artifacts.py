"""What argoexec does around a step: inputs placed before it, output parameters and artifacts collected after it.

Blocking; the runtime calls it in threads, and only before the first and after the last process of the pod.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

PARAMETER_BYTES = RESULT_BYTES = 256 << 10

Locate = Callable[[str], Path]  # container path of main → host path


class ObjectStore(Protocol):
    """The artifact store, as the storage emulator offers it to this process."""

    def open_blob(self, bucket: str, key: str) -> Path:
        """A local file with the object's bytes, to be read only. Raises FileNotFoundError."""

    def put_file(self, bucket: str, key: str, path: Path) -> object:
        """Store a file; may move it away."""


class InputError(Exception):
    """An input artifact cannot be placed; names it and says why."""


class OutputError(Exception):
    """An output is missing or unusable; names it and its path."""


def load_inputs(artifacts: list[dict[str, Any]], locate: Locate, objects: ObjectStore, staging: Path) -> None:
    """Place every input artifact at its path. Raises InputError."""
    for artifact in artifacts:
        name, source = artifact["name"], artifact.get("source") or {}
        target = locate(artifact["path"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if "raw" in source:
            target.write_text(source["raw"]["data"])
        elif "key" in source:
            try:
                blob = objects.open_blob(source["bucket"], source["key"])
                _place(blob, target, staging, plain="none" in _archive(artifact))
            except FileNotFoundError:
                if artifact.get("optional"):
                    continue
                raise InputError(
                    f"artifact {name} failed to load: no object {source['key']} in bucket {source['bucket']}"
                ) from None
            except (tarfile.TarError, OSError, EOFError) as problem:
                raise InputError(f"artifact {name} failed to load: {problem}") from problem
        elif not artifact.get("optional"):
            raise InputError(f"required artifact '{name}' not supplied")
        if artifact.get("mode") is not None and target.exists():
            target.chmod(int(artifact["mode"]))


def save_outputs(
    outputs: dict[str, Any], locate: Locate, objects: ObjectStore, pod: Path, staging: Path
) -> tuple[dict[str, Any], list[str]]:
    """Store what the pod wrote: `({parameters, artifacts}, problems)`.

    As argoexec does it: the first bad parameter ends the parameters, a bad artifact keeps back no other.
    Source: workflow/executor/executor.go, SaveParameters and SaveArtifacts, v4.1.4.
    """
    parameters: dict[str, str] = {}
    artifacts: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for parameter in outputs.get("parameters") or []:
        try:
            parameters[parameter["name"]] = _parameter(parameter, locate, pod)
        except OutputError as problem:
            problems.append(str(problem))
            break
    for artifact in outputs.get("artifacts") or []:
        try:
            if _store(artifact, locate, objects, pod, staging):
                artifacts[artifact["name"]] = {"bucket": artifact["bucket"], "key": artifact["key"]}
        except OutputError as problem:
            problems.append(str(problem))
    return {"parameters": parameters, "artifacts": artifacts}, problems


def read_result(path: Path) -> str:
    """The captured stdout: the last 256 KiB, without one newline at the end."""
    data = path.read_bytes().removesuffix(b"\n")
    return data[-RESULT_BYTES:].decode(errors="replace")


def unpack(archive: Path, target: Path, staging: Path) -> None:
    """Unpack a tar.gz to `target`, as Argo does: one entry alone becomes the target, several become its contents.

    Raises tarfile.TarError for absolute names, `..`, links that lead out, devices.
    """
    staging.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=staging))
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(scratch, filter=_safe)  # noqa: S202 - the filter refuses what is unsafe
        entries = list(scratch.iterdir())
        _make_room(target)
        (entries[0] if len(entries) == 1 else scratch).rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def pack(source: Path, target: Path, name: str) -> None:
    """A file or directory as tar.gz, under its base name. The same content gives the same bytes."""
    # level 1: artifacts stay on this disk, so time is worth more than the last tenth of size
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, source, name, top=source)


def _archive(artifact: dict[str, Any]) -> dict[str, Any] | str:
    archive: dict[str, Any] | str = artifact.get("archive") or ""
    return archive


def _place(blob: Path, target: Path, staging: Path, *, plain: bool) -> None:
    if not plain and _is_tarball(blob):
        unpack(blob, target, staging)
    else:
        _make_room(target)
        shutil.copyfile(blob, target)  # never a link: the step may write to it


def _make_room(target: Path) -> None:
    """An input replaces what lies at its path; a mounted directory stays and takes the contents."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)


def _is_tarball(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:gz") as tar:
            return tar.next() is not None
    except (tarfile.TarError, OSError, EOFError):
        return False


def _safe(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
    # the data filter only takes the leading slash away
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise tarfile.TarError(f"illegal file path: {member.name}")
    if member.islnk() or member.issym():
        tarfile.data_filter(member, destination)
    elif not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"illegal file type: {member.name} is neither a file, a directory nor a link")
    return tarfile.data_filter(member, destination)


def _parameter(parameter: dict[str, Any], locate: Locate, pod: Path) -> str:
    name, path = parameter["name"], parameter["path"]
    try:
        source = _inside(locate(path), pod, f"output parameter {name!r}", path)
        size = source.stat().st_size
        if size > PARAMETER_BYTES:
            raise OutputError(
                f"output parameter {name!r}: {path} has {size} bytes; more than 256 KiB must be an artifact"
            )
        if not source.is_file():
            raise OutputError(f"output parameter {name!r}: {path} is not a file")
        return source.read_text().removesuffix("\n")
    except FileNotFoundError:
        if parameter.get("default") is not None:
            return str(parameter["default"])
        raise OutputError(f"output parameter {name!r}: open {path}: no such file or directory") from None
    except UnicodeDecodeError:
        raise OutputError(f"output parameter {name!r}: {path} is not UTF-8 text") from None
    except OSError as problem:
        raise OutputError(f"output parameter {name!r}: open {path}: {problem.strerror}") from None


def _store(artifact: dict[str, Any], locate: Locate, objects: ObjectStore, pod: Path, staging: Path) -> bool:
    name, path = artifact["name"], artifact["path"]
    try:
        source = _inside(locate(path), pod, f"output artifact {name!r}", path)
        staging.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=staging)) / "object"
        if "none" not in _archive(artifact):
            pack(source, staged, Path(path).name)
        elif source.is_dir():
            raise OutputError(
                f"output artifact {name!r}: {path} is a directory; solo stores only files with `archive: none`"
            )
        else:
            shutil.copyfile(source, staged)
        objects.put_file(artifact["bucket"], artifact["key"], staged)
    except FileNotFoundError:
        if artifact.get("optional"):
            return False
        raise OutputError(f"output artifact {name!r}: open {path}: no such file or directory") from None
    except (OSError, tarfile.TarError) as problem:
        raise OutputError(f"output artifact {name!r}: {path}: {problem}") from None
    return True


def _inside(path: Path, pod: Path, what: str, named: str) -> Path:
    """The real file, which must lie in the pod's directory: a link must not carry the host's files away."""
    real = path.resolve(strict=True)
    if not real.is_relative_to(pod.resolve()):
        raise OutputError(f"{what}: {named} is a link to {real}, outside the pod")
    return real


def _add(tar: tarfile.TarFile, path: Path, name: str, *, top: Path) -> None:
    info = path.lstat()
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)
    if stat.S_ISLNK(info.st_mode):
        real = path.resolve()
        if not real.is_relative_to(top):
            raise tarfile.TarError(f"{name} is a link to {real}, outside of the artifact")
        member.type, member.linkname = tarfile.SYMTYPE, os.path.relpath(real, path.parent)
        tar.addfile(member)
    elif stat.S_ISDIR(info.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
        for entry in sorted(path.iterdir()):
            _add(tar, entry, f"{name}/{entry.name}", top=top)
    elif stat.S_ISREG(info.st_mode):
        with path.open("rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)
    else:
        raise tarfile.TarError(f"{name} is neither a file, a directory nor a link")
