"""Configs of runs, for scripts/train.py --config=configs/<name>.py[:variant]."""
