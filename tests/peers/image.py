"""The container image, built for real where no image registry is in reach.

The base image that the Containerfile names is a Debian of this system's own release with Python,
unpacked by debootstrap and committed under that name. All that buildah keeps lies in one folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from peers.debian import program
from peers.venvs import ROOT, VENVS, exclusive, run

BASE: Final = re.findall(r"(?m)^FROM (\S+)", (ROOT / "deploy/container/Containerfile").read_text())[
    0
]
NAME: Final = "localhost/tensorgate:test"
USER: Final = 65532
PACKAGES: Final = "python3,python3-venv,ca-certificates"
# Of the base, what only costs: each step of a build copies all of it.
UNNEEDED: Final = (
    *("debootstrap", "var/cache/apt", "var/lib/apt/lists"),
    *("usr/share/doc", "usr/share/locale", "usr/share/man"),
)


class Image:
    """Builds, and runs what was built. What buildah keeps is kept, for the next time."""

    def __init__(self) -> None:
        self._folder = VENVS / "image"
        self._buildah = program("buildah")
        self._env = os.environ | {
            "STORAGE_DRIVER": "vfs",
            "BUILDAH_ISOLATION": "chroot",
            "HOME": str(self._folder),
        }

    def build(self) -> None:
        """Build the Containerfile as it lies, from the project as it lies, unless that was done."""
        done = self._folder / "built-from"
        with exclusive("image"):
            wanted = _inputs()
            if not done.exists() or done.read_text() != wanted:
                self._clear()
                self._folder.mkdir()
                self._build()
                done.write_text(wanted)

    def _clear(self) -> None:
        """Take away what an earlier time left. A run that was killed has left it mounted."""
        mounted = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed(mounted):  # the innermost was mounted last
            if self._folder in place.parents:
                run("umount", str(place))
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _build(self) -> None:
        base = self("from", "scratch").strip()
        self("add", "--quiet", base, str(_debian()), "/")
        self("commit", "--quiet", base, BASE)
        self("rm", base)
        arguments = ["--pull-never", "--tag", NAME, "--file", "deploy/container/Containerfile"]
        for trusted in ("/etc/ssl/certs", "/etc/pip.conf"):  # how this machine reaches packages
            if Path(trusted).exists():
                arguments += ["--volume", f"{trusted}:{trusted}:ro"]
        self("build", *arguments, str(ROOT))

    def container(self) -> str:
        """A container of the image, by its name."""
        return self("from", "--pull-never", NAME).strip()

    def mount(self, container: str) -> Path:
        """Where its files can be seen."""
        return Path(self("mount", container).strip())

    def run_argv(
        self,
        container: str,
        *words: str,
        volumes: Mapping[Path, str] | None = None,
        env: Mapping[str, str] | None = None,
        user: int = USER,
    ) -> list[str]:
        """The command line that runs the image's entrypoint with some words, as its own user."""
        told = ("tensorgate", *words)
        return self.run_words(container, told, volumes or {}, env or {}, f"{user}:{user}")

    def run_words(
        self,
        container: str,
        words: Sequence[str],
        volumes: Mapping[Path, str],
        env: Mapping[str, str],
        user: str,
    ) -> list[str]:
        """The command line that runs any program in a container."""
        options = [f"--volume={host}:{inside}" for host, inside in volumes.items()]
        options += [f"--env={name}={value}" for name, value in env.items()]
        if user != f"{USER}:{USER}":  # the image's own folder is for its own user
            options.append("--workingdir=/")
        return [*self._argv(), "run", f"--user={user}", *options, container, "--", *words]

    @property
    def env(self) -> Mapping[str, str]:
        """What buildah has to be run with."""
        return self._env

    def __call__(self, *words: str) -> str:
        """What one command of buildah's prints; RuntimeError with what it says where it fails."""
        done = subprocess.run(
            [*self._argv(), *words],
            env=self._env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"buildah {words[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def _argv(self) -> list[str]:
        return [
            self._buildah,
            f"--root={self._folder / 'storage'}",
            f"--runroot={self._folder / 'run'}",
        ]


def _inputs() -> str:
    """A digest of all that goes into the image."""
    digest = hashlib.sha256()
    for name in (
        *("pyproject.toml", "README.md", "LICENSE", "catalog.yaml"),
        *("store", "authz", "admin", "tensorgate", "deploy/lua", "deploy/container"),
    ):
        path = ROOT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _debian() -> Path:
    """A minimal Debian with Python; made once, from where this system's own packages come."""
    tree = VENVS / "debian-tree"
    with exclusive("debian-tree"):
        if not (tree / "made").exists():
            shutil.rmtree(tree, ignore_errors=True)
            tree.mkdir(parents=True)
            root = tree / "root"
            # what it unpacks and fetches is enough: nothing of it is ever configured or booted
            argv = (
                *(program("debootstrap"), "--foreign", "--variant=minbase"),
                *(f"--include={PACKAGES}", _release(), str(root), _mirror()),
            )
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"debootstrap failed:\n{(done.stdout + done.stderr)[-4000:]}")
            required = (root / "debootstrap/required").read_text().split()
            for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
                if package.name.partition("_")[0] not in required:  # those are unpacked already
                    _unpack(package, root)
            for unneeded in UNNEEDED:
                shutil.rmtree(root / unneeded, ignore_errors=True)
            if (root / "proc").is_symlink():  # to the machine's own, while it is a container
                (root / "proc").unlink()
                (root / "proc").mkdir()
            for name, place in (("run", "/run"), ("lock", "/run/lock")):  # as base-files sets it up
                if not (root / "var" / name).is_symlink():
                    shutil.rmtree(root / "var" / name, ignore_errors=True)
                    (root / "var" / name).symlink_to(place)
            (tree / "made").touch()
    return tree / "root"


def _unpack(package: Path, root: Path) -> None:
    """The files of a package. `/lib` stays the link that it is, which `dpkg-deb -x` makes anew."""
    files = subprocess.run(("dpkg-deb", "--fsys-tarfile", package), capture_output=True, check=True)
    argv = ("tar", "--extract", "--keep-directory-symlink", "--directory", root)
    subprocess.run(argv, input=files.stdout, capture_output=True, check=True)


def _release() -> str:
    fields = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    return fields["VERSION_CODENAME"].strip('"')


def _mirror() -> str:
    """Where the system's own base comes from: other sources may have packages of others."""
    argv = ("apt-cache", "policy", "base-files")
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"(?m)^\s+\d+ (\S+:\S+) {re.escape(_release())}/main\b", said)
    if found is None:
        raise RuntimeError("No source of this system's own packages is configured here.")
    return found[1]
