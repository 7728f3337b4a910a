#!/usr/bin/env bash
# Runs all GPU benchmarks in one go, prints a table at the end and keeps full logs in a folder:
#
#   benches/gpu.sh [--program PROGRAM] [--out FOLDER] [--device cuda:0] [--size mini-3b|middle|tiny] [--precision bf16|f32] [--batches 1,2,4,8,16]
#
# Without a GPU it benchmarks the CPU at size `tiny`, so that the script can be tested anywhere. Steps: describe the machine; check that the
# GPU computes the same results as the CPU (`voxpipe doctor`); measure peak rates (ceilings) and single operations; create a random checkpoint
# and measure whole training steps and transcription with it; repeat with torch, transformers and peft, if installed in Python
# (`VOXPIPE_PYTHON` or python3). GPU settings are not changed, and nothing is downloaded.
set -uo pipefail
cd "$(dirname "$0")/.."

program=target/release/voxpipe out="" device=auto size="" precision=bf16 batches="" patience=0.3
while [ $# -gt 0 ]; do
    case "$1" in
    --program) program=$2 ;;
    --out) out=$2 ;;
    --device) device=$2 ;;
    --size) size=$2 ;;
    --precision) precision=$2 ;;
    --batches) batches=$2 ;;
    --patience) patience=$2 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
[ -x "$program" ] || { echo "missing: $program; build it with \`cargo build --release --features cuda\`" >&2; exit 4; }
out=${out:-$(mktemp -d)}
mkdir -p "$out" || exit 4
scratch=$(mktemp -d) || exit 4
trap 'rm -rf "$scratch"' EXIT
python=${VOXPIPE_PYTHON:-python3}
failed=0

say() { printf '\n== %s\n' "$*"; }
# Runs one part and keeps its log. Continues after a failure: a failed measurement is also a result.
part() {
    local name=$1
    shift
    local start=$SECONDS
    "$@" >"$out/$name.log" 2>"$out/$name.err"
    local status=$?
    [ $status -eq 0 ] || { failed=1; echo "$name ended with status $status: $(tail -n 2 "$out/$name.err" | tr '\n' ' ')"; }
    echo "$name: $((SECONDS - start)) s" >>"$out/times.txt"
    return $status
}

say "machine"
{
    uname -srm
    grep -m1 'model name' /proc/cpuinfo
    grep MemTotal /proc/meminfo
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv 2>/dev/null || echo "no nvidia-smi"
    "$program" --version
    "$python" -c 'import torch, transformers, peft; print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)' 2>/dev/null ||
        echo "no torch, transformers and peft in $python"
} | tee "$out/machine.txt"

say "does it compute right"
part doctor "$program" doctor --device "$device"
cat "$out/doctor.log"
chosen=$(sed -n 's/^chosen *\([^ ]*\).*/\1/p' "$out/doctor.log")
[ -n "$chosen" ] || { echo "no device: $(cat "$out/doctor.err")" >&2; exit 4; }
if [ "$chosen" = cpu ]; then
    size=${size:-tiny} batches=${batches:-1,2}
else
    size=${size:-mini-3b} batches=${batches:-1,2,4,8,16}
fi
model="$scratch/model"
common=(--device "$chosen" --size "$size" --precision "$precision" --patience "$patience")

say "ceilings and operations ($size on $chosen)"
part operations "$program" bench "${common[@]}" --batches "1,${batches##*,}" --parts ceilings,operations --json && cat "$out/operations.log" >>"$out/ours.jsonl"

say "steps and transcription ($size on $chosen, $precision, batches $batches)"
part checkpoint "$program" bench --size "$size" --write "$model" &&
    part steps "$program" bench "${common[@]}" --model "$model" --batches "$batches" --parts ceilings,steps,transcription --json &&
    cat "$out/steps.log" >>"$out/ours.jsonl"

if "$python" -c 'import torch, transformers, peft' 2>/dev/null; then
    say "the same with torch, transformers and peft"
    part peer "$python" -W ignore benches/gpu_peer.py measure --device "$chosen" --model "$model" --precision "$precision" --batches "$batches" \
        --patience "$patience" --ours "$out/ours.jsonl" && cp "$out/peer.log" "$out/theirs.jsonl"
else
    echo "SKIPPED the peer: $python has not torch, transformers and peft"
fi

say "table ($(date -u +%F), $chosen, $size, $precision)"
if command -v "$python" >/dev/null; then
    "$python" benches/gpu_peer.py table "$out" | tee "$out/table.md"
else
    cat "$out/ours.jsonl"
fi
echo "logs: $out"
exit $failed
