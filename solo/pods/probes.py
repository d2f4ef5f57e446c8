"""httpGet probes of server pods, as the kubelet does them, from solo's side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

# the kubelet, too, probes out of turn while a container is not ready; `periodSeconds` counts from the first success on
EAGER_SECONDS = 0.1


class ProbeError(Exception):
    """A probe that solo cannot do."""


def check(container: Mapping[str, Any]) -> None:
    """Raises ProbeError unless every probe of the container is one that solo has."""
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(kind)
        if probe and "httpGet" not in probe:
            raise ProbeError(f"container {container['name']}: {kind}: solo has httpGet probes only")
        if probe:
            port_number(container, probe["httpGet"]["port"])


def port_number(container: Mapping[str, Any], port: int | str) -> int:
    """A port by number or by its name in `ports`."""
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for declared in container.get("ports") or []:
        if declared.get("name") == port:
            return int(declared["containerPort"])
    raise ProbeError(f"container {container['name']}: no port is named {port!r}")


async def watch(
    container: Mapping[str, Any],
    ports: Mapping[int, int],
    ready: Callable[[bool], None],
    unhealthy: Callable[[], None],
) -> None:
    """Probe one running container until cancelled; `ready` is told each change, `unhealthy` is called to restart it."""
    startup, readiness, liveness = (container.get(f"{kind}Probe") for kind in ("startup", "readiness", "liveness"))
    if startup:
        await asyncio.sleep(startup.get("initialDelaySeconds", 0))
        patience = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
        deadline = asyncio.get_running_loop().time() + patience
        while not await _get(container, startup, ports):
            if asyncio.get_running_loop().time() > deadline:
                unhealthy()
                return
            await asyncio.sleep(EAGER_SECONDS)
    if not readiness:
        ready(True)
    await asyncio.gather(
        _readiness(container, readiness, ports, ready) if readiness else asyncio.sleep(0),
        _liveness(container, liveness, ports, unhealthy) if liveness else asyncio.sleep(0),
    )


async def _readiness(
    container: Mapping[str, Any], probe: Mapping[str, Any], ports: Mapping[int, int], ready: Callable[[bool], None]
) -> None:
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    is_ready, successes, failures = False, 0, 0
    while True:
        if await _get(container, probe, ports):
            successes, failures = successes + 1, 0
        else:
            successes, failures = 0, failures + 1
        if not is_ready and successes >= probe.get("successThreshold", 1):
            is_ready = True
            ready(True)
        elif is_ready and failures >= probe.get("failureThreshold", 3):
            is_ready = False
            ready(False)
        await asyncio.sleep(probe.get("periodSeconds", 10) if is_ready else EAGER_SECONDS)


async def _liveness(
    container: Mapping[str, Any], probe: Mapping[str, Any], ports: Mapping[int, int], unhealthy: Callable[[], None]
) -> None:
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    failures = 0
    while failures < probe.get("failureThreshold", 3):
        await asyncio.sleep(probe.get("periodSeconds", 10))
        failures = 0 if await _get(container, probe, ports) else failures + 1
    unhealthy()


async def _get(container: Mapping[str, Any], probe: Mapping[str, Any], ports: Mapping[int, int]) -> bool:
    """One GET; 2xx and 3xx are healthy."""
    action = probe["httpGet"]
    port = port_number(container, action["port"])
    request = f"GET {action.get('path', '/')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer = None
    try:
        async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports.get(port, port))
            writer.write(request.encode())
            status = (await reader.readline()).split()
        return len(status) > 1 and status[1].isdigit() and 200 <= int(status[1]) < 400
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
