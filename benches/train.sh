#!/usr/bin/env bash
# How long an epoch of the first run's training takes, and how much memory it needs. Give two programs to compare them in turn:
#   benches/train.sh [PROGRAM [OTHER]]
# Each round trains 1 and 3 epochs from scratch; half the difference is an epoch without start-up. The median of three rounds is shown.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=("${1:-target/release/voxpipe}")
[ $# -lt 2 ] || programs+=("$2")
project=$(mktemp -d)
trap 'rm -rf "$project"' EXIT
cp -r pipelines datasets "$project/"

seconds() { # PROGRAM EPOCHS: wall seconds, processor seconds and peak KiB of one training
  rm -rf "$project/.voxpipe/keys" "$project/.voxpipe/work"
  (cd "$project" && /usr/bin/env time -f '%e %U %M' -o "$project/time" "$OLDPWD/$1" run pipelines/first-run.toml --set epochs="$2" --set stage.scores.with.max_new_tokens=1 >/dev/null 2>&1)
  cat "$project/time"
}

for round in 1 2 3; do
  for program in "${programs[@]}"; do
    read -r wall1 cpu1 _ < <(seconds "$program" 1)
    read -r wall3 cpu3 peak < <(seconds "$program" 3)
    echo "$program $(echo "($wall3-$wall1)/2 ($cpu3-$cpu1)/2 $peak" | awk '{gsub(/[()]/,""); split($1,a,/[-\/]/); split($2,b,/[-\/]/); printf "%.2f %.2f %d", (a[1]-a[2])/2, (b[1]-b[2])/2, $3}')"
  done
done | sort -k1,1 -k2,2n | awk '{n[$1]++; row[$1, n[$1]]=$0} END {for (p in n) {split(row[p, 2], f, " "); printf "%s: %.2f s an epoch, %.2f s of processor time, peak %d MiB\n", p, f[2], f[3], f[4]/1024}}'
