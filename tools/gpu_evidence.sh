#!/usr/bin/env bash
# Measure what README quotes, on a machine with a GPU and without Ray, in about ten minutes:
#
#     tools/gpu_evidence.sh [FOLDER]          (default: results/published)
#
# The tests that need a GPU; a profile of every method at 100, 1,000 and 10,000 classes with eager steps and from
# CUDA graphs; peak memory; the training step against hand-written loops. Records and tables go to FOLDER.
# DEVICE, NETWORK, METHODS and SECONDS_EACH (of a profile's rounds) may be set in the environment.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-results/published}
device=${DEVICE:-cuda}
network=${NETWORK:-resnet18}
methods=${METHODS:-all}
seconds=${SECONDS_EACH:-35}
python=${PYTHON:-python}
tables="$folder/tables"
failed=0

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch sees no GPU here; see: sdbench doctor" >&2
    exit 3
fi
mkdir -p "$tables"

step() {  # step NAME COMMAND...: its output goes to tables/NAME, and a failure does not stop the rest
    local name=$1
    shift
    echo "== $name: $*" >&2
    "$@" > "$tables/$name" || { echo "failed with $?: $name" >&2; failed=1; }
}

"$python" -m sdbench doctor --json > "$tables/doctor.json" || true
if [ "$device" = cuda ]; then
    step tests.txt "$python" -m pytest -q -m gpu -p no:cacheprovider
fi
common=(--methods "$methods" --model "$network" --precision bf16 --batch-size 128 --device "$device"
        --rounds 60 --max-seconds "$seconds" --results "$folder")
step profile-100.txt "$python" -m sdbench profile "${common[@]}"
step profile-100-eager.txt "$python" -m sdbench profile "${common[@]}" --compile off --no-memory
step classes.txt "$python" -m sdbench profile "${common[@]}" --sweep classes=1000,10000 --no-memory
step classes-eager.txt "$python" -m sdbench profile "${common[@]}" --sweep classes=1000,10000 --compile off --no-memory
step throughput.txt "$python" benchmarks/step.py --network "$network" --device "$device" --json "$tables/throughput-eager.json"
if [ "$device" = cuda ]; then
    step throughput-graph.txt "$python" benchmarks/step.py --network "$network" --device cuda --step graph \
        --json "$tables/throughput-graph.json"
fi
step claims.md "$python" -m sdbench claims --no-measure --model "$network" --format md --results "$folder"
exit "$failed"
