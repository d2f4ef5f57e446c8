"""What a valid mlops.yaml means, that it survives its trip as JSON, and that no text at all breaks the loader."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.config import RESERVED, RESERVED_BEGINNINGS, Config, Deploy, load, schema
from pipelines.errors import YardError

VALID = (Path(__file__).parent / "valid.yaml").read_text()
EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "mlops.yaml"

SMALLEST = """\
apiVersion: trainyard/v1
service: digits
data: {name: digits, command: python ingest.py}
process: {command: python process.py}
train: {command: python train.py}
test: {command: pytest}
gate: {samples: 1, metrics: {accuracy: {min: 0.5}}}
deploy: {dev: {}}
"""


def test_the_smallest_file_has_the_documented_defaults():
    config = load(SMALLEST)
    assert config.train.seconds == config.data.seconds == config.process.seconds == config.test.seconds == 30 * 60
    assert config.train.resources.model_dump() == {"cpu": "1", "memory": "1Gi", "gpu": 0}
    assert config.data.expect.model_dump() == {"rows": 1, "label": "", "classes": [], "missing": 0.0}
    assert config.deploy["dev"].model_dump() == {
        **{"replicas": 1, "scale": None, "max_surge": 1, "max_unavailable": 0, "spread": "node"},
        **{"resources": {"cpu": "50m", "memory": "512Mi"}, "env": {}, "secrets": []},
    }
    assert (config.seed, config.params, config.dockerfile) == (0, {}, "Dockerfile")
    assert config.gate.serving is None


def test_the_example_service_is_valid():
    assert load(EXAMPLE).service == "digits"


SCALED = SMALLEST.replace(
    "{dev: {}}", '{dev: {scale: {max: 5}, spread: zone, env: {THREADS: "2"}, secrets: [TOKEN]}, prod: {replicas: 3}}'
)


def test_each_environment_is_deployed_as_it_says():
    dev, prod = load(SCALED).deploy.values()
    assert (dev.scale.min, dev.scale.max, dev.scale.cpu) == (1, 5, 70)
    assert (dev.spread, dev.env, dev.secrets) == ("zone", {"THREADS": "2"}, ["TOKEN"])
    assert (prod.replicas, prod.scale, prod.spread, prod.env, prod.secrets) == (3, None, "node", {}, [])


@pytest.mark.parametrize("text", [VALID, SMALLEST, SCALED])
def test_a_config_travels_as_json_and_comes_back_the_same(text):
    config = load(text)
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert Config.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-05", 1e-05),
        ("1E5", 1e5),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("-0.0", -0.0),
        ("64", 64),
        ("-3", -3),
        ("0x1F", 31),
        ("true", True),
        ("relu", "relu"),
        ("'64'", "64"),
        ("'yes'", "yes"),
        ("2026-11-24", "2026-11-24"),
        ("1.2.3", "1.2.3"),
        ("a:b", "a:b"),
    ],
)
def test_a_parameter_has_the_type_that_it_is_written_as(written, value):
    found = load(VALID.replace("alpha: 0.0001", f"alpha: {written}")).params["alpha"]
    assert found == value
    assert type(found) is type(value)


def test_a_number_as_python_prints_it_is_a_threshold():
    assert load(VALID.replace("max: 0.3", "max: 1e-05")).gate.metrics["log_loss"].max == 1e-05


def test_an_anchor_gives_a_value_twice():
    text = VALID.replace("{command: python -m digits.process}", "&run {command: make}").replace(
        "{command: python -m pytest -q}", "*run"
    )
    config = load(text)
    assert config.process.command == config.test.command == "make"


@pytest.mark.parametrize(
    ("written", "seconds"), [("1s", 1), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("24h", 86400)]
)
def test_durations(written, seconds):
    assert load(VALID.replace("timeout: 10m", f"timeout: {written}")).train.seconds == seconds


def test_each_knob_of_an_environment_is_in_the_docs_with_its_default_and_an_example():
    text = (Path(__file__).parents[2] / "docs/services.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.+ \| .+) \|$", text, re.M))
    assert rows.keys() == Deploy.model_fields.keys()
    for name, row in rows.items():
        default, example = (cell.strip("`") for cell in row.split(" | "))
        real = Deploy().model_dump()[name]
        assert not real if default == "none" else real == yaml.safe_load(default)
        load(SMALLEST.replace("{dev: {}}", f"{{dev: {{{example}}}}}"))
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert load(SMALLEST.replace("deploy: {dev: {}}\n", block)).deploy["prod"].secrets == ["TOKEN"]
    assert all(f"`{word}`" in text for word in (*RESERVED, *RESERVED_BEGINNINGS))


def test_the_published_schema_knows_every_key_and_refuses_others():
    found = schema()
    assert set(found["properties"]) == set(Config.model_fields)
    assert found["additionalProperties"] is False
    assert found["properties"]["params"]["additionalProperties"] == {
        "anyOf": [{"type": "boolean"}, {"type": "integer"}, {"type": "number"}, {"type": "string"}]
    }


words = st.sampled_from(
    ["yes", "no", "1e-05", ".nan", ".inf", "~", "", "0o7", "007", "1:30", "<<", "{{x}}", "command", "digits", "\0", "'"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | words, inner, max_size=3),
    max_leaves=8,
)


def only_errors_of_ours(text: str) -> None:
    try:
        config, told = load(text), "mlops.yaml"
    except YardError as error:
        config, told = None, str(error)
    assert told.startswith("mlops.yaml")
    assert len(told.splitlines()) <= 3
    assert config is None or Config.model_validate_json(config.model_dump_json()) == config


@given(st.text())
@example("\ud800")
@example("a: !<tag:yaml.org,2002:python/name:os.system> x")
@example("%YAML 9.9\n---\na: 1")
@example("? ? ? a")
@example("&a : *a")
@example("=: =")
@example('"\\x')
@example(f"seed: {'9' * 5000}")
@example(f"seed: 0x{'f' * 9000}")
def test_no_text_breaks_the_loader(text):
    only_errors_of_ours(text)


lines = VALID.splitlines()


@given(st.integers(0, len(lines) - 1), st.integers(0, 80), st.text("{}[]:,&*!|>'\"%@`#-?\t\n ayn0.~<\\", max_size=6))
@settings(max_examples=300)
def test_no_slip_of_a_finger_breaks_the_loader(line, column, slip):
    changed = [*lines]
    changed[line] = changed[line][:column] + slip + changed[line][column:]
    only_errors_of_ours("\n".join(changed))


def paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))


PATHS = [path for path in paths(yaml.safe_load(VALID)) if path]


@given(st.sampled_from(PATHS), values)
@settings(max_examples=300)
def test_no_value_anywhere_breaks_the_loader(path, value):
    root = place = yaml.safe_load(VALID)
    *parents, last = path
    for key in parents:
        place = place[key]
    place[last] = value
    only_errors_of_ours(yaml.safe_dump(root, allow_unicode=True))


names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc é日", max_size=9)
)


@given(st.dictionaries(names, scalars, max_size=5))
def test_parameters_reach_the_users_code_as_they_were_written(params):
    document = yaml.safe_load(VALID) | {"params": params}
    config = load(json.dumps(document))  # JSON is YAML
    back = Config.model_validate_json(config.model_dump_json()).params
    assert {key: repr(value) for key, value in back.items()} == {key: repr(value) for key, value in params.items()}
