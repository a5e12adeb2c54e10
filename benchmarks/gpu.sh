#!/usr/bin/env bash
# All that needs a GPU, on a machine without a network that has Python 3.12 and torch 2.11 only, in under nine minutes:
#
#   benchmarks/gpu.sh pack DIR [NAME ...]     here: the wheels that it lacks, into DIR; NAMEs are there already
#   benchmarks/gpu.sh run DIR [PHOTOGRAPHS]   there: the tests, the benchmarks and, with a tar archive of an image folder
#                                             (train/CLASS/*, test/CLASS/*), a sweep on it; tables for RESULTS.md
#
# Without a GPU `run` does the same on the processor, for rehearsal: the tests are skipped there.
set -euo pipefail
cd "$(dirname "$0")/.."

pack() {
    local into=$1 have="torch torchvision triton setuptools"
    shift
    have="$have $*"
    mkdir -p "$into"
    printf 'torch==2.11.0\ntorchvision==0.26.0\n' > "$into/constraints.txt"
    printf 'pytest\npytest-xdist\nhypothesis\npsutil\n' |
        uv --no-config pip compile -q --no-header --no-annotate --python-version 3.12 \
            --constraint "$into/constraints.txt" pyproject.toml - |
        while read -r each; do
            name=${each%%==*}
            case " $have " in *" $name "*) continue ;; esac
            case $name in nvidia-* | cuda-*) continue ;; esac
            python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
                --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
                --platform manylinux2014_x86_64 -d "$into" "$each" 2> /dev/null ||
                python3 -m pip wheel -q --no-deps -w "$into" "$each"  # antlr4 has no wheel
        done
    du -sh "$into"
}

part() {  # part SECONDS TITLE COMMAND...: what fails, or takes longer, costs itself only
    local limit=$1 title=$2
    shift 2
    printf '\n## %s\n\n' "$title"
    timeout -s INT "$limit" "$@" || echo "(ended with status $?)"
}

run() {
    local wheels=$1 photographs=${2:-}
    work=$(mktemp -d)  # not local: the trap reads it
    trap 'rm -rf "$work"' EXIT
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$wheels"/*.whl
    export PYTHONPATH=$work/site:$PWD PYTHONUNBUFFERED=1
    nvidia-smi -L 2> /dev/null || echo "no GPU: a rehearsal"
    part 150 Tests python3 -m pytest -o addopts= -q -n 8 -p no:benchmark -p no:cacheprovider tests/test_cuda.py \
        tests/data/test_batches.py
    part 90 "Training loops" python3 -m benchmarks.train_step --rounds 2 --workers "$((($(nproc) + 1) / 2))" \
        --arch resnet20 resnet56 vgg16
    part 20 "Batches" python3 -m benchmarks.data --images 10000 --rounds 3 --workers "$((($(nproc) + 1) / 2))"
    part 20 "Masks" python3 -m benchmarks.masking --arch resnet20 --steps 50 --rounds 3
    part 20 "Evaluation" python3 -m benchmarks.evaluate --arch resnet20 --images 10000 --rounds 3
    part 50 "Several processes, taking turns" python3 -m benchmarks.sharing
    if command -v nvidia-cuda-mps-control > /dev/null; then
        export CUDA_MPS_PIPE_DIRECTORY=$work CUDA_MPS_LOG_DIRECTORY=$work
        nvidia-cuda-mps-control -d
        trap 'echo quit | nvidia-cuda-mps-control; rm -rf "$work"' EXIT
        part 50 "Several processes, with the multi-process service" python3 -m benchmarks.sharing
    fi
    if [ -n "$photographs" ]; then
        mkdir "$work/photographs"
        tar -xf "$photographs" -C "$work/photographs"
        part 130 "A sweep" python3 main.py -m dataset=image_folder "dataset.root=$work/photographs" arch=resnet20 \
            train.epochs=10 train.batch_size=256 train.lr=0.2 finetune.epochs=3 finetune.batch_size=256 finetune.lr=0.05 \
            prune.percent=0.5,0.8,0.9,0.95 seed=0,1,2 hydra.launcher.per_device=4 "env.runs=$work/runs" \
            "env.data=$work/data" env.wandb.mode=disabled
    fi
}

case ${1:-} in
    pack | run) "$@" ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
