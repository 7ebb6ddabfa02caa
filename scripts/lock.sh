#!/usr/bin/env bash
# Writes the lock files anew from pyproject.toml: scripts/lock.sh (needs uv)
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  # setuptools builds the project itself; new environments do not always have it.
  echo "setuptools" | uv pip compile pyproject.toml - --universal --python-version 3.11 --generate-hashes \
    --no-header --quiet "$@" >/dev/null
}
compile --output-file requirements.lock
compile --extra test --output-file requirements-test.lock
