"""Each rule that rejects an mlops.yaml, with a file that it stops and exactly what the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import load
from pipelines.errors import Exit, YardError

VALID = (Path(__file__).parent / "valid.yaml").read_text()

RESERVED = (
    "choose another name; reserved: BUNDLE_DIGEST, HOME, HOST, HOSTNAME, LOCK, MODEL_NAME, MODEL_VERSION, PATH, PORT, "
    "TMPDIR, KUBERNETES_…, LD_…, PYTHON…"
)

# what the rule is about, what to replace in the valid file, by what, and the whole message
MISTAKES = [
    # the shape
    (
        "a misspelt key, told instead of the key that is missing because of it",
        "command: python -m digits.train",
        "comand: python -m digits.train",
        "mlops.yaml:9: train.comand: unknown key\n  → did you mean 'command'?",
    ),
    (
        "a key that resembles no other: all that are known",
        "replicas: 2",
        "zone: 2",
        "mlops.yaml:21: deploy.dev.zone: unknown key\n  → known here: env, max_surge, max_unavailable, replicas, "
        "resources, scale, secrets, spread",
    ),
    ("a key at the top", "seed: 7", "sede: 7", "mlops.yaml:14: sede: unknown key\n  → did you mean 'seed'?"),
    ("a missing key", "  samples: 300\n", "", "mlops.yaml:15: gate.samples: is missing\n  → add `samples:`"),
    (
        "a key given twice",
        "seed: 7",
        "seed: 7\nseed: 8",
        "mlops.yaml:15: seed: given twice, first in line 14\n  → remove one of the two",
    ),
    (
        "another version of the format",
        "trainyard/v1",
        "trainyard/v2",
        "mlops.yaml:1: apiVersion: expected 'trainyard/v1', got 'trainyard/v2'\n  → write one of these",
    ),
    (
        "two mistakes: the first one, and that there is another",
        "seed: 7\ngate:\n  samples: 300",
        "seed: -1\ngate:\n  samples: 0",
        "mlops.yaml:14: seed: must be at least 0, got -1\n  → change the value (1 more mistake in this file)",
    ),
    # types: nothing is converted
    (
        "text where a whole number belongs",
        "replicas: 2",
        "replicas: '2'",
        "mlops.yaml:21: deploy.dev.replicas: expected a whole number, got '2'\n  → write a whole number",
    ),
    (
        "a fraction where a whole number belongs",
        "samples: 300",
        "samples: 1e-05",
        "mlops.yaml:16: gate.samples: expected a whole number, got 1e-05\n  → write a whole number",
    ),
    (
        "true where a number belongs",
        "seed: 7",
        "seed: true",
        "mlops.yaml:14: seed: expected a whole number, got true\n  → write a whole number",
    ),
    (
        "a number where text belongs",
        'cpu: "1"',
        "cpu: 1",
        'mlops.yaml:11: train.resources.cpu: expected text, got 1\n  → put it in quotes: "1"',
    ),
    (
        "numbers as labels",
        '["0", "1"]',
        '["0", 1]',
        'mlops.yaml:6: data.expect.classes[1]: expected text, got 1\n  → put it in quotes: "1"',
    ),
    (
        "text where a mapping belongs",
        "test: {command: python -m pytest -q}",
        "test: python -m pytest -q",
        "mlops.yaml:12: test: expected a mapping (key: value), got 'python -m pytest -q'\n"
        "  → write a mapping (key: value)",
    ),
    (
        "nothing where text belongs",
        "service: digits",
        "service:",
        "mlops.yaml:2: service: expected text, got nothing\n  → write text",
    ),
    # YAML's traps
    (
        "yes, which some YAML readers take for true",
        "alpha: 0.0001",
        "alpha: yes",
        "mlops.yaml:13: params.alpha: `yes` means different things to different YAML readers\n"
        '  → write true or false, or "yes" in quotes',
    ),
    (
        "a number that is octal to some",
        "seed: 7",
        "seed: 010",
        "mlops.yaml:14: seed: `010` means different things to different YAML readers\n"
        '  → write a plain number, or "010" in quotes',
    ),
    (
        "a duration that some read in base sixty",
        "timeout: 10m",
        "timeout: 10:30",
        "mlops.yaml:10: train.timeout: `10:30` means different things to different YAML readers\n"
        '  → write a plain number, or "10:30" in quotes',
    ),
    (
        "a tag",
        "seed: 7",
        "seed: !!int '7'",
        "mlops.yaml:14: the tag !!int: tags are not read here\n  → write the value without it",
    ),
    (
        "a merge key",
        "  dev: {replicas: 2}",
        "  dev: {<<: {replicas: 2}}",
        "mlops.yaml:21: deploy.dev.<<: merge keys are not read here\n  → write the keys out",
    ),
    (
        "a key that is no word",
        "seed: 7",
        "? [a]\n: 7",
        "mlops.yaml:14: a key must be a single word\n  → write `key: value`",
    ),
    (
        "a template tag, which Argo would replace",
        "python -m digits.train",
        "echo {{workflow.name}}",
        "mlops.yaml:9: train.command: `{{` would be taken for a template tag by Argo\n  → write it another way",
    ),
    (
        "not YAML at all",
        "seed: 7",
        "seed: 'seven",
        "mlops.yaml:23: not YAML: found unexpected end of stream\n  → is the indentation right, and are quotes closed?",
    ),
    (
        "a tabulator as indentation",
        "  samples: 300",
        "\tsamples: 300",
        "mlops.yaml:16: not YAML: found character '\\t' that cannot start any token\n"
        "  → is the indentation right, and are quotes closed?",
    ),
    (
        "a control character",
        "seed: 7",
        "seed: \x07",
        "mlops.yaml:14: a character that YAML forbids\n  → remove it",
    ),
    # names, commands, sizes
    (
        "a service name that no namespace could have",
        "service: digits",
        "service: My Digits",
        "mlops.yaml:2: service: 'My Digits' is not a name: small letters, digits and dashes, "
        "beginning with a letter, at most 40\n  → write 'my-digits'",
    ),
    (
        "a service name that is too long",
        "service: digits",
        f"service: {'d' * 41}",
        f"mlops.yaml:2: service: '{'d' * 41}' is not a name: small letters, digits and dashes, "
        f"beginning with a letter, at most 40\n  → write '{'d' * 40}'",
    ),
    (
        "an empty command",
        "python -m digits.train",
        '" "',
        "mlops.yaml:9: train.command: an empty command\n  → write what to run, as in a shell",
    ),
    (
        "a command that no process could be given",
        "python -m digits.train",
        '"a\\0b"',
        "mlops.yaml:9: train.command: the command contains a control character\n  → remove it",
    ),
    (
        "a duration in words",
        "timeout: 10m",
        "timeout: 10 minutes",
        "mlops.yaml:10: train.timeout: '10 minutes' is not a duration from 1s to 24h\n"
        "  → write for example 90s, 10m or 2h",
    ),
    (
        "no time at all",
        "timeout: 10m",
        "timeout: 0s",
        "mlops.yaml:10: train.timeout: '0s' is not a duration from 1s to 24h\n  → write for example 90s, 10m or 2h",
    ),
    (
        "longer than any run",
        "timeout: 10m",
        "timeout: 25h",
        "mlops.yaml:10: train.timeout: '25h' is not a duration from 1s to 24h\n  → write for example 90s, 10m or 2h",
    ),
    (
        "CPU as Kubernetes would not read it",
        'cpu: "1"',
        "cpu: 1 core",
        "mlops.yaml:11: train.resources.cpu: '1 core' is not an amount of CPU\n"
        '  → write cores as "1" or "0.5", or thousandths as 500m',
    ),
    (
        "memory without a unit that means something",
        "memory: 1Gi",
        "memory: 1G",
        "mlops.yaml:11: train.resources.memory: '1G' is not an amount of memory\n  → write for example 512Mi or 2Gi",
    ),
    (
        "a Dockerfile outside the repository",
        "dockerfile: Dockerfile",
        "dockerfile: ../Dockerfile",
        "mlops.yaml:22: dockerfile: '../Dockerfile' is not a path inside the repository\n"
        "  → write a path relative to mlops.yaml's directory",
    ),
    (
        "classes without the column that has them",
        "label: label, classes",
        "classes",
        "mlops.yaml:6: data.expect: `classes` without `label`\n  → add `label:` with the name of the label's column",
    ),
    (
        "a class listed twice",
        '["0", "1"]',
        '["0", "0"]',
        "mlops.yaml:6: data.expect.classes: a class is listed twice\n  → remove one of the two",
    ),
    # parameters
    (
        "a parameter that is no number",
        "alpha: 0.0001",
        "alpha: .nan",
        "mlops.yaml:13: params.alpha: must be a finite number, got nan\n  → write a number",
    ),
    (
        "a parameter with a structure",
        "hidden: 64",
        "hidden: [64, 32]",
        "mlops.yaml:13: params.hidden: a parameter must be a number, a text, true or false\n"
        "  → use several parameters for a structure",
    ),
    (
        "a parameter that JavaScript and SQL could not hold",
        "hidden: 64",
        "hidden: 9223372036854775808",
        "mlops.yaml:13: params.hidden: a whole number of more than 64 bits\n"
        "  → put it in quotes and convert it in your code",
    ),
    (
        "a parameter's name that no program could use",
        "hidden: 64",
        "hidden units: 64",
        "mlops.yaml:13: params.hidden units: 'hidden units' is not a name: letters, digits and _, "
        "not beginning with a digit\n  → rename it",
    ),
    (
        "data in the parameters",
        "hidden: 64",
        f"hidden: {'x' * 17000}",
        "mlops.yaml:13: params: more than 16 KiB of parameters\n  → keep data in data files",
    ),
    # the gate
    (
        "a threshold without its metric",
        "accuracy: {min: 0.95}",
        "acuracy: {min: 0.95}",
        "mlops.yaml:17: gate.metrics.acuracy: a threshold for a metric that the platform does not compute\n"
        "  → did you mean 'accuracy'?",
    ),
    (
        "a metric that nobody here knows",
        "accuracy: {min: 0.95}",
        "bleu: {min: 0.95}",
        "mlops.yaml:17: gate.metrics.bleu: a threshold for a metric that the platform does not compute\n"
        "  → known here: accuracy, log_loss, macro_f1",
    ),
    (
        "a bound in the wrong direction",
        "log_loss: {max: 0.3}",
        "log_loss: {min: 0.3}",
        "mlops.yaml:17: gate.metrics.log_loss: less is better, so its threshold is `max` alone\n"
        "  → write log_loss: {max: …}",
    ),
    (
        "a metric without a bound",
        "accuracy: {min: 0.95}",
        "accuracy: {}",
        "mlops.yaml:17: gate.metrics.accuracy: more is better, so its threshold is `min` alone\n"
        "  → write accuracy: {min: …}",
    ),
    (
        "both bounds",
        "accuracy: {min: 0.95}",
        "accuracy: {min: 0.95, max: 1}",
        "mlops.yaml:17: gate.metrics.accuracy: more is better, so its threshold is `min` alone\n"
        "  → write accuracy: {min: …}",
    ),
    (
        "per cent for a share",
        "accuracy: {min: 0.95}",
        "accuracy: {min: 95}",
        "mlops.yaml:17: gate.metrics.accuracy.min: 95 can never decide, accuracy is from 0 to 1\n  → change the value",
    ),
    (
        "a threshold of infinity, which everything passes",
        "max: 0.3",
        "max: .inf",
        "mlops.yaml:17: gate.metrics.log_loss.max: must be a finite number, got inf\n  → write a number",
    ),
    (
        "a threshold of NaN, which nothing can be compared with",
        "max: 0.3",
        "max: .NaN",
        "mlops.yaml:17: gate.metrics.log_loss.max: must be a finite number, got nan\n  → write a number",
    ),
    (
        "a gate without a metric",
        "metrics: {accuracy: {min: 0.95}, macro_f1: {min: 0.94}, log_loss: {max: 0.3}}",
        "metrics: {}",
        "mlops.yaml:17: gate.metrics: must have at least 1 entries\n  → change the value",
    ),
    (
        "a slice floor for a metric that is not computed for slices",
        "slices: {accuracy:",
        "slices: {log_loss:",
        "mlops.yaml:18: gate.slices.log_loss: log_loss is not computed for slices\n  → known here: accuracy",
    ),
    (
        "a comparison of a metric that is not compared row by row",
        "metric: accuracy",
        "metric: macro_f1",
        "mlops.yaml:19: gate.serving.metric: macro_f1 is not compared row by row\n  → known here: accuracy",
    ),
    (
        "a margin of nothing, which not even the same model could prove",
        "margin: 0.01",
        "margin: 0",
        "mlops.yaml:19: gate.serving.margin: must be greater than 0.0, got 0\n  → change the value",
    ),
    (
        "certainty",
        "confidence: 0.95",
        "confidence: 1",
        "mlops.yaml:19: gate.serving.confidence: must be less than 1.0, got 1\n  → change the value",
    ),
    # deployment
    (
        "an environment that does not exist",
        "  dev: {replicas: 2}",
        "  dev: {replicas: 2}\n  test: {replicas: 1}",
        "mlops.yaml:22: deploy.test: expected 'dev', 'stage' or 'prod', got 'test'\n  → write one of these",
    ),
    (
        "no environment that a model goes to first",
        "  dev: {replicas: 2}",
        "  prod: {replicas: 2}",
        "mlops.yaml:20: deploy: without `dev` nothing can be released: that is where a model goes first\n"
        "  → add `dev: {replicas: 1}`",
    ),
    (
        "a key that is reserved",
        "replicas: 2",
        "replicas: 2, approval: true",
        "mlops.yaml:21: deploy.dev.approval: reserved: releases that wait for a person do not exist yet\n  → remove it",
    ),
    (
        "a rollout that could never begin",
        "replicas: 2",
        "replicas: 2, max_surge: 0",
        "mlops.yaml:21: deploy.dev: with max_surge and max_unavailable both 0 no rollout could ever begin\n"
        "  → set one of them to 1",
    ),
    (
        "pods of an autoscaler, and of nobody",
        "replicas: 2",
        "scale: {max: 5}, replicas: 2",
        "mlops.yaml:21: deploy.dev.replicas: with `scale` the load says how many pods there are\n  → remove `replicas`",
    ),
    (
        "an autoscaler without an upper end",
        "replicas: 2",
        "scale: {min: 2}",
        "mlops.yaml:21: deploy.dev.scale.max: is missing\n  → add `max:`",
    ),
    (
        "an autoscaler with its ends exchanged",
        "replicas: 2",
        "scale: {min: 5, max: 2}",
        "mlops.yaml:21: deploy.dev.scale.min: min 5 is more than max 2\n  → exchange the two",
    ),
    (
        "an autoscaler that scales on something else",
        "replicas: 2",
        "scale: {max: 5, memory: 70}",
        "mlops.yaml:21: deploy.dev.scale.memory: unknown key\n  → known here: cpu, max, min",
    ),
    (
        "a key of scale that is misspelt",
        "replicas: 2",
        "scale: {max: 5, cpus: 70}",
        "mlops.yaml:21: deploy.dev.scale.cpus: unknown key\n  → did you mean 'cpu'?",
    ),
    (
        "pods spread over something else",
        "replicas: 2",
        "spread: rack",
        "mlops.yaml:21: deploy.dev.spread: expected 'node', 'zone' or 'none', got 'rack'\n  → write one of these",
    ),
    (
        "a misspelt knob",
        "replicas: 2",
        "secret: [TOKEN]",
        "mlops.yaml:21: deploy.dev.secret: unknown key\n  → did you mean 'secrets'?",
    ),
    (
        "a disk for serving",
        "replicas: 2",
        "resources: {disk: 1Gi}",
        "mlops.yaml:21: deploy.dev.resources.disk: unknown key\n  → known here: cpu, memory",
    ),
    (
        "memory for serving without a unit",
        "replicas: 2",
        "resources: {memory: 2G}",
        "mlops.yaml:21: deploy.dev.resources.memory: '2G' is not an amount of memory"
        "\n  → write for example 512Mi or 2Gi",
    ),
    (
        "a variable that the platform sets",
        "replicas: 2",
        'env: {PORT: "80"}',
        f"mlops.yaml:21: deploy.dev.env.PORT: 'PORT' is set by the platform, not by a service\n  → {RESERVED}",
    ),
    (
        "a variable that would change how the server is loaded",
        "replicas: 2",
        "env: {LD_PRELOAD: /tmp/x.so}",
        "mlops.yaml:21: deploy.dev.env.LD_PRELOAD: 'LD_PRELOAD' is set by the platform, not by a service"
        f"\n  → {RESERVED}",
    ),
    (
        "a variable that no shell could read",
        "replicas: 2",
        "env: {log-level: info}",
        "mlops.yaml:21: deploy.dev.env.log-level: 'log-level' is not a name: "
        "letters, digits and _, not beginning with a digit"
        "\n  → rename it",
    ),
    (
        "a number as a variable",
        "replicas: 2",
        "env: {THREADS: 2}",
        'mlops.yaml:21: deploy.dev.env.THREADS: expected text, got 2\n  → put it in quotes: "2"',
    ),
    (
        "a variable with a control character",
        "replicas: 2",
        'env: {A: "\\x1b[1m"}',
        "mlops.yaml:21: deploy.dev.env.A: the value contains a control character\n  → remove it",
    ),
    (
        "data in the environment",
        "replicas: 2",
        f"env: {{A: {'x' * 17000}}}",
        "mlops.yaml:21: deploy.dev.env: more than 16 KiB of settings\n  → keep data in data files",
    ),
    (
        "a secret with its value",
        "replicas: 2",
        "secrets: {TOKEN: s3cret}",
        "mlops.yaml:21: deploy.dev.secrets: expected a list, got a mapping\n  → write a list",
    ),
    (
        "a secret that the platform sets",
        "replicas: 2",
        "secrets: [LOCK]",
        f"mlops.yaml:21: deploy.dev.secrets[0]: 'LOCK' is set by the platform, not by a service\n  → {RESERVED}",
    ),
    (
        "a name that is a setting and a secret",
        "replicas: 2",
        "env: {A: b}, secrets: [A]",
        "mlops.yaml:21: deploy.dev.env.A: 'A' is in `env` and in `secrets`\n  → remove one of the two",
    ),
    (
        "a secret listed twice",
        "replicas: 2",
        "secrets: [A, B, A]",
        "mlops.yaml:21: deploy.dev.secrets: 'A' is listed twice\n  → remove one of the two",
    ),
]


@pytest.mark.parametrize(("about", "old", "new", "message"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_is_named_with_its_place_and_the_next_step(about, old, new, message):
    assert VALID.count(old) == 1, "the fixture no longer changes what it says"
    with pytest.raises(YardError) as caught:
        load(VALID.replace(old, new))
    assert str(caught.value) == message
    assert caught.value.code == Exit.INVALID


def test_the_file_that_the_mistakes_are_made_in_is_valid():
    assert load(VALID).service == "digits"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mlops.yaml:1: the file is empty\n  → write one `key: value` a line"),
        ("# only a comment\n", "mlops.yaml:1: the file is empty\n  → write one `key: value` a line"),
        ("- a\n", "mlops.yaml:1: the file must be a mapping (key: value)\n  → write one `key: value` a line"),
        (
            "a: 1\n---\nb: 2\n",
            "mlops.yaml:2: not YAML: but found another document\n  → is the indentation right, and are quotes closed?",
        ),
        ("a: " + "[" * 5000, "mlops.yaml: nested deeper than 20 levels\n  → make it flatter"),
        (
            'a: "\\UFFFFFFFF"',
            "mlops.yaml: not YAML: an escape in quotes that stands for no character",
        ),
    ],
)
def test_what_is_no_document_is_said_so(text, message):
    with pytest.raises(YardError) as caught:
        load(text)
    assert str(caught.value) == message


def test_aliases_that_stand_for_a_billion_values_are_refused_at_once():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(YardError, match="more than 10000 values, aliases written out"):
        load(bomb)


def test_an_alias_to_the_value_it_is_part_of_is_refused():
    with pytest.raises(YardError, match="nested deeper than 20 levels"):
        load("a: &a [*a]")


def test_a_file_that_is_missing_too_large_or_not_text_is_named(tmp_path):
    with pytest.raises(YardError) as missing:
        load(tmp_path / "mlops.yaml")
    assert missing.value.code == Exit.NOT_FOUND
    assert str(missing.value) == "mlops.yaml: there is no such file\n  → is this the right directory?"

    (tmp_path / "mlops.yaml").write_text("#" * 64 * 1024 + "#")
    with pytest.raises(YardError) as large:
        load(tmp_path / "mlops.yaml")
    assert str(large.value) == "mlops.yaml: larger than 64 KiB\n  → keep data in data files, not here"

    (tmp_path / "mlops.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(YardError) as binary:
        load(tmp_path / "mlops.yaml")
    assert str(binary.value) == "mlops.yaml:2: not UTF-8 text\n  → save the file as UTF-8"

    with pytest.raises(YardError, match="cannot be read"):
        load(tmp_path)
