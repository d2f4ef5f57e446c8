"""`mlops.yaml`, the contract with an application repository: what to run, on what data, when its model may serve."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from pipelines.documents import Strict, mistake, read, suggest

FILE = "mlops.yaml"
Environment = Literal["dev", "stage", "prod"]
ENVIRONMENTS: tuple[str, ...] = get_args(Environment)
LONGEST = 24 * 3600  # seconds: no step outlives its run

# what the serving process gets from the platform, the container runtime or solo: a service cannot set it
RESERVED = {
    "BUNDLE_DIGEST",
    "HOME",
    "HOST",
    "HOSTNAME",
    "LOCK",
    "MODEL_NAME",
    "MODEL_VERSION",
    "PATH",
    "PORT",
    "TMPDIR",
}
# Kubernetes' own, and what would change how the platform's program is loaded
RESERVED_BEGINNINGS = ("KUBERNETES_", "LD_", "PYTHON")


class Metric(NamedTuple):
    """A number that `evaluate` computes. Which bound it can have follows from its direction."""

    bound: Literal["min", "max"]
    highest: float
    by_slice: bool = False  # computed for every slice as well
    paired: bool = False  # compared row by row with the model that serves


METRICS = {
    "accuracy": Metric("min", 1.0, by_slice=True, paired=True),
    "macro_f1": Metric("min", 1.0),
    "log_loss": Metric("max", math.inf),
}


def load(source: Path | str, name: str | None = None) -> Config:
    """The contract in a file (a Path) or in a text; `name` is what messages call it.

    Raises YardError: INVALID with file, line, field and what to do next; NOT_FOUND for a missing file.
    """
    return read(source, Config, name or (source.name if isinstance(source, Path) else FILE))


def schema() -> dict[str, Any]:
    """The JSON Schema of `mlops.yaml`, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


# --- words and sizes -------------------------------------------------------------------------------------------------


def _dns_label(text: str) -> str:
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", text) or len(text) > 40:
        raise mistake(
            f"{text!r} is not a name: small letters, digits and dashes, beginning with a letter, at most 40",
            f"write {_near_name(text)!r}",
        )
    return text


def _near_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")[:40].strip("-") or "my-service"


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text):
        raise mistake(f"{text!r} is not a name: letters, digits and _, not beginning with a digit", "rename it")
    return text


def _command(text: str) -> str:
    if not text.strip():
        raise mistake("an empty command", "write what to run, as in a shell")
    if any(ord(char) < 32 and char not in "\n\t" for char in text):
        raise mistake("the command contains a control character", "remove it")
    return text


def _duration(text: str) -> str:
    if not 1 <= _seconds(text) <= LONGEST:
        raise mistake(f"{text!r} is not a duration from 1s to 24h", "write for example 90s, 10m or 2h")
    return text


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(?=\d)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text, re.ASCII)
    if not match:
        return 0
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _cpu(text: str) -> str:
    match = re.fullmatch(r"(\d{1,6})m|(\d{1,4}(?:\.\d{1,3})?)", text, re.ASCII)
    if not match or float(match[1] or match[2]) <= 0:
        raise mistake(f"{text!r} is not an amount of CPU", 'write cores as "1" or "0.5", or thousandths as 500m')
    return text


def _memory(text: str) -> str:
    match = re.fullmatch(r"(\d{1,6})(Ki|Mi|Gi|Ti)", text, re.ASCII)
    if not match or int(match[1]) == 0:
        raise mistake(f"{text!r} is not an amount of memory", "write for example 512Mi or 2Gi")
    return text


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w./+-]+", text):
        raise mistake(
            f"{text!r} is not a path inside the repository", "write a path relative to mlops.yaml's directory"
        )
    return text


