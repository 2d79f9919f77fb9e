"""The images, built by buildah where no registry is reachable: on a stand-in for Python's image, made by base.sh.

Everything is kept under build/images, so a second run builds only what changed. TEST_IMAGES_BASE names another base,
for where a registry can be reached.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.local import ROOT

FUNCTIONS = ("ingest", "index", "query", "export")
BUILD = ROOT / "build/images"
STAND_IN = "localhost/torpor-base"
REVISION = "rehearsal"
# An index behind a company's own certificate works in a build, too: mounted there, and in no image.
PIP = "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n"
UV = "system-certs = true\n"


def why_not() -> str:
    """Why no image can be built and run here; empty if one can."""
    # An ordinary user's PATH may be without the folder of daemons.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if absent := [name for name in ("buildah", "runc", "debootstrap") if not shutil.which(name, path=path)]:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "buildah and runc are run as root here"


@functools.cache
def _driver() -> str:
    """The storage that works here: layers that lie over each other, else a copy of everything for each."""
    probe = _command("overlay", "info")
    return "overlay" if subprocess.run(probe, capture_output=True, check=False).returncode == 0 else "vfs"


def _command(driver: str, *arguments: str) -> list[str]:
    root, state = BUILD / driver, BUILD / f"{driver}-state"
    return ["buildah", "--storage-driver", driver, "--root", str(root), "--runroot", str(state), *arguments]


def buildah(*arguments: str) -> str:
    """What buildah prints; raises RuntimeError with the end of its complaint if it fails."""
    command = _command(_driver(), *arguments)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"buildah {arguments[0]}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout.strip()


@functools.cache
def base() -> str:
    """The name of the base image, which is made if it is not there."""
    if named := os.environ.get("TEST_IMAGES_BASE"):
        return named
    if not buildah("images", "--filter", f"reference={STAND_IN}", "--quiet"):
        BUILD.mkdir(parents=True, exist_ok=True)
        archive = BUILD / "base.tar"
        subprocess.run([ROOT / "tests/images/base.sh", archive], check=True, stderr=subprocess.DEVNULL)
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(archive), "/")
        buildah("config", "--cmd", "python", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        buildah("commit", "--quiet", "--rm", container, STAND_IN)
        archive.unlink()
    return STAND_IN


def build(function: str) -> str:
    """Build the image of a function as the Dockerfile says, and return its name."""
    image, mounts = f"localhost/torpor-{function}", ["/etc/ssl/certs:/etc/ssl/certs:ro"]
    for name, text in (("pip.conf", PIP), ("uv/uv.toml", UV)):
        file = BUILD / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        mounts.append(f"{file}:/etc/{name}:ro")
    arguments = {"BASE": base(), "FUNCTION": function, "VERSION": "0.0.0", "REVISION": REVISION}
    options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    options += [f"--volume={mount}" for mount in mounts]
    buildah("build", "--layers", "--isolation=chroot", "--pull=false", "--tag", image, *options, ".")
    return image


def configuration(image: str) -> dict[str, Any]:
    """The image's configuration: User, Env, Entrypoint, Labels and so on."""
    described: dict[str, Any] = json.loads(buildah("inspect", "--type=image", image))
    config: dict[str, Any] = described["OCIv1"]["config"]
    return config


def sizes(image: str, folder: Path) -> list[tuple[int, int]]:
    """Bytes of the image's layers from the base up, each as a registry sends it (gzip) and as a node unpacks it."""
    buildah("push", "--quiet", image, f"oci:{folder}:image")
    manifest = _blob(folder, json.loads((folder / "index.json").read_text())["manifests"][0]["digest"])
    layers = json.loads(manifest.read_bytes())["layers"]
    return [(layer["size"], _unpacked(_blob(folder, layer["digest"]))) for layer in layers]


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/")


def _unpacked(layer: Path) -> int:
    with gzip.open(layer) as file:
        return file.seek(0, os.SEEK_END)


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The image's files."""
    container = buildah("from", "--pull=false", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)
