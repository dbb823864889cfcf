#!/usr/bin/env bash
# The compose file on a real engine, from outside: up, a training, prediction logs by curl, a killed store, down. Needs
# docker compose, curl and an installed `mild` (MILD=.venv/bin/mild by default). Prints what took how long.
set -euo pipefail
cd "$(dirname "$0")/.."
mild=${MILD:-.venv/bin/mild}
most_bytes=600000000 # of the image, unpacked
export MILD_PUBLISH=127.0.0.1:18000 # not the port of a service that may be in use
url=http://$MILD_PUBLISH
compose=(docker compose --project-name mild-smoke)
out=$(mktemp -d)
trap '"${compose[@]}" down --volumes --remove-orphans >/dev/null 2>&1; rm -rf "$out"' EXIT
ask() { curl --fail-with-body --silent --show-error "$@"; }
took() { printf 'compose: %-60s %3d s\n' "$1" $((SECONDS - began)); began=$SECONDS; }
began=$SECONDS

"${compose[@]}" build --quiet >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
took "the image is built"
"${compose[@]}" up --wait --quiet-pull >"$out/up.log" 2>&1 || { cat "$out/up.log"; exit 1; }
took "service and store are up and healthy"
"$mild" train --url "$url" --run-id smoke --dataset digits --noise symmetric:0.4 --epochs 8 --rounds 1 --out "$out/train" \
  >"$out/train.log" || { cat "$out/train.log"; exit 1; }
before=$(ask "$url/selection/smoke")
echo "$before" | grep --quiet '"num_selected":'
took "a training streamed its epochs and used the set"

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
"$(dirname "$mild")/python" - "$out/log.ndjson" "$out/log.parquet" <<'P'
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

size=$(docker image inspect mild-service --format '{{.Size}}')
awk -v size="$size" 'BEGIN {printf "compose: the image has %.0f MB unpacked\n", size / 1e6}'
[ "$size" -le $most_bytes ] || { echo "the image has $size bytes, at most $most_bytes are asked for"; exit 1; }