def _scalar(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise mistake("a parameter must be a number, a text, true or false", "use several parameters for a structure")
    if isinstance(value, float) and not math.isfinite(value):
        raise mistake(f"must be a finite number, got {value}", "write a number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise mistake("a whole number of more than 64 bits", "put it in quotes and convert it in your code")
    return value


def _variable(name: str) -> str:
    _identifier(name)
    if name in RESERVED or name.startswith(RESERVED_BEGINNINGS):
        known = ", ".join([*sorted(RESERVED), *(f"{beginning}…" for beginning in RESERVED_BEGINNINGS)])
        raise mistake(f"{name!r} is set by the platform, not by a service", f"choose another name; reserved: {known}")
    return name


def _setting(text: str) -> str:
    if any(ord(char) < 32 and char not in "\n\t" for char in text):
        raise mistake("the value contains a control character", "remove it")
    return text


def _metric(name: str) -> str:
    if name not in METRICS:
        raise mistake("a threshold for a metric that the platform does not compute", suggest(name, METRICS))
    return name


DnsLabel = Annotated[str, AfterValidator(_dns_label)]
Identifier = Annotated[str, AfterValidator(_identifier)]
MetricName = Annotated[str, AfterValidator(_metric)]
Variable = Annotated[str, AfterValidator(_variable)]
Scalar = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr, BeforeValidator(_scalar)]


# --- the file, top down ----------------------------------------------------------------------------------------------


class Command(Strict):
    """Something of the user's own that runs in the user's image."""

    command: Annotated[str, AfterValidator(_command)] = Field(
        description="run by sh -c in the image's working directory"
    )
    timeout: Annotated[str, AfterValidator(_duration)] = Field(default="30m", description="as in 90s, 10m, 1h30m")

    @property
    def seconds(self) -> int:
        return _seconds(self.timeout)


class Expect(Strict):
    """What the data must look like before anything is made from it."""

    rows: int = Field(default=1, ge=1, description="least number of rows, all files together")
    label: str = Field(default="", description="the label's column")
    classes: list[str] = Field(default=[], description="exactly these labels appear")
    missing: float = Field(default=0.0, ge=0, le=1, description="share of empty cells allowed in a row")

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) != len(classes):
            raise mistake("a class is listed twice", "remove one of the two")
        return classes

    @model_validator(mode="after")
    def _labelled(self) -> Expect:
        if self.classes and not self.label:
            raise mistake("`classes` without `label`", "add `label:` with the name of the label's column")
        return self


class Data(Command):
    """The data version line, and the command that writes CSV files to $DATA_DIR."""

    name: DnsLabel
    expect: Expect = Expect()


class Resources(Strict):
    """What training may use; `gpu` above 0 places it on a node with GPUs."""

    cpu: Annotated[str, AfterValidator(_cpu)] = "1"
    memory: Annotated[str, AfterValidator(_memory)] = "1Gi"
    gpu: int = Field(default=0, ge=0, le=16)


class Train(Command):
    """Reads $FEATURES_DIR and $PARAMS_FILE, writes $MODEL_DIR/model.onnx."""

    resources: Resources = Resources()


class Threshold(Strict):
    """The bound of one metric: `min` if more is better, `max` if less is."""

    min: float | None = None
    max: float | None = None


class SliceFloor(Strict):
    """A bound that every slice must hold, and how many samples it takes to tell."""

    by: Identifier = Field(description="`label`, or a slice column s_<name> of test.npz, without s_")
    min: float = Field(ge=0, le=1)
    samples: int = Field(default=1, ge=1, description="least number of samples in every slice")


class NonInferiority(Strict):
    """Not worse than the model that serves by more than `margin`, at this one-sided confidence."""

    metric: MetricName
    margin: float = Field(gt=0, lt=1)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)

    @field_validator("metric")
    @classmethod
    def _paired(cls, name: str) -> str:
        return _only(name, [known for known, metric in METRICS.items() if metric.paired], "is not compared row by row")


class Gate(Strict):
    """When a model may serve. What is not measured is refused."""

    samples: int = Field(ge=1, description="least number of held-out samples")
    metrics: dict[MetricName, Threshold] = Field(min_length=1)
    slices: dict[MetricName, SliceFloor] = Field(default={})
    serving: NonInferiority | None = None

    @field_validator("metrics")
    @classmethod
    def _bounded(cls, metrics: dict[str, Threshold]) -> dict[str, Threshold]:
        for name, threshold in metrics.items():
            bound, highest = METRICS[name].bound, METRICS[name].highest
            value = getattr(threshold, bound)
            if (threshold.min is not None and threshold.max is not None) or value is None:
                better = "more" if bound == "min" else "less"
                what = f"{better} is better, so its threshold is `{bound}` alone"
                raise mistake(what, f"write {name}: {{{bound}: …}}", name)
            if not 0 <= value <= highest:
                raise mistake(
                    f"{value:g} can never decide, {name} is from 0 to {highest:g}", "change the value", name, bound
                )
        return metrics

    @field_validator("slices")
    @classmethod
    def _sliced(cls, slices: dict[str, SliceFloor]) -> dict[str, SliceFloor]:
        for name in slices:
            _only(
                name,
                [known for known, metric in METRICS.items() if metric.by_slice],
                "is not computed for slices",
                name,
            )
        return slices


