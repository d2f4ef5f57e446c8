"""Names that Argo derives from others: the id of a node and the name of its pod, both by FNV-1a."""

from __future__ import annotations

# Kubernetes' limit for a name, less "-" and the ten digits of a hash
_LONGEST_PREFIX = 253 - 10 - 1


def fnv32a(text: str) -> int:
    digest = 0x811C9DC5
    for byte in text.encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return digest


def node_id(workflow: str, node: str) -> str:
    """The id of the node named `node`; the root node is named, and known, as its workflow."""
    return node if node == workflow else f"{workflow}-{fnv32a(node)}"


def pod_name(workflow: str, node: str, template: str) -> str:
    """The second of Argo's naming schemes: workflow, template, hash of the node's name."""
    if node == workflow:
        return workflow
    prefix = f"{workflow}-{template}" if template else workflow
    return f"{prefix[:_LONGEST_PREFIX]}-{fnv32a(node)}"


def on_exit(node: str) -> str:
    return f"{node}.onExit"


def task_name(node: str) -> str:
    """The DAG task of a node: `wf.sub.fan(0:a)(1)` → `fan`."""
    depth, end = 0, len(node)
    for index in range(len(node) - 1, -1, -1):
        if node[index] == ")":
            depth += 1
        elif node[index] == "(":
            depth -= 1
            end = index
        elif depth == 0:
            break
    return node[:end].rpartition(".")[2]
