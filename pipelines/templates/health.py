"""How Argo CD judges kinds for which it has no check of its own, or one that is not enough for waves to wait.

Argo CD waits for a wave until all of it is Healthy, and a Degraded object makes the sync fail. So what ends by itself
is Progressing, and Degraded is only what somebody has to mend. The language is Lua 5.1 without `string`, as Argo CD
runs it.
"""

from __future__ import annotations

# Argo CD has none for its own Applications (docs/operator-manual/health.md). Their health alone does not say enough:
# it is Healthy when objects are missing, and when nothing could be rendered.
_APPLICATION = """\
local status = obj.status or {}
local sync = (status.sync or {}).status
local operation = status.operationState or {}
local health = status.health or {}

for _, condition in ipairs(status.conditions or {}) do
  local kind = condition.type
  if kind == "InvalidSpecError" or (kind == "ComparisonError" and sync ~= "Synced") then
    return { status = "Degraded", message = condition.message }
  end
end
if operation.phase == "Running" or operation.phase == "Terminating" then
  return { status = "Progressing", message = operation.message or "" }
end
if sync ~= "Synced" then
  if operation.phase == "Failed" or operation.phase == "Error" then
    return { status = "Degraded", message = operation.message or "" }
  end
  if operation.phase ~= "Succeeded" then
    return { status = "Progressing", message = "not synced yet" }
  end
end
if health.status == "Healthy" or health.status == "Degraded" or health.status == "Suspended" then
  return { status = health.status, message = health.message or "" }
end
return { status = "Progressing", message = health.message or "" }
"""

# pkg/apis/events/v1alpha1: every condition is Unknown at first and True at the end. What waits for an EventBus says
# False, and mends itself when the bus is there.
_EVENTS = """\
local waits = { EventBusNotFound = true, EventBusNotReady = true, GetEventBusFailed = true }
local wanted = { %s }
local seen = {}
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  if condition.status == "False" then
    local message = condition.message or condition.reason or condition.type
    if waits[condition.reason or ""] then
      return { status = "Progressing", message = message }
    end
    return { status = "Degraded", message = message }
  end
  seen[condition.type] = condition.status
end
for _, name in ipairs(wanted) do
  if seen[name] ~= "True" then
    return { status = "Progressing", message = "waiting for " .. name }
  end
end
return { status = "Healthy", message = "" }
"""

# Upstream's says Degraded in the second between a name's acceptance and the kind's arrival; Argo CD hears of no later
# change, for a CRD is of no Application, and the wave above it fails.
_KIND = """\
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  local kind, state = condition.type, condition.status
  if (kind == "NamesAccepted" and state == "False") or (kind == "NonStructuralSchema" and state == "True") then
    return { status = "Degraded", message = condition.message or kind }
  end
end
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  if condition.type == "Established" and condition.status == "True" then
    return { status = "Healthy", message = "" }
  end
end
return { status = "Progressing", message = "not established yet" }
"""


def _events(*conditions: str) -> str:
    return _EVENTS % ", ".join(f'"{condition}"' for condition in conditions)


# group/kind → script
CHECKS = {
    "argoproj.io/Application": _APPLICATION,
    "apiextensions.k8s.io/CustomResourceDefinition": _KIND,
    "argoproj.io/EventBus": _events("Configured", "Deployed"),
    "argoproj.io/EventSource": _events("SourcesProvided", "Deployed"),
    "argoproj.io/Sensor": _events("DependenciesProvided", "TriggersProvided", "Deployed"),
}


def settings() -> dict[str, str]:
    """The checks as keys of ConfigMap `argocd-cm`."""
    return {f"resource.customizations.health.{kind.replace('/', '_')}": text for kind, text in CHECKS.items()}
