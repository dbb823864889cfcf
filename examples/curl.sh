#!/bin/sh
# A run with nothing but curl: one round of eight epochs of bits for 16 samples, as any language could send them.
# Start a service first (mild-service serve --embedded), then: sh examples/curl.sh [URL]
set -eu

url=${1:-http://127.0.0.1:8000}
run=curl-$$

# curl fails on any refusal; the service's own words come with --fail-with-body.
send() { curl --silent --show-error --fail-with-body "$@" && echo; }

# 1. Open the run. Give every sample of the data set a fixed number, from 0 on.
send -X PUT "$url/runs/$run" -H 'Content-Type: application/json' -d '{"num_samples": 16, "pass": "train"}'

# 2. After every epoch: one bit a sample, most significant bit first; set where the model predicted the given label.
#    Here samples 0 to 11 are learned (1111 1111 1111 = ff f0) and 12 to 15 never are.
epoch=0
for bits in '\360\300' '\375\340' '\377\340' '\377\360' '\377\340' '\377\360' '\377\360' '\377\360'; do
  printf "$bits" | send -X PUT "$url/runs/$run/rounds/0/epochs/$epoch" \
    -H 'Content-Type: application/octet-stream' --data-binary @-
  epoch=$((epoch + 1))
done

# 3. Finish the round, and fetch the clean set: as JSON with a verdict, or as a bitmap with Accept.
send -X POST "$url/runs/$run/rounds/0/finish"
send "$url/selection/$run?threshold=fraction&fraction=0.75"
