#!/usr/bin/env bash
# Measures time per epoch and peak memory of the training in first-run.toml. Pass two programs to compare them:
#   benches/train.sh [PROGRAM [OTHER]]
# Each of three rounds trains 1 and then 3 epochs from scratch with each program; half the difference is one epoch without start-up.
# Prints medians over the rounds: wall and CPU seconds per epoch, and the peak memory of the whole run.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=()
for program in "${@:-target/release/voxpipe}"; do programs+=("$(realpath "$program")"); done
command -v python3 >/dev/null || { echo "missing: python3, for its timing of child processes" >&2; exit 4; }
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
cp -r pipelines datasets "$project/"
cd "$project"
python3 - "${programs[@]}" <<'PY'
import os, resource, shutil, statistics, subprocess, sys, time

def trained(program, epochs):
    for folder in ("keys", "work"):
        shutil.rmtree(os.path.join(".voxpipe", folder), ignore_errors=True)
    command = [program, "run", "pipelines/first-run.toml", "--set", f"epochs={epochs}", "--set", "stage.scores.with.max_new_tokens=1"]
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with status {status}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss

rounds = {program: [] for program in sys.argv[1:]}
for _ in range(3):
    for program in rounds:
        one, three = trained(program, 1), trained(program, 3)
        rounds[program].append(((three[0] - one[0]) / 2, (three[1] - one[1]) / 2, three[2] / 1024))
for program, rows in rounds.items():
    wall, cpu, peak = (statistics.median(column) for column in zip(*rows))
    print(f"{program}: {wall:.2f} s an epoch, {cpu:.2f} s of processor time, peak {peak:.0f} MiB")
PY
