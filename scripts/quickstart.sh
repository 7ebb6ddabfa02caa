#!/usr/bin/env bash
# From nothing to a map and a report on drawn scenes, on a CPU, in minutes: scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_env.sh requirements.lock
run=runs/quickstart
if [ -e "$run/maps/.done" ]; then
  echo "done already; delete $run to run it again"
else
  .venv/bin/python scripts/prepare_data.py --dataset=synthetic_v1 --data_dir=data
  .venv/bin/python scripts/train.py --config=configs/quickstart.py --workdir=$run
  .venv/bin/python scripts/evaluate.py --workdir=$run --split=test --baselines
  .venv/bin/python scripts/predict.py --workdir=$run --input=$run/images --output=$run/maps
  touch $run/maps/.done
fi
