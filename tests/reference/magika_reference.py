#!/usr/bin/env python3
"""Classifies files with Magika's own Python implementation, on ONNX Runtime.

    magika_reference.py CACHE_DIR FILE...

prints {"FILE": {"label": ..., "score": ...}, ...}. On its first run it installs the pinned package into
a virtual environment in CACHE_DIR. It fails, and says why, rather than compare with another model.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "magika==1.0.3"
# The same file that the crate `magika` 1.1.0 carries; file-classifier's build.rs pins the same digest.
MODEL = "models/standard_v3_3/model.onnx"
MODEL_SHA256 = "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
INSTALLED = "installed"  # Exists in a virtual environment whose installation was finished.
IN_ENVIRONMENT = "--in-environment"


def main(arguments):
    if arguments[:1] == [IN_ENVIRONMENT]:
        print(json.dumps(classify(arguments[1:])))
        return
    if len(arguments) < 2:
        sys.exit(__doc__)
    python = installed_python(Path(arguments[0]))
    os.execv(python, [str(python), __file__, IN_ENVIRONMENT, *arguments[1:]])


def classify(files):
    import magika

    model = Path(magika.__file__).parent / MODEL
    found = hashlib.sha256(model.read_bytes()).hexdigest()
    if found != MODEL_SHA256:
        sys.exit(f"the reference carries another model: {model} has SHA-256 {found}")
    reference = magika.Magika()
    results = {}
    for file in files:
        result = reference.identify_path(file)
        results[file] = {"label": str(result.output.label), "score": float(result.score)}
    return results


def installed_python(cache_dir):
    """The interpreter of the environment in `cache_dir`; installs it first, once, if it is not there."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    environment = cache_dir / PACKAGE.replace("==", "-")
    with open(cache_dir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (environment / INSTALLED).exists():
            shutil.rmtree(environment, ignore_errors=True)
            create_environment(environment)
            run([environment / "bin/python", "-m", "pip", "install", "--quiet", PACKAGE])
            (environment / INSTALLED).touch()
    return environment / "bin/python"


def create_environment(environment):
    """Debian splits `venv` off Python: where it is missing and we may, we install it."""
    command = [sys.executable, "-m", "venv", environment]
    if subprocess.run(command, stdout=sys.stderr).returncode == 0:
        return
    shutil.rmtree(environment, ignore_errors=True)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "python3-venv"])
        run(command)
        return
    sys.exit("python3 can't make a virtual environment: install Debian's python3-venv and run again")


def run(command):
    # Standard output belongs to the results.
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    main(sys.argv[1:])
