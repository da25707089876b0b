#!/bin/bash
# Runs the C tests and examples under valgrind: no invalid access, no leak.
#
# MCANDLE_TEST_LIGHT leaves out what is slow and tests no further code.
set -eu
cd "$(dirname "$0")/.."

# Scheduling is fair, so that a thread which cancels another gets its turn. Blocks that thread pools
# keep until the end of the process stay reachable and are no errors.
export MCANDLE_TEST_RUNNER="valgrind -q --fair-sched=try --error-exitcode=99 --leak-check=full \
    --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect"
export MCANDLE_TEST_LIGHT=1
# Valgrind runs one thread at a time.
export RAYON_NUM_THREADS=1

# Those that are not here run with sanitizers only, which take a tenth of the time.
cargo test --test c_api -- --exact errors nulls generate batch adapters chat dataset formats train complete
