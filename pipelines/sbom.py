"""What software an image holds, from its layers: a software bill of materials in CycloneDX 1.6.

Python distributions (`*.dist-info/METADATA`) and Debian packages (`var/lib/dpkg/status`, `status.d/`). The same image
gives the same bytes. Sources: CycloneDX 1.6 JSON schema, the package-url specification, OCI image specification 1.1
(layers and whiteouts), PyPA's core metadata, dpkg's status file.
"""

from __future__ import annotations

import email
import re
import tarfile
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from pipelines.errors import YardError

MEDIA_TYPE = "application/vnd.cyclonedx+json"
MODES = {"": "r|", "gzip": "r|gz"}
PYTHON = re.compile(r"(?:.*/)?[^/]+\.dist-info/METADATA")
DEBIAN = re.compile(r"var/lib/dpkg/status(?:\.d/[^/]+(?<!\.md5sums))?")
SYSTEM = re.compile(r"(?:etc|usr/lib)/os-release")
WORD = re.compile(r"[!-~]{1,200}")  # a name or version: anything else would not survive the way through tools
LICENSE = re.compile(r"[\w .,()/+-]{1,64}")  # a name; some put the whole text there
# bytes that are read at a time: tarfile copies what is left of them for each of its small reads, so that with 1 MiB the
# image of digits takes 38 s, with this 6 s
PIECE = 16 << 10
LARGEST = 32 << 20  # bytes of one such file
OPAQUE, WHITEOUT = ".wh..wh..opq", ".wh."

Component = dict[str, Any]


class Stream(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class Package(NamedTuple):
    kind: str  # pypi, deb
    name: str
    version: str
    license: str = ""
    is_expression: bool = False
    architecture: str = ""


class Contents:
    """What was found so far, file by file; layers are added from the lowest to the highest."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add(self, layer: Stream, media_type: str) -> None:
        """Read one layer's tar to its end, as a stream. Raises YardError(INVALID) for what is not one."""
        found: dict[str, bytes] = {}
        known = {*self.files, *(parent for name in self.files for parent in _parents(name))}
        hidden: set[str] = set()  # below these nothing of the lower layers is left
        gone: set[str] = set()  # as `hidden`, and the name itself
        try:
            with tarfile.open(fileobj=layer, mode=_mode(media_type), bufsize=PIECE) as tar:  # type: ignore[call-overload]
                for member in _members(tar):
                    name = _clean(member.name)
                    parent, _, last = name.rpartition("/")
                    if last == OPAQUE:
                        hidden.add(parent)
                    elif last.startswith(WHITEOUT):
                        gone.add(f"{parent}/{last.removeprefix(WHITEOUT)}".lstrip("/"))
                    elif not member.isdir():
                        if name in known:  # a file there, or a link where a directory was
                            gone.add(name)
                        if _wanted(name):
                            found |= _content(tar, member, name, found)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise YardError(f"a layer is no tar archive: {error}", where=media_type) from None
        self.files = {name: data for name, data in self.files.items() if not _covered(name, gone, hidden)} | found

    def packages(self, note: Callable[[str], None]) -> list[Package]:
        """In order, each once; `note` is told of files that cannot be used."""
        packages: set[Package] = set()
        for name in sorted(self.files):
            if not SYSTEM.fullmatch(name):
                of = _python if PYTHON.fullmatch(name) else _debian
                read = list(of(self.files[name].decode(errors="replace")))
                good = [p for p in read if WORD.fullmatch(p.name) and WORD.fullmatch(p.version)]
                packages.update(good)
                if len(good) < len(read) or (not read and PYTHON.fullmatch(name)):
                    note(f"/{name}: without a name and a version that can be read")
        return sorted(packages)

    @property
    def distribution(self) -> str:
        """Debian, or what was made from it, as os-release names it."""
        for name, data in sorted(self.files.items()):
            if SYSTEM.fullmatch(name) and (found := re.search(rb"^ID=\"?([a-z0-9._-]+)\"?$", data, re.MULTILINE)):
                return found[1].decode()
        return "debian"


def document(image: str, digest: str, contents: Contents, note: Callable[[str], None]) -> dict[str, Any]:
    """The bill of materials of image `name@digest`."""
    distribution = contents.distribution
    components = {part["bom-ref"]: part for part in (_component(p, distribution) for p in contents.packages(note))}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # from the digest alone: the same image, the same document
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, digest).urn,
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": digest, "name": image, "version": digest}},
        "components": [components[key] for key in sorted(components)],
    }


def _component(package: Package, distribution: str) -> Component:
    name, version = package.name, urllib.parse.quote(package.version, safe=":")
    if package.kind == "pypi":
        # PyPA's normalisation: what pip treats as one name is one name
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
    else:
        query = f"?arch={urllib.parse.quote(package.architecture)}" if package.architecture else ""
        purl = f"pkg:deb/{distribution}/{urllib.parse.quote(name.lower())}@{version}{query}"
    part: Component = {"type": "library", "bom-ref": purl, "name": name, "version": package.version, "purl": purl}
    if package.license:
        named = {"expression": package.license} if package.is_expression else {"license": {"name": package.license}}
        part["licenses"] = [named]
    return part


def _python(text: str) -> Iterator[Package]:
    fields = email.message_from_string(text)
    name, version = fields.get("Name"), fields.get("Version")
    if name and version:
        expression, license = str(fields.get("License-Expression", "")), str(fields.get("License", ""))
        simple = expression or (license if LICENSE.fullmatch(license) and license != "UNKNOWN" else "")
        yield Package("pypi", str(name).strip(), str(version).strip(), simple, bool(expression))


def _debian(text: str) -> Iterator[Package]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*?)[ \t]*$", paragraph, re.MULTILINE))
        # status.d has no Status: what is there is installed
        if "Package" in fields and fields.get("Status", " installed").endswith(" installed"):
            architecture = fields.get("Architecture", "")
            yield Package("deb", fields["Package"], fields.get("Version", ""), architecture=architecture)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, none kept: tarfile would remember every file of a layer."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, found: dict[str, bytes]) -> dict[str, bytes]:
    """The file by its name; of a hard link what it is a link to, which stands before it in the same layer."""
    if member.islnk():
        target = _clean(member.linkname)
        return {name: found[target]} if target in found else {}
    if member.size > LARGEST:
        raise YardError(f"{member.size} bytes, {LARGEST} at most", where=f"/{name} in the image")
    file = tar.extractfile(member) if member.isreg() else None
    return {name: file.read()} if file else {}


def _mode(media_type: str) -> str:
    """tarfile's mode for a layer's media type, of OCI (`…tar+gzip`) or Docker (`…tar.gzip`)."""
    found = re.fullmatch(r".*\.tar(?:[.+](\w+))?", media_type)
    if found is None or (found[1] or "") not in MODES:
        raise YardError(f"a layer of type {media_type}", where="the image's manifest", todo="build it with gzip layers")
    return MODES[found[1] or ""]


def _wanted(name: str) -> bool:
    return bool(PYTHON.fullmatch(name) or DEBIAN.fullmatch(name) or SYSTEM.fullmatch(name))


def _covered(name: str, gone: set[str], hidden: set[str]) -> bool:
    return name in gone or any(parent in gone or parent in hidden for parent in _parents(name))


def _parents(name: str) -> Iterable[str]:
    parts = name.split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(len(parts) + 1))


def _clean(name: str) -> str:
    """`./usr/lib` and `/usr/lib` are `usr/lib`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
