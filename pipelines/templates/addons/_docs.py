"""docs/addons.md: what each add-on is, needs, and what was not checked of it. From ADDONS and what these render."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import getdoc
from sys import modules

from pipelines.secret_values import VALUES, Given, Made
from pipelines.templates.addons._addon import Addon, Pins

HEAD = """# Add-ons

Made by `make render` from `pipelines/templates/addons/`. Each is a folder `applications/<name>/` and an option of
[platform.yaml](platform.md#addons). The folders are always there, to be read and checked; Argo CD has an Application
for those that are on, and for no others. To turn one on: the option, its Secrets (`yard secrets`), `make render`,
commit, push. How to copy and restore databases: [operations.md](operations.md#backup-and-restore).
"""


def markdown(addons: Iterable[Addon], pins: Pins) -> str:
    text = [HEAD]
    for addon in addons:
        text.append(f"\n## {addon.name}\n\n{_about(addon)}\n\n")
        if addon.chart:
            version = pins.charts[addon.chart.name]
            text.append(f"- chart: {addon.chart.name} {version} from {addon.chart.repository}\n")
        if addon.needs:
            text.append(f"- needs: {', '.join(addon.needs)}\n")
        text.append(f"- namespaces: {', '.join(addon.namespaces) or 'none of its own'}\n")
        if addon.unchecked:
            text.append(f"- not checked here: {addon.unchecked}\n")
        for secret in addon.secrets:
            text.append(f"- Secret `{secret.name}` in {secret.namespace}, {secret.what}: {secret.maker} makes it\n")
        for words, kind in (("a person supplies", Given), ("`yard secrets apply` makes", Made)):
            names = dict.fromkeys(
                value.secret for value in VALUES if value.when.addon == addon.name and isinstance(value.source, kind)
            )
            if names:
                listed = ", ".join(f"`{name}`" for name in names)
                text.append(f"- Secrets that {words} ([secrets.md](secrets.md)): {listed}\n")
    return "".join(text)


def _about(addon: Addon) -> str:
    """The words at the top of its module, without "The add-on `x`:"."""
    module = addon.files.__module__
    words = " ".join((getdoc(modules[module]) or "").split())
    start = f"The add-on `{addon.name}`: "
    if not words.startswith(start):
        return ABOUT[addon.name]
    words = words.removeprefix(start)
    return words[0].upper() + words[1:]


ABOUT = {
    "storage": "An object store in the cluster, for development: solo's emulator on a volume. It has no copies, and "
    "its scratch bucket is open to whom the network lets in."
}
