"""`secrets.enc.yaml`: what a person supplies, encrypted with SOPS for the age keys in `.sops.yaml`.

Its form is Secret ▸ key ▸ value. `sops` and `age-keygen` are called; values go to them and come from them through
pipes alone. Only the names of Secrets and keys are plain in the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import YardError
from pipelines.secret_values import Name

FILE, CONFIG, VERSIONS = "secrets.enc.yaml", ".sops.yaml", "versions.yaml"
BUILT = ".tools/bin"  # `make tools` puts the programs there
RELEASES = {
    "sops": "https://github.com/getsops/sops/releases",
    "age-keygen": "https://github.com/FiloSottile/age/releases",
    "gitleaks": "https://github.com/gitleaks/gitleaks/releases",
}
PINS = {"sops": "sops", "age-keygen": "age", "gitleaks": "gitleaks"}
_ENCRYPTED = re.compile(r"ENC\[AES256_GCM,data:[A-Za-z0-9+/=]*,iv:[A-Za-z0-9+/=]+,tag:[A-Za-z0-9+/=]+,type:str\]")
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]+")


class Sops:
    """The file of one checkout. Methods raise YardError; none of its texts holds a value."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file, self.config = root / FILE, root / CONFIG

    def names(self) -> list[Name]:
        """(Secret, key) of each value in the file, which takes no key to read; after the checks of `check`."""
        if not self.file.is_file():
            return []
        self.check()
        return [(secret, key) for secret, keys in _values(self._plain()).items() for key in keys]

    def check(self) -> None:
        """Raises YardError(INVALID) if a value is not encrypted, or not for exactly the keys of `.sops.yaml`."""
        document = self._plain()
        remark = next((n for n, line in enumerate(self._text().splitlines(), 1) if _comment(line)), None)
        if remark:
            raise YardError("a comment that is plain", where=f"{FILE}:{remark}", todo=f"take it out: sops edit {FILE}")
        for secret, keys in _values(document).items():
            for key, value in keys.items():
                if not (isinstance(value, str) and _ENCRYPTED.fullmatch(value)):
                    todo = "if it was ever committed or copied, take it out of use; then `yard secrets set` a new one"
                    raise YardError("a value that is not encrypted", where=f"{FILE}: {secret}.{key}", todo=todo)
        mine = {str(entry.get("recipient")) for entry in document["sops"].get("age") or []}
        others = [k for k in ("kms", "gcp_kms", "azure_kv", "hc_vault", "pgp", "hckms") if document["sops"].get(k)]
        wanted = set(self.recipients())
        if others or mine != wanted:
            extra = sorted(mine - wanted) + others
            what = f"encrypted for {len(mine)} keys, and {CONFIG} names {len(wanted)}"
            what += f"; too many: {', '.join(extra)}" if extra else ""
            todo = f"sops updatekeys {FILE}; who was taken out still knows the values: rotate them"
            raise YardError(what, where=FILE, todo=todo)
        if not document["sops"].get("mac"):
            raise YardError("has no checksum (sops.mac)", where=FILE, todo="git log -p says who changed it")

    def read(self) -> dict[Name, str]:
        """All values; none if there is no file. Raises YardError if no key opens it."""
        if not self.file.is_file():
            return {}
        self.check()
        text = self._run("sops", "decrypt", "--input-type", "yaml", "--output-type", "json", str(self.file))
        return {(secret, key): str(v) for secret, keys in json.loads(text).items() for key, v in keys.items()}

    def write(self, name: Name, value: str) -> None:
        """Add or change one value. The others keep their bytes; a crash leaves the old file or the new one."""
        secret, key = name
        self.recipients()
        handle, where = tempfile.mkstemp(prefix=".secrets.enc.", suffix=".yaml", dir=self.root)
        os.close(handle)
        new = Path(where)
        try:
            if self.file.is_file():
                self.check()
                shutil.copyfile(self.file, new)
                index = f"[{json.dumps(secret)}][{json.dumps(key)}]"
                if secret not in _values(self._plain()):  # sops makes no mapping on the way to a key
                    index, text = f"[{json.dumps(secret)}]", json.dumps({key: value})
                else:
                    text = json.dumps(value)
                self._run("sops", "set", "--value-stdin", str(new), index, given=text)
            else:
                kinds = ("--input-type", "json", "--output-type", "yaml", "--filename-override", FILE)
                text = self._run("sops", "encrypt", *kinds, given=json.dumps({secret: {key: value}}))
                new.write_text(text)
            new.chmod(0o644)
            new.replace(self.file)
        finally:
            new.unlink(missing_ok=True)

    def recipients(self) -> list[str]:
        """The age keys that `.sops.yaml` names for the file. Raises YardError."""
        try:
            rules = yaml.safe_load(self.config.read_text())["creation_rules"]
            (rule,) = (rule for rule in rules if re.search(rule.get("path_regex", ""), FILE))
            given = rule["age"]
            names = [name.strip() for name in (given.split(",") if isinstance(given, str) else given)]
        except FileNotFoundError:
            todo = "yard secrets init"
            raise YardError("there is no such file", where=CONFIG, todo=todo) from None
        except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
            todo = f"one entry of creation_rules for {FILE}, with `age:`"
            raise YardError("not understood", where=CONFIG, todo=todo) from None
        for name in names:
            if not _RECIPIENT.fullmatch(name):
                raise YardError(f"{name!r} is no age recipient", where=CONFIG, todo="write age1…")
        if extra := rule.keys() - {"path_regex", "age"}:
            todo = "take it out: every value is to be encrypted, for age keys alone"
            raise YardError(f"the rule for {FILE} has {', '.join(sorted(extra))}", where=CONFIG, todo=todo)
        return names

    def init(self) -> tuple[Path, str, bool]:
        """Make this person's age key if there is none, and `.sops.yaml` if there is none; returns the key's file, its
        public part, and whether `.sops.yaml` names that.
        """
        path = key_file()
        if path.resolve().is_relative_to(self.root.resolve()):
            raise YardError("would lie in the repository", where=str(path), todo="choose another SOPS_AGE_KEY_FILE")
        if not path.exists():
            secret = self._run("age-keygen")
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret)
        elif path.stat().st_mode & 0o077:
            raise YardError("others can read this key", where=str(path), todo=f"chmod 600 {path}")
        mine = self._run("age-keygen", "-y", str(path)).split()
        if not self.config.exists():
            self.config.write_text(
                f"# who can read {FILE}; after a change: sops updatekeys {FILE}\n"
                f"creation_rules:\n  - path_regex: (^|/){FILE.replace('.', chr(92) + '.')}$\n    age: [{mine[0]}]\n"
            )
        return path, mine[0], bool(set(mine) & set(self.recipients()))

    def _text(self) -> str:
        try:
            return self.file.read_text()
        except OSError as error:
            raise YardError(f"cannot be read: {error.strerror}", where=FILE) from None

    def _plain(self) -> dict[str, Any]:
        """The document as it lies on the disk."""
        try:
            document = yaml.safe_load(self._text())
        except yaml.YAMLError:
            document = None
        if not isinstance(document, dict) or not isinstance(document.get("sops"), dict):
            todo = "move it away; if it was ever committed, take its values out of use; then `yard secrets set`"
            raise YardError("is not encrypted", where=FILE, todo=todo)
        return document

    def _run(self, program: str, *words: str, given: str = "") -> str:
        """What a program prints. Raises YardError, whose text is made here: theirs may quote what they read."""
        path = find(program, self.root)
        environment = {**os.environ, "SOPS_DISABLE_VERSION_CHECK": "1"}
        config = ("--config", str(self.config)) if program == "sops" else ()
        done = subprocess.run(
            [path, *config, *words], input=given, capture_output=True, text=True, env=environment, cwd=self.root
        )
        if done.returncode == 0:
            return done.stdout
        told = done.stderr
        if "identity did not match" in told or "failed to load age identities" in told or "data key" in told:
            what = "none of this person's age keys opens it"
            todo = f"SOPS_AGE_KEY_FILE or {key_file()}; who has one adds yours to {CONFIG}: yard secrets init prints it"
            raise YardError(what, where=FILE, todo=todo)
        if "MAC mismatch" in told or "ould not decrypt value" in told:
            todo = "git log -p says who; `git restore` it"
            raise YardError(
                "was changed by hand: values or names are not those that were encrypted", where=FILE, todo=todo
            )
        first = words[0] if words else ""
        todo = f"{program} {first} {FILE}, by hand, says more"
        raise YardError(f"{program} {first} failed (exit code {done.returncode})", where=FILE, todo=todo)


def key_file() -> Path:
    """Where SOPS looks for a person's age key."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("SOPS_AGE_KEY_FILE") or home / "sops/age/keys.txt")


def find(program: str, root: Path) -> str:
    """The program on PATH, else the one that `make tools` built. Raises YardError."""
    found = shutil.which(program) or shutil.which(program, path=str(root / BUILT))
    if found:
        return found
    version = pinned(program, root)
    todo = f"`make tools` (needs Go), or put version {version} on PATH from {RELEASES[program]}"
    raise YardError(f"the program {program} is not here", todo=todo)


def pinned(program: str, root: Path) -> str:
    tools: Mapping[str, object] = yaml.safe_load((root / VERSIONS).read_text())["tools"]
    return str(tools[PINS[program]])


def _values(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Secret → key → what stands there, encrypted or not."""
    found = {}
    for secret, keys in document.items():
        if secret != "sops":  # noqa: S105 - what SOPS itself writes
            found[str(secret)] = keys if isinstance(keys, dict) else {"": keys}
    return found


def _comment(line: str) -> bool:
    return "#" in line and "#ENC[" not in line
