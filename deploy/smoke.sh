#!/usr/bin/env bash
# The compose file on a real engine, from outside: up, a training in the trainer's container, prediction logs by curl, a
# killed store, down. Needs docker compose, curl, and to compare what comes a Python with numpy and pyarrow
# (PYTHON=.venv/bin/python by default). Prints what took how long.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
most_bytes=600000000 # of the service's image, unpacked
export MILD_PUBLISH=127.0.0.1:18000 # not the port of a service that may be in use
url=http://$MILD_PUBLISH
compose=(docker compose --project-name mild-smoke)
out=$(mktemp -d)
export TRAINER_RUNS=$out/runs
trap '"${compose[@]}" down --volumes --remove-orphans >/dev/null 2>&1; rm -rf "$out"' EXIT
ask() { curl --fail-with-body --silent --show-error "$@"; }
took() { printf 'compose: %-60s %3d s\n' "$1" $((SECONDS - began)); began=$SECONDS; }
began=$SECONDS

"${compose[@]}" build --quiet >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
took "the service's image is built"
"${compose[@]}" up --wait --quiet-pull >"$out/up.log" 2>&1 || { cat "$out/up.log"; exit 1; }
took "service and store are up and healthy"
if "${compose[@]}" config --services | grep --quiet '^trainer$'; then
  echo "the trainer is part of \`docker compose up\`; it belongs to a profile of its own"
  exit 1
fi

# From noisy labels to a clean set on the host, by containers alone.
"${compose[@]}" build --quiet trainer >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
took "the trainer's image is built"
train() { # digits of which 40% of the labels are redrawn, for one round; more arguments of `mild train`
  "${compose[@]}" run --rm --no-TTY trainer train --dataset digits --noise symmetric:0.4 --rounds 1 "$@" \
    >"$out/train.log" 2>&1 || { cat "$out/train.log"; exit 1; }
}
mkdir "$TRAINER_RUNS"
[ "$(id -u)" != 0 ] || chown 1234:1234 "$TRAINER_RUNS" # as the folder of an ordinary user
owner=$(stat --format %u "$TRAINER_RUNS")
train --run-id smoke --epochs 8 --out runs/digits
tail -n 1 "$out/train.log" | grep --quiet 'runs/digits/clean.npy' || { cat "$out/train.log"; exit 1; }
[ "$(stat --format %u "$TRAINER_RUNS/digits/clean.npy")" = "$owner" ] || {
  echo "clean.npy does not belong to user $owner, to whom the folder belongs"
  exit 1
}
before=$(ask "$url/selection/smoke")
echo "$before" | grep --quiet '"num_selected":'
ask "$url/selection/smoke" -H 'Accept: application/x-npy' --output "$out/selection.npy"
"$python" - "$TRAINER_RUNS/digits/clean.npy" "$out/selection.npy" <<'P'
import sys

import numpy as np

clean, selection = (np.load(path) for path in sys.argv[1:])
n_samples = 1437  # for training; 64% have a right label
if clean.dtype != np.int64 or np.any(np.diff(clean) <= 0) or clean[0] < 0 or clean[-1] >= n_samples:
    sys.exit(f"clean.npy holds no ascending indices below {n_samples}: {clean}")
if not 0.5 * n_samples < clean.size < 0.75 * n_samples:
    sys.exit(f"clean.npy holds {clean.size} of {n_samples} samples, of which 64% have a right label")
if not np.array_equal(clean, selection):
    sys.exit("clean.npy holds another set than GET /selection/smoke")
P
took "a training in a container left its clean set on the host"
if [ "$(id -u)" = 0 ]; then # a folder that is missing, which the engine makes and root owns
  TRAINER_RUNS=$out/missing train --run-id missing --epochs 1 --limit 100 --out runs/digits
  owner=$(stat --format %u "$out/missing/digits/clean.npy")
  [ "$owner" != 0 ] || { echo "the trainer wrote clean.npy as root"; exit 1; }
  took "another one left it in a folder that the engine made"
fi

ask "$url/ui/runs/smoke" >"$out/page.html"
asset=$(grep --only-matching --max-count 1 '/ui/static/[^"]*\.css' "$out/page.html" | head -n 1)
ask "$url$asset" >/dev/null
took "the dashboard shows it, style included"

# A log as an external pipeline sends it, as lines and, with room on the disk that is mounted for it, as CSV through zstd.
ask -X PUT "$url/runs/log" -H 'Content-Type: application/json' -d '{"num_samples": 200}' >/dev/null
for epoch in 0 1 2 3 4 5 6 7 8 9; do
  for sample in $(seq 0 199); do
    correct=true
    [ $((sample % 5)) -ne 0 ] && [ "$epoch" -ge $((sample % 4)) ] || correct=false
    echo "{\"epoch\": $epoch, \"sample\": $sample, \"correct\": $correct}"
  done
done >"$out/log.ndjson"
ask "$url/runs/log/predictions?complete=true" -H 'Content-Type: application/x-ndjson' --data-binary "@$out/log.ndjson" >/dev/null
ask -X POST "$url/runs/log/rounds/0/finish" >/dev/null
kept=$(ask "$url/selection/log" -H 'Accept: text/csv' | tail -n +2 | wc -l)
[ "$kept" -eq 160 ] || { echo "the log's set holds $kept samples, 160 of 200 are right"; exit 1; }
"$python" - "$out/log.ndjson" "$out/log.parquet" <<'P'
import sys

import pyarrow.json
from pyarrow import parquet

parquet.write_table(pyarrow.json.read_json(sys.argv[1]), sys.argv[2])
P
ask -X POST "$url/selection?num_samples=200" -H 'Content-Type: application/vnd.apache.parquet' \
  --data-binary "@$out/log.parquet" >"$out/parquet.json" || { cat "$out/parquet.json"; exit 1; }
grep --quiet '"num_selected":160' "$out/parquet.json"
took "a log by curl, and the same as Parquet, gave their sets"

# What was acknowledged outlives the store's sudden death.
"${compose[@]}" kill --signal KILL store >/dev/null 2>&1
"${compose[@]}" up --wait >/dev/null 2>&1
after=$(ask --retry 20 --retry-all-errors --retry-delay 1 "$url/selection/smoke")
[ "$before" = "$after" ] || { echo "the selection changed over a restart of the store"; exit 1; }
took "the store was killed and came back with the same set"

# It complains (1) that nobody has to log in, which is so behind 127.0.0.1; 2 is that it could not look.
"${compose[@]}" exec -T service mild-service doctor >"$out/doctor.log" 2>&1 || [ $? -eq 1 ] || { cat "$out/doctor.log"; exit 1; }
took "the doctor looked at the store"
"${compose[@]}" stop service >/dev/null 2>&1
[ "$(docker inspect --format '{{.State.ExitCode}}' mild-smoke-service-1)" = 0 ] || { echo "the service did not stop in order"; exit 1; }
took "the service stopped in order"

size() { docker image inspect "$1" --format '{{.Size}}'; }
awk -v service="$(size mild-service)" -v trainer="$(size mild-trainer)" \
  'BEGIN {printf "compose: unpacked, the image of the service has %.0f MB, that of the trainer %.0f MB\n", service / 1e6, trainer / 1e6}'
[ "$(size mild-service)" -le $most_bytes ] || {
  echo "the service's image has $(size mild-service) bytes, at most $most_bytes are asked for"
  exit 1
}
