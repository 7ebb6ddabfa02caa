#!/usr/bin/env bash
# From nothing to maps and a report on drawn scenes, on a CPU, in minutes: scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_env.sh requirements.lock
run=runs/quickstart
if [ -e $run/maps/.done ]; then
  echo "done already; to run it again: rm -r $run"
else
  .venv/bin/python scripts/prepare_data.py --dataset=synthetic_v1 --data_dir=data --images_dir=data/images
  .venv/bin/python scripts/train.py --config=configs/quickstart.py --workdir=$run
  .venv/bin/python scripts/evaluate.py --workdir=$run --split=test --baselines
  .venv/bin/python scripts/predict.py --workdir=$run --input=data/images/unlabelled --output=$run/maps --overwrite
  touch $run/maps/.done
fi
cat <<TEXT

report:  $run/report/report.html  (scores beside the baselines, maps of the scored tiles, curves)
maps:    $run/maps/               (class ids, colours and overlay of each unlabelled tile)
run:     $run/                    (checkpoints, metrics.jsonl, tensorboard/, config.json)
next, with fewer points:
  .venv/bin/python scripts/train.py --config=configs/quickstart.py --config.points.budget=2 --workdir=runs/two_points
next, on DeepGlobe's tiles: README.md, "On real tiles"
TEXT
