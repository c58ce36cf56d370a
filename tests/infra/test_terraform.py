"""infra/terraform against the real schemas of AWS and Helm, its own tests, and checkov.

The schemas come from the providers' bindings (`providers/`). What they do not say stays unproved
here: rules between arguments, values that AWS refuses, quotas.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools import ROOT, offline, providers, run, terraform, tools

CONFIGURATION = ROOT / "infra" / "terraform"
SIZES = ("small", "medium", "large")
VARIABLE = re.compile(r'^variable "(\w+)" \{\n(.*?)^\}', re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the configuration, initialised: providers found, versions agreed on."""
    terraform()
    folder = tmp_path_factory.mktemp("terraform") / "root"
    shutil.copytree(CONFIGURATION, folder, ignore=shutil.ignore_patterns(".terraform*"))
    run("terraform", "init", "-backend=false", "-input=false", cwd=folder, env=offline())
    return folder


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, str]]:
    terraform()
    with providers() as environment:
        yield environment


def diagnostics(folder: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    told = run("terraform", "validate", "-json", cwd=folder, env=environment, check=False)
    return json.loads(told.stdout)["diagnostics"]


def outcome(folder: Path, environment: dict[str, str], *more: str) -> tuple[list[str], str, Any]:
    """Run `terraform test`; return what failed, its last line, and the overlay's values."""
    command = ("terraform", "test", "-json", "-verbose", "-var-file=sizes/small.tfvars", *more)
    told = run(*command, cwd=folder, env=environment, check=False)
    failed, values, end = [], None, ""
    for line in map(json.loads, told.stdout.splitlines()):
        end = line.get("@message", "")
        if line.get("@level") == "error" and "diagnostic" in line:
            failed.append(f"{line['diagnostic']['summary']}: {line['diagnostic'].get('detail')}")
        if line["type"] == "test_state":
            values = line["test_state"]["outputs"].get("k8s_values", {}).get("value", values)
    return failed, end, values


def test_it_is_formatted() -> None:
    run(terraform(), "fmt", "-check", "-recursive", "-diff", CONFIGURATION)


def test_versions_of_providers_are_agreed_on(workspace: Path) -> None:
    lock = (workspace / ".terraform.lock.hcl").read_text()
    assert re.findall(r'provider "[\w.]+/hashicorp/(\w+)"', lock) == ["aws", "helm"]


def test_it_is_valid(workspace: Path, served: dict[str, str]) -> None:
    assert diagnostics(workspace, served) == []


def test_its_own_tests_pass(workspace: Path, served: dict[str, str]) -> None:
    failed, end, values = outcome(workspace, served)
    assert not failed
    assert end == "Success! 8 passed, 0 failed."
    # what `make k8s-values` writes for this account is what the production overlay holds
    held = json.loads((ROOT / "k8s" / "overlays" / "production" / "values.json").read_text())
    assert held == values


def test_every_variable_is_typed_described_and_checked() -> None:
    for file in CONFIGURATION.rglob("variables.tf"):
        found = VARIABLE.findall(file.read_text())
        assert found, file
        for name, body in found:
            for setting in ("description", "type"):
                assert re.search(rf"^  {setting}\s+=", body, re.MULTILINE), f"{file}: {name}"
            is_free = re.search(r"^  type\s+= bool$", body, re.MULTILINE)
            assert is_free or "validation {" in body, f"{file}: {name} takes anything"


def test_every_output_is_described() -> None:
    for file in CONFIGURATION.rglob("outputs.tf"):
        for name, body in re.findall(
            r'^output "(\w+)" \{\n(.*?)^\}', file.read_text(), re.S | re.M
        ):
            assert "description =" in body, f"{file}: {name}"


def test_the_readmes_table_of_costs_is_the_computed_one(tmp_path: Path) -> None:
    terraform()
    folder = tmp_path / "cost"
    shutil.copytree(CONFIGURATION / "modules" / "cost", folder)
    run("terraform", "init", "-input=false", cwd=folder, env=offline())
    readme = (CONFIGURATION / "README.md").read_text()
    totals = []
    for size in SIZES:
        files = [f"-var-file={CONFIGURATION / 'sizes' / name}.tfvars" for name in ("prices", size)]
        state = f"-state={size}.tfstate"
        run("terraform", "apply", "-auto-approve", state, *files, cwd=folder, env=offline())
        told = json.loads(run("terraform", "output", "-json", state, cwd=folder).stdout)
        assert f"| {size} | {told['row']['value']} |" in readme
        totals.append(told["month"]["value"]["busy"])
    assert totals == sorted(totals)


def test_checkov_finds_nothing_but_what_is_excused() -> None:
    told = run(
        *(tools().command("checkov"), "--directory", CONFIGURATION, "--skip-download", "--quiet"),
        *("--compact", "--config-file", CONFIGURATION / ".checkov.yaml", "--output", "json"),
        check=False,
    )
    result = json.loads(told.stdout)
    failed = [f"{c['check_id']} {c['resource']}" for c in result["results"]["failed_checks"]]
    assert not failed
    assert result["summary"]["passed"] > 150  # it did look


def test_no_price_and_no_chart_is_left_out() -> None:
    """A size whose instances have no price can not be reckoned, a chart without version moves."""
    prices = (CONFIGURATION / "sizes" / "prices.tfvars").read_text()
    for size in SIZES:
        text = (CONFIGURATION / "sizes" / f"{size}.tfvars").read_text()
        for first in re.findall(r'instance_types = \["([\w.]+)"', text):
            assert f'"{first}"' in prices, f"{size}: {first}"


# ── the checks themselves: each mistake below is planted, and must be seen ───────────────────────
def plant(folder: Path, file: str, right: str, wrong: str) -> None:
    text = (folder / file).read_text()
    assert right in text, f"{file} no longer has {right!r}"
    (folder / file).write_text(text.replace(right, wrong, 1))


# file, what stands there, what is put in its place, what is to be said of it
AGAINST_THE_SCHEMA = [
    ("network.tf", "enable_dns_support ", "enable_dns_suport ", "Did you mean"),
    ("storage.tf", 'resource "aws_ecr_lifecycle_policy"', 'resource "aws_ecr_lifecycle"', "type"),
    ("keys.tf", "  target_key_id = aws_kms_key.this[each.key].key_id\n", "", "target_key_id"),
    ("modules/pool/main.tf", "max_unavailable = 1", 'max_unavailable = "one"', "a number is req"),
    ("outputs.tf", "this.repository_url", "this.repository_uri", "repository_uri"),
    ("kuberay.tf", "  depends_on =", '  set {\n    name = "a"\n  }\n  depends_on =', "set"),
    ("eks.tf", "  access_config {", "  access_config = {", "access_config"),
    (
        "modules/pool/main.tf",
        "  update_config {",
        "  update_config {}\n  update_config {",
        "Too man",
    ),
]


def test_mistakes_against_the_schema_are_seen(
    workspace: Path, served: dict[str, str], tmp_path: Path
) -> None:
    """One by one: some mistakes hide others, as Terraform stops where it no longer understands."""
    missed = []
    for number, (file, right, wrong, said) in enumerate(AGAINST_THE_SCHEMA):
        folder = tmp_path / str(number)
        shutil.copytree(workspace, folder)
        plant(folder, file, right, wrong)
        found = diagnostics(folder, served)
        if not any(
            said in f"{item['summary']} {item['detail']}" and item["range"]["filename"] == file
            for item in found
        ):
            missed.append((file, wrong, [f"{i['summary']} {i['detail']}" for i in found]))
    assert not missed


AGAINST_THE_TESTS = [
    ("modules/pool/main.tf", "    for_each = var.stage == null ? [] : [var.stage]", "for_each = []",
     "every group of a pool carries the stage"),
    ("gpu_pools.tf", '"20" = [".*-spot-.*"]', '"20" = [".*-spots-.*"]', "autoscaler's first choi"),
    ("gpu_pools.tf", "  spot           = each.value.spot", "  spot = false",
     "a group on spot capa"),
    ("identity.tf", "var.voice_uploads ? local.write.presets : []", "local.write.presets",
     "the ingress reads presets"),
    ("identity.tf", 'resources = [local.buckets[use].arn]', 'resources = ["*"]',
     "a resource is named"),
    ("modules/bucket/main.tf", 'status = "Enabled"\n  }', 'status = "Suspended"\n  }', "versioned"),
    ("modules/bucket/main.tf", '"aws:SecureTransport" = "false"', '"aws:SecureTransport" = "true"',
     "over TLS alone"),
    ("eks.tf", "length(var.api_cidrs) > 0\n", "true\n", "the API is private"),
    ("network.tf", "cidr_blocks = local.node_cidrs", 'cidr_blocks = ["0.0.0.0/0"]',
     "endpoints answer nodes"),
]  # fmt: skip


def test_mistakes_that_only_our_own_tests_can_see_are_seen(
    workspace: Path, served: dict[str, str], tmp_path: Path
) -> None:
    """All at once but one: a refused variable hides the rest."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    shutil.copytree(workspace, together)
    shutil.copytree(workspace, alone)
    for file, right, wrong, said in AGAINST_THE_TESTS:
        plant(alone if said == "a resource is named" else together, file, right, wrong)
    failed = "\n".join(
        " ".join(message.split())
        for messages in (
            outcome(together, served)[0],
            outcome(alone, served, "-filter=tests/identity.tftest.hcl")[0],
        )
        for message in messages
    )
    assert [said for *_, said in AGAINST_THE_TESTS if said not in failed] == []
