"""`yard verify-image`: what the platform vouches for about an image."""

from __future__ import annotations

from pathlib import Path

from pipelines import oci, signing
from pipelines.cli.addresses import Addresses
from pipelines.errors import Exit, YardError

DOCKER = ".docker/config.json"  # below the user's home


def verify_image(addresses: Addresses, image: str, key: Path | None) -> None:
    """Print what a good signature says. Raises YardError as `signing.verify_image`, and NOT_FOUND without a key."""
    env = addresses.environment
    path = key or (Path(env["SIGNING_PUBLIC_KEY"]) if env.get("SIGNING_PUBLIC_KEY") else None)
    if path is None or not path.is_file():
        todo = "--key PUB.pem: openssl ec -in key.pem -pubout, of Secret signing in mlops-release"
        raise YardError("no public key", where=str(path or ""), todo=todo, code=Exit.NOT_FOUND)
    public = signing.public_key(path.read_bytes(), str(path))
    named = oci.parse(image)
    repository = oci.open_repository(named, {"REGISTRY_AUTH": str(Path.home() / DOCKER), **env})
    found = signing.verify_image(repository, named, public)
    print(f"{named.name}@{found.digest}: signed")
    for name, value in sorted(found.claims.items()):
        print(f"  {name:<8} {value}")
    what = "no bill of materials" if found.components is None else f"{found.components} components"
    print(f"  software {what}")
