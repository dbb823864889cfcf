#!/usr/bin/env bash
# The compose file on a real engine, from outside: up, a training, curl, a killed store, down. Needs docker compose, curl
# and an installed `mild` (MILD=.venv/bin/mild by default).
set -euo pipefail
cd "$(dirname "$0")/.."
mild=${MILD:-.venv/bin/mild}
export MILD_PUBLISH=127.0.0.1:18000 # not the port of a service that may be in use
url=http://$MILD_PUBLISH
compose=(docker compose --project-name mild-smoke)
out=$(mktemp -d)
trap '"${compose[@]}" down --volumes --remove-orphans >/dev/null 2>&1; rm -rf "$out"' EXIT

"${compose[@]}" up --build --wait --quiet-pull >"$out/up.log" 2>&1 || { cat "$out/up.log"; exit 1; }
"$mild" train --url "$url" --run-id smoke --dataset digits --noise symmetric:0.4 --epochs 8 --rounds 1 --out "$out/train" \
  >"$out/train.log" || { cat "$out/train.log"; exit 1; }

before=$(curl --fail --silent --show-error "$url/selection/smoke")
echo "$before" | grep --quiet '"num_selected":'
# What was acknowledged outlives the store's sudden death.
"${compose[@]}" kill --signal KILL store >/dev/null 2>&1
"${compose[@]}" up --wait >/dev/null 2>&1
after=$(curl --fail --silent --show-error --retry 20 --retry-all-errors --retry-delay 1 "$url/selection/smoke")
[ "$before" = "$after" ] || { echo "the selection changed over a restart of the store"; exit 1; }

docker image inspect mild-service --format '{{.Size}}' | awk '{printf "compose: a training through it, the set the same after a killed store; image %.0f MB\n", $1 / 1e6}'
