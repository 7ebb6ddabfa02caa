# Makes .venv beside this folder from a lock file, once for each lock: source scripts/setup_env.sh <lock file>
# PYTHON names the interpreter that the environment is made with, 3.11 or newer.
lock=$1
python=${PYTHON:-python3}
if [ ! -x .venv/bin/python ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) found; expected Python 3.11 or newer; set PYTHON to one" >&2
    exit 2
  }
  "$python" -m venv .venv
fi
stamp=.venv/$(basename "$lock").$(cksum <"$lock" | tr ' ' '-')
if [ ! -e "$stamp" ]; then
  echo "installing from $lock into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  touch "$stamp"
fi
