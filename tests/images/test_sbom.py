"""What is in an image, from its layers: what a later layer takes away is not in it."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from image_world import LAYER, tar, wheel

from pipelines.errors import YardError
from pipelines.oci import canonical
from pipelines.sbom import Contents, document

DIGEST = "sha256:" + "a" * 64
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u8
Description: GNU C Library
 it goes on
 .
 Version: 9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1:1.0-1

Package: tzdata
Status: install ok installed
Architecture: all
Version: 1:2024a-0
"""


def contents(*layers):
    found = Contents()
    for layer in layers:
        found.add(io.BytesIO(layer), LAYER)
    return found


def purls(*layers, notes=None):
    listed = document(
        "solo.invalid/acme/digits", DIGEST, contents(*layers), (notes if notes is not None else []).append
    )
    return [component["purl"] for component in listed["components"]]


def test_python_and_debian_packages_are_listed():
    layer = tar(
        ("etc/os-release", 'NAME="x"\nID=debian\n'),
        ("./var/lib/dpkg/status", STATUS),
        wheel("Zope.Interface", "7.1+local"),
    )
    assert purls(layer) == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u8?arch=amd64",
        "pkg:deb/debian/tzdata@1:2024a-0?arch=all",
        "pkg:pypi/zope-interface@7.1%2Blocal",
    ]


def test_distroless_images_and_other_distributions():
    one = ("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\nArchitecture: amd64\n")
    sums = ("var/lib/dpkg/status.d/base.md5sums", "Package: no\nVersion: 1\n")
    assert purls(tar(one, sums, ("usr/lib/os-release", "ID=ubuntu\n"))) == ["pkg:deb/ubuntu/base-files@12?arch=amd64"]


@pytest.mark.parametrize(
    ("fields", "licenses"),
    [
        ("License-Expression: MIT OR Apache-2.0\n", [{"expression": "MIT OR Apache-2.0"}]),
        ("License: BSD-3-Clause\n", [{"license": {"name": "BSD-3-Clause"}}]),
        ("License: UNKNOWN\n", None),
        ("License: Copyright (c) 2024\n        all of the text\n", None),
        ("", None),
    ],
)
def test_a_license_is_told_if_it_is_a_name(fields, licenses):
    (component,) = document("x", DIGEST, contents(tar(wheel("a", "1", fields))), print)["components"]
    assert component.get("licenses") == licenses


@pytest.mark.parametrize(
    ("later", "left"),
    [
        (tar(("p/.wh.a-1.dist-info", "")), ["b"]),
        (tar(("p/a-1.dist-info/.wh.METADATA", "")), ["b"]),
        (tar((".wh.p", "")), []),
        (tar(("p/.wh..wh..opq", "")), []),
        (tar(("p/.wh..wh..opq", ""), wheel("c", "1", where="p")), ["c"]),
        (tar(wheel("c", "1", where="p"), ("p/.wh..wh..opq", "")), ["c"]),
        (tar(links=(("p", "elsewhere", tarfile.SYMTYPE),)), []),
        (tar(("p", "a file now")), []),
        (tar(("p/a-1.dist-info/METADATA", "Name: a2\nVersion: 3\n")), ["a2", "b"]),
        (tar(("p", None)), ["a", "b"]),
        (tar(("other/.wh.p", ""), ("px", "")), ["a", "b"]),
    ],
)
def test_what_a_later_layer_takes_away_is_not_listed(later, left):
    lower = tar(("p", None), wheel("a", "1", where="p"), wheel("b", "1", where="p"))
    listed = document("x", DIGEST, contents(lower, later), print)["components"]
    assert sorted(component["name"] for component in listed) == left


def test_a_hard_link_within_a_layer_is_the_file():
    name, text = wheel("a", "1", where="root/.cache/uv")
    link = ("usr/lib/site-packages/a-1.dist-info/METADATA", name, tarfile.LNKTYPE)
    assert purls(tar((name, text), links=(link,))) == ["pkg:pypi/a@1"]
    assert purls(tar((name, text), links=(link,)), tar(("root/.wh..cache", ""))) == ["pkg:pypi/a@1"]


def test_the_same_image_gives_the_same_bytes_whatever_the_order_of_its_files():
    parts = [wheel("a", "1"), wheel("b", "2"), wheel("a", "1", where="app/venv")]
    first, second = (document("x", DIGEST, contents(tar(*order)), print) for order in (parts, parts[::-1]))
    assert canonical(first) == canonical(second)
    assert first["serialNumber"].startswith("urn:uuid:")
    assert first["serialNumber"] != document("x", "sha256:" + "b" * 64, contents(tar(*parts)), print)["serialNumber"]
    assert [c["name"] for c in first["components"]] == ["a", "b"]


def test_metadata_that_cannot_be_used_is_noted_and_left_out():
    notes = []
    bad = [("x/a-1.dist-info/METADATA", b"\xff\xfe\0"), ("x/b-1.dist-info/METADATA", "Name: a b\nVersion: 1\n")]
    assert purls(tar(*bad, wheel("c", "1")), notes=notes) == ["pkg:pypi/c@1"]
    assert [note.partition(":")[0] for note in notes] == [f"/{name}" for name, _ in bad]


def test_a_layer_may_be_zipped_by_oci_or_by_docker():
    data = gzip.compress(tar(wheel("a", "1")))
    for media_type in (f"{LAYER}+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"):
        found = Contents()
        found.add(io.BytesIO(data), media_type)
        assert len(found.packages(print)) == 1


@pytest.mark.parametrize(
    ("data", "media_type", "why"),
    [
        (b"no tar" * 500, LAYER, "no tar archive"),
        (b"no gzip" * 500, f"{LAYER}+gzip", "no tar archive"),
        (gzip.compress(tar(wheel("a", "1")))[:-40], f"{LAYER}+gzip", "no tar archive"),
        (tar(("f", b"x" * 5000))[:2000], LAYER, "no tar archive"),
        (b"", f"{LAYER}+zstd", "tar+zstd"),
        (b"", "application/x-other", "application/x-other"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused(data, media_type, why):
    with pytest.raises(YardError) as error:
        Contents().add(io.BytesIO(data), media_type)
    assert why in str(error.value)


def test_a_huge_file_is_not_read_into_memory():
    with pytest.raises(YardError, match="at most"):
        purls(tar(("var/lib/dpkg/status", b" " * ((32 << 20) + 1))))
