#!/usr/bin/env bash
# What a machine with a GPU must show: agreement with its CPU in float64 first, then timings. Builds and installs nothing.
#   scripts/gpu.sh OUT.json [options of scripts/gpu_checks.py]       ends within 8 minutes
# On a CPU, for a dry run: scripts/gpu.sh OUT.json --device cpu --toy
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:?usage: scripts/gpu.sh OUT.json [options]}"; shift
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec timeout --kill-after=10 470 "${PYTHON:-python3}" scripts/gpu_checks.py --out "$out" "$@"
