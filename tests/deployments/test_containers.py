"""Image, compose file, job templates, manifests and the Slurm script: what of them can be checked without Docker or a cluster."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli import app

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
POOLS = sorted((FOLDER / "pools").glob("*.json"))
MANIFESTS = [
    (path.name, document)
    for path in sorted((FOLDER / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods of manifests and of the pools' jobs, by name."""
    for name, document in MANIFESTS:
        if document["kind"] in ("Deployment", "Job"):
            yield f"{name}: {document['metadata']['name']}", document["spec"]["template"]["spec"]
    for path in POOLS:
        if path.name.startswith("kubernetes"):
            job = json.loads(path.read_text())["job_configuration"]["job_manifest"]
            yield path.name, job["spec"]["template"]["spec"]


def called(words: list[Any]) -> None:
    """Fail where the command line would not take these words."""
    name, *rest = map(str, words[1:])
    typer.main.get_group(app).commands[name].make_context(name, rest)


def test_the_commands_of_the_files_are_commands():
    lists = [service["command"] for service in COMPOSE["services"].values() if service.get("command")]
    for _, pod in pods():
        container = pod["containers"][0]
        lists.append([*container.get("command", []), *(container["args"] if isinstance(container.get("args"), list) else [])])
    ours = [words for words in lists if words and words[0] == "posttrain"]
    assert len(ours) == 4
    for words in ours:
        called([re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(word)) for word in words if "/pools/" not in str(word)
                and not str(word).endswith("-template")])  # fmt: skip


def test_the_image_is_run_by_a_user_without_rights_from_what_the_tree_has():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users == ["10001:10001"]
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    sources = [source for line in copied for source in line]
    assert sources
    assert all((FOLDER.parent / source).exists() for source in sources)
    sent = [line[1:] for line in (FOLDER.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(sent) == sorted(sources)


def test_compose_pins_every_image_and_holds_no_secret():
    text = (FOLDER / "compose.yaml").read_text()
    for service in COMPOSE["services"].values():
        assert re.fullmatch(r"postgres:\d+\.\d+-\w+|posttrain:\$\{POSTTRAIN_VERSION:\?.+\}", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for secret in ("POSTGRES_PASSWORD", "PREFECT_AUTH"):
        assert f"${{{secret}:?" in text, "an empty password must not start"
    named = {volume.split(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", [])}
    assert {name for name in named if name.isalpha()} == set(COMPOSE["volumes"])


def test_of_the_workers_one_takes_each_pool_whatever_the_profile():
    for profile in ("gpu", "cpu"):
        chosen = [
            s["command"] for s in COMPOSE["services"].values() if s.get("profiles", [profile]) == [profile] and "command" in s
        ]
        workers = [words for words in chosen if words[:3] == ["prefect", "worker", "start"]]
        assert sorted(words[words.index("--pool") + 1] for words in workers) == ["cpu", "gpu"]


@pytest.mark.parametrize("path", POOLS, ids=lambda path: path.stem)
def test_a_job_template_fills_in_only_what_it_declares(path):
    template = json.loads(path.read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used
    assert used <= set(template["variables"]["properties"])
    assert template["variables"]["properties"]["image"]["default"] == "posttrain:VERSION"


def test_pods_have_no_rights_and_the_store():
    seen = list(pods())
    assert len(seen) == 8
    for name, pod in seen:
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}, name
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in pod.get("volumes", [])}, name
        claims = {v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes", []) if "persistentVolumeClaim" in v}
        assert claims <= {"posttrain-store"}, name
        assert pod.get("serviceAccountName") == "posttrain-worker" or pod["automountServiceAccountToken"] is False, name


def test_what_the_manifests_refer_to_is_made_by_them_or_by_the_page_of_operations():
    page = (FOLDER / "README.md").read_text()
    text = "".join(path.read_text() for path in [*(FOLDER / "kubernetes").glob("*.yaml"), *POOLS])
    secrets = set(re.findall(r"secretRef\W+name\W+([\w-]+)", text))
    assert secrets == {"posttrain-servers", "posttrain-clients"}
    assert all(f"create secret generic {name}" in page for name in secrets)
    assert "create configmap posttrain-pools" in page
    accounts = {document["metadata"]["name"] for _, document in MANIFESTS if document["kind"] == "ServiceAccount"}
    assert accounts == {"posttrain-worker", "posttrain-job"}


def test_manifests_and_jobs_hold_to_the_schemas_of_kubernetes():
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate, 110 MB of schemas")
    for _, document in MANIFESTS:
        validator.validate(document, "1.34", strict=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_slurm_script_is_a_script():
    script = FOLDER / "slurm" / "gpu-worker.sbatch"
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    assert "#SBATCH --signal=B:TERM@300" in script.read_text()