def _only(name: str, known: list[str], why: str, *at: str) -> str:
    if name not in known:
        raise mistake(f"{name} {why}", suggest(name, known), *at)
    return name


class Scale(Strict):
    """As many pods as the load needs: Kubernetes adds and removes them, from `min` to `max`."""

    min: int = Field(default=1, ge=1, le=100, description="pods when nothing is asked")
    max: int = Field(ge=1, le=100, description="pods under the highest load")
    cpu: int = Field(default=70, ge=1, le=1000, description="per cent of `resources.cpu` that a pod uses on average")

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if self.min > self.max:
            raise mistake(f"min {self.min} is more than max {self.max}", "exchange the two", "min")
        return self


class ServingResources(Strict):
    """What each pod that serves is sure of. More CPU it may take, more memory ends it."""

    cpu: Annotated[str, AfterValidator(_cpu)] = "50m"
    memory: Annotated[str, AfterValidator(_memory)] = "512Mi"


class Deploy(Strict):
    """How one environment runs the model."""

    replicas: int = Field(default=1, ge=1, le=100, description="pods, where `scale` does not decide")
    scale: Scale | None = Field(default=None, description="a number of pods that follows the load")
    max_surge: int = Field(default=1, ge=0, le=100, description="pods above `replicas` during a rollout")
    max_unavailable: int = Field(default=0, ge=0, le=100, description="pods below `replicas` during a rollout")
    spread: Literal["node", "zone", "none"] = Field(
        default="node", description="keep the pods on different nodes (or in different zones), if there are several"
    )
    resources: ServingResources = ServingResources()
    env: dict[Variable, Annotated[str, AfterValidator(_setting)]] = Field(
        default={}, description="settings of the serving process; a change starts new pods"
    )
    secrets: list[Variable] = Field(
        default=[], description="variables of the serving process, each a key of the Secret <service>-secrets"
    )

    @model_validator(mode="before")
    @classmethod
    def _reserved(cls, given: Any) -> Any:
        if isinstance(given, dict) and "approval" in given:
            raise mistake("reserved: releases that wait for a person do not exist yet", "remove it", "approval")
        return given

    @field_validator("env")
    @classmethod
    def _short(cls, env: dict[str, str]) -> dict[str, str]:
        if len(json.dumps(env)) > 16 * 1024:
            raise mistake("more than 16 KiB of settings", "keep data in data files")
        return env

    @model_validator(mode="after")
    def _fits(self) -> Deploy:
        if self.max_surge == self.max_unavailable == 0:
            raise mistake(
                "with max_surge and max_unavailable both 0 no rollout could ever begin", "set one of them to 1"
            )
        # a 1 may be the default: a contract travels with all its fields written out
        if self.scale and self.replicas != 1:
            raise mistake("with `scale` the load says how many pods there are", "remove `replicas`", "replicas")
        for index, name in enumerate(self.secrets):
            if name in self.env:
                raise mistake(f"{name!r} is in `env` and in `secrets`", "remove one of the two", "env", name)
            if name in self.secrets[:index]:
                raise mistake(f"{name!r} is listed twice", "remove one of the two", "secrets")
        return self


class Config(Strict):
    """`mlops.yaml` as a whole."""

    apiVersion: Literal["trainyard/v1"]
    service: DnsLabel
    data: Data
    process: Command
    train: Train
    test: Command
    params: dict[Identifier, Scalar] = Field(
        default={}, description="reach your code in $PARAMS_FILE (JSON), beside the seed"
    )
    seed: int = Field(default=0, ge=0, lt=2**32)
    gate: Gate
    deploy: dict[Environment, Deploy]
    dockerfile: Annotated[str, AfterValidator(_inside)] = "Dockerfile"

    @field_validator("deploy")
    @classmethod
    def _first_dev(cls, deploy: dict[str, Deploy]) -> dict[str, Deploy]:
        if "dev" not in deploy:  # the release step knows only this environment so far
            raise mistake(
                "without `dev` nothing can be released: that is where a model goes first", "add `dev: {replicas: 1}`"
            )
        return deploy

    @field_validator("params")
    @classmethod
    def _small(cls, params: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(params)) > 16 * 1024:
            raise mistake("more than 16 KiB of parameters", "keep data in data files")
        return params
